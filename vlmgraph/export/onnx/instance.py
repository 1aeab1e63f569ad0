"""Blocks written into a graph: the nodes of a form once a call, with the weights of the call's own layer."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import onnx_ir as ir
import onnxscript
from onnx_ir.passes import common

from .repeat import DOMAIN, NAMED, Call

MODULE, BLOCK = "module.", "block."
"""What the names of parameters begin with: those of a piece, and those of a block that was captured by itself."""


SCOPES, SCOPE = "pkg.torch.onnx.name_scopes", re.compile(r"(['\"])block([.'\"])")
SYMBOL = re.compile(r"\b[su]\d+\b")


def block(values: Any, name: Any) -> Any:
    """The node that stands for a call until `place` writes the block."""
    call = NAMED[name]
    node = ir.Node(DOMAIN, "block", list(values), [ir.AttrString("name", name)], num_outputs=call.count)
    onnxscript.evaluator.default().nodes.append(node)  # type: ignore[attr-defined]
    return node.outputs


def place(graph: ir.Graph, forms: dict[str, ir.Graph]) -> None:
    """Every call in `graph` becomes the nodes of the graph that `forms` has under its name."""
    shared: dict[tuple[int, str], ir.Value] = {}
    for node in [n for n in graph if n.domain == DOMAIN]:
        call = NAMED[node.attributes["name"].as_string()]
        form = forms[call.name]
        copy = form.clone()
        weights = dict(copy.initializers)
        copy.initializers.clear()
        inside = list(copy)
        results = list(copy.outputs)
        copy.outputs.clear()
        entering = dict(zip(copy.inputs, node.inputs))
        for inner, outer in entering.items():
            assert outer is not None
            ir.convenience.replace_all_uses_with(inner, outer)
        for name, value in weights.items():
            ir.convenience.replace_all_uses_with(value, weight(graph, call, form, name, value, shared))
        sizes = renamed_dims(copy, node)
        for one in inside:
            one.name = f"{call.label}/{one.name}"
            if SCOPES in one.metadata_props:  # what tells of a node whose it is
                one.metadata_props[SCOPES] = SCOPE.sub(rf"\1{call.path}\2", one.metadata_props[SCOPES])
            for value in one.outputs:
                value.name, value.shape = f"{call.label}/{value.name}", sizes(value.shape)
        copy.remove(inside)
        graph.insert_before(node, inside)
        for old, given in zip(node.outputs, results):
            new = entering.get(given, given)  # what passes through
            assert new is not None
            if new.producer() is not None and new not in graph.outputs:
                new.name, new.shape, new.type = old.name, old.shape, old.type
            ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
        graph.remove(node, safe=True)


def renamed_dims(form: ir.Graph, node: ir.Node) -> Callable[[ir.Shape | None], ir.Shape | None]:
    """Shapes of the form in the names that its call's arguments have."""
    names: dict[str, str] = {}
    for inner, outer in zip(form.inputs, node.inputs):
        for a, b in zip(inner.shape or (), (outer.shape if outer is not None else None) or ()):
            if not isinstance(a, int):
                names.setdefault(str(a.value), str(b if isinstance(b, int) else b.value))

    def dim(size: int | ir.SymbolicDim) -> int | str | None:
        if isinstance(size, int):
            return size
        known = set(SYMBOL.findall(str(size.value))) <= names.keys()
        text = SYMBOL.sub(lambda m: f"({names[m[0]]})" if " " in names[m[0]] else names[m[0]], str(size.value)) if known else None
        return int(text) if text is not None and text.isdigit() else text

    return lambda shape: None if shape is None else ir.Shape([dim(size) for size in shape])


def weight(graph: ir.Graph, call: Call, form: ir.Graph, name: str, value: ir.Value, shared: dict[tuple[int, str], ir.Value]) -> ir.Value:
    """The initializer that a call reads under a name of its form: a parameter of its own layer, a constant with all calls of the form."""
    owned = name.startswith(BLOCK)
    full = f"{call.path}.{name.removeprefix(BLOCK)}" if owned else f"{call.path.rpartition('.')[0]}/{name}"
    key = (0, full) if owned else (id(form), name)
    if key not in shared:
        if not owned:
            while full in graph.initializers:
                full += "_"
        found = graph.initializers.get(full)
        if found is None:
            found = ir.Value(name=full, shape=value.shape, type=value.type, const_value=None if owned else value.const_value)
            graph.initializers[full] = found
        shared[key] = found
    return shared[key]


def tidy(model: ir.Model) -> None:
    """What several layers compute alike once, and nothing that nobody reads."""
    common.CommonSubexpressionEliminationPass()(model)
    common.RemoveUnusedNodesPass()(model)
    common.TopologicalSortPass()(model)
    common.RemoveUnusedOpsetsPass()(model)
