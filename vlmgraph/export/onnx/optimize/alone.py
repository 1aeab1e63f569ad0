"""How far outputs are from eager where the weights of one role alone are integers."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import onnx_ir as ir

from .quantize import Plan, candidate, quantize

if TYPE_CHECKING:
    from ..capture import Captured
    from ..verify import Row


def alone(found: Captured, plan: Plan) -> dict[str, list[Row]]:
    """A row for every output and sample by role, of a graph that is not yet quantized and has several of the roles; else nothing."""
    from ..store import Store
    from ..verify import verify

    roles = list(dict.fromkeys(r for n in found.model.graph if candidate(n) and (r := plan.role(n)) in plan.kinds))
    made: dict[str, list[Row]] = {}
    for role in roles if len(roles) > 1 else ():
        copy = ir.Model(found.model.graph.clone(), ir_version=found.model.ir_version)
        quantize(copy, replace(plan, kinds={role: plan.kinds[role]}))
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            store = Store(folder)
            store.write(copy, folder / "graph.onnx")
            store.close()
            rows = verify(replace(found, model=copy), folder / "graph.onnx", float("inf"), True)
        made[role] = [replace(row, graph=f"{row.graph}, {role} alone") for row in rows]
    return made
