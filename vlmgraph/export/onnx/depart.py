"""Which node of a graph departs from eager first."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from .capture import Captured
from .trace import quiet


def first_departing(found: Captured, given: tuple[torch.Tensor, ...], limit: float, folder: Path) -> str:
    """The first value of the graph that differs from that of the captured program by more than `limit`, with its node.

    Values are compared by name, one more output at a time: half of those that are left are ruled out by each run. Where none of them
    departs, what was captured is not what eager does: the first component that differs is named.
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

    low, high = 0, len(names)
    while low < high:
        middle = (low + high) // 2
        if departs(names[middle]):
            high = middle
        else:
            low = middle + 1
    if low == len(names):
        return "capture: the traced program differs from eager, at sizes it was not traced with"
    node = made[names[low]][0]
    inside = str(node.metadata_props.get("namespace", "")).split("/")[-1].split(":")[0]
    return f"{names[low]} ({node.op_type}{', in ' + inside if inside else ''})"


def values_of(found: Captured, given: tuple[torch.Tensor, ...]) -> dict[str, Any]:
    """Every value of the exported program by its name."""

    class Recorder(torch.fx.Interpreter):
        def run_node(self, n: torch.fx.Node) -> Any:
            result = super().run_node(n)
            seen[n.name] = result
            if isinstance(result, list):  # of a block that was captured by itself
                seen.update((f"{n.name}__{i}", x) for i, x in enumerate(result))
            return result

    seen: dict[str, Any] = {}
    program = found.exported
    arguments = []
    state = {**program.state_dict, **program.constants}
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
