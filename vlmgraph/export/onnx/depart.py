"""Which node of a graph departs from eager first."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...weights.stream import SOURCE
from .capture import Captured
from .repeat import NAMED
from .resident import present, streamed
from .segments import Segmented
from .trace import quiet

BLOCK = torch.ops.vlmgraph_export.block.default


def first_departing(found: Captured, given: tuple[torch.Tensor, ...], limit: float, folder: Path) -> str:
    """The first value of the graph that differs from that of the captured program by more than `limit`, with its node.

    Values are compared by name, one more output at a time: half of those that are left are ruled out by each run. Of a model that is
    streamed all are compared, part by part, in one run, as that reads the weights once. Where none of them departs, what was captured is
    not what eager does.
    """
    eager = values_of(found, given)
    made: dict[str, Any] = {}
    for node in found.model.graph:
        for value in node.outputs:
            if value.name in eager and isinstance(eager[value.name], torch.Tensor):
                made[value.name] = (node, value)
    names = list(made)

    def departs(name: str) -> bool:
        from .verify import distance

        ours = run_to(found, given, made[name][1], folder)
        return distance(ours, eager[name])[0] > limit

    if streamed(found.run.flat):
        first = in_parts(found, given, {name: eager[name] for name in names}, limit, folder)
    else:
        low, high = 0, len(names)
        while low < high:
            middle = (low + high) // 2
            if departs(names[middle]):
                high = middle
            else:
                low = middle + 1
        first = names[low] if low < len(names) else None
    if first is None:
        return "capture: the traced program differs from eager, at sizes it was not traced with"
    node = made[first][0]
    inside = str(node.metadata_props.get("namespace", "")).split("/")[-1].split(":")[0]
    return f"{first} ({node.op_type}{', in ' + inside if inside else ''})"


def in_parts(found: Captured, given: tuple[torch.Tensor, ...], eager: dict[str, torch.Tensor], limit: float, folder: Path) -> str | None:
    """The first value that departs, by the file of the graph that stands in `folder`."""
    from .verify import as_array, distance

    parts = Segmented(folder / f"{found.name}.onnx")
    feed = {name: as_array(x) for name, x in zip(found.run.names, given) if name in {i.name for i in parts.get_inputs()}}
    return parts.first(feed, eager, lambda name, ours: distance(ours, eager[name])[0] > limit)


class Unread:
    """A weight without storage, in the place of its numbers."""

    def __init__(self, parameter: Any) -> None:
        self.read = getattr(parameter, SOURCE)


def values_of(found: Captured, given: tuple[torch.Tensor, ...]) -> dict[str, Any]:
    """Every value of the exported program by its name."""

    class Recorder(torch.fx.Interpreter):
        """Weights that are elsewhere are read by each node that takes them, and values that are made of them alone are not kept."""

        def fetch_args_kwargs_from_env(self, n: torch.fx.Node) -> Any:
            found = super().fetch_args_kwargs_from_env(n)
            return torch.fx.node.map_aggregate(found, lambda x: x.read() if isinstance(x, Unread) else x)

        def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
            with present(NAMED[args[1]].block) if target is BLOCK else contextlib.nullcontext():
                return super().call_function(target, args, kwargs)

        def run_node(self, n: torch.fx.Node) -> Any:
            result = super().run_node(n)
            if isinstance(result, Unread) or (n.op == "call_function" and n.all_input_nodes and of_weights.issuperset(n.all_input_nodes)):
                of_weights.add(n)
                return result
            seen[n.name] = result
            if isinstance(result, list):  # of a block that was captured by itself
                seen.update((f"{n.name}__{i}", x) for i, x in enumerate(result))
            return result

    of_weights: set[torch.fx.Node] = set()
    seen: dict[str, Any] = {}
    program = found.exported
    arguments = []
    state = {**program.state_dict, **program.constants}
    state |= {name: Unread(p) for name, p in found.run.flat.named_parameters(remove_duplicate=False) if p.is_meta}
    users = iter(given)
    for spec in program.graph_signature.input_specs:
        arguments.append(state[spec.target] if spec.target in state else next(users))
    try:
        with quiet(), torch.no_grad():
            results = Recorder(program.graph_module).run(*arguments)
        seen |= dict(zip(found.run.gives, results))  # outputs go by other names in the graph
    except Exception:
        return seen  # a size that the traced program does not take: what ran until there is compared
    return seen


def run_to(found: Captured, given: tuple[torch.Tensor, ...], value: Any, folder: Path) -> np.ndarray:
    """The graph's value, as an output added to it; the graph stands in `folder` for that long, beside its weights."""
    import onnx_ir as ir

    from .verify import as_array, opened

    outputs = len(found.model.graph.outputs)
    path = folder / f".{found.name}.probe.onnx"
    found.model.graph.outputs.append(value)
    try:
        ir.save(found.model, path)
        session = opened(path)
        taken = [i.name for i in session.get_inputs()]
        feed = {name: as_array(x) for name, x in zip(found.run.names, given) if name in taken}
        made: np.ndarray = session.run([value.name], feed)[0]
        return made
    finally:
        del found.model.graph.outputs[outputs:]
        path.unlink(missing_ok=True)
