"""Program → torch.fx.GraphModule: one call_module a component, plain functions for shape steps."""

from __future__ import annotations

import operator
import re
from collections.abc import Mapping
from typing import Any

from torch import fx, nn

from ..ir.graph import CALL, FOLD, JOIN, SLICE, UNFOLD, Graph, Node
from ..passes.slice import ProgramGraph
from . import ops


def lower_program(graph: Graph, program: ProgramGraph, root: nn.Module) -> fx.GraphModule:
    """The fx form of a program over the modules of `root`, which it shares with every other program.

    Placeholders are the program's inputs by name, then `cache_<component>` for each cache; the result is a dict by output name
    (carried values among them, under `carry.<name>`).
    """
    lowered = fx.Graph()
    values: dict[str, fx.Node] = {}
    for name in program.inputs:
        values[name] = lowered.placeholder(identifier(name))
    caches = {component: lowered.placeholder(f"cache_{identifier(component)}") for component in program.cache}
    for node in program.nodes:
        if node.op == CALL:
            _lower_call(graph, node, lowered, values, caches)
        else:
            values[node.id] = _lower_step(graph, program, node, lowered, values)
    result = {name: values[value] for name, value in program.outputs.items()}
    result |= {f"carry.{name}": values[value] for name, value in program.carry.items()}
    lowered.output(result)
    lowered.lint()
    return fx.GraphModule(root, lowered, class_name=identifier(program.name).title().replace("_", ""))


def identifier(name: str) -> str:
    """A Python identifier for a value name: `vision.hidden.23[1:]` → `vision_hidden_23_1`."""
    return re.sub(r"_+", "_", re.sub(r"\W", "_", name)).strip("_") or "value"


def module_path(node: Node) -> str:
    return f"{node.component}.{node.facet}" if node.facet else node.component


def _lower_call(graph: Graph, node: Node, lowered: fx.Graph, values: dict[str, fx.Node], caches: Mapping[str, fx.Node]) -> None:
    kwargs: dict[str, Any] = {}
    for port, source in node.inputs.items():
        kwargs[port] = values[source] if isinstance(source, str) else [values[s] for s in source]
    kwargs.update({k: v for k, v in node.options.items() if k not in ("axis",)})
    if node.component in caches:
        kwargs["cache"] = caches[node.component]
    taps = tuple(int(p.partition(".")[2]) for p in node.outputs if p.startswith("hidden."))
    if taps:
        kwargs["taps"] = taps
    lazy = graph.config(node).requested
    kwargs.update(dict.fromkeys((port for port in node.outputs if port in lazy), True))
    call = lowered.create_node("call_module", module_path(node), (), kwargs, name=identifier(node.id))
    declared = graph.config(node).signature(node.facet).outputs
    if not taps and sum(port in node.outputs or port not in lazy for port in declared) == 1:
        values[node.value()] = call
        return
    default = next(iter(node.outputs))
    absent = graph.config(node).absent(frozenset(node.inputs))
    for port in node.outputs:
        if port in absent or (port == default and node.options.get("until")):
            continue
        item = lowered.create_node("call_function", operator.getitem, (call, port), {}, name=identifier(f"{node.id}_{port}"))
        values[node.value(port)] = item


def _lower_step(graph: Graph, program: ProgramGraph, node: Node, lowered: fx.Graph, values: dict[str, fx.Node]) -> fx.Node:
    x = values[node.inputs["x"]]  # type: ignore[index]
    name = identifier(node.id)
    if node.op == FOLD:
        return lowered.create_node("call_method", "flatten", (x, 0, node.options["count"] - 1), {}, name=name)
    if node.op == JOIN:
        return lowered.create_node("call_method", "flatten", (x, 1, node.options["count"]), {}, name=name)
    if node.op == UNFOLD:
        return lowered.create_node("call_function", ops.unfold_like, (x, values[node.inputs["like"]], node.options["count"]), {}, name=name)  # type: ignore[index]
    if node.op == SLICE:
        axis = node.options["axis"]
        if "index" in node.options:
            return lowered.create_node("call_method", "select", (x, axis, node.options["index"]), {}, name=name)
        start, stop = (_bound(b, program, lowered, values) for b in (node.options.get("start"), node.options.get("stop")))
        return lowered.create_node("call_function", ops.slice_tokens, (x, axis, start, stop), {}, name=name)
    raise AssertionError(node.op)


def _bound(bound: Any, program: ProgramGraph, lowered: fx.Graph, values: Mapping[str, fx.Node]) -> Any:
    """A slice bound that is a dim's name is read off the first input that has the dim."""
    if not isinstance(bound, str):
        return bound
    for name, type_ in program.inputs.items():
        for axis, dim in enumerate(type_.dims):
            if str(dim) == bound:
                return lowered.create_node("call_method", "size", (values[name], axis), {})
    raise KeyError(f"no input has the dim {bound!r}")
