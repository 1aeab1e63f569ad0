"""What `--quantize` asks for: the type of weights by role."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ....diagnostics import Diagnostic, DiagnosticError
from ....diagnostics import codes as C
from ....ir.roles import LANGUAGE, OP, by_role, role_of
from .quantize import Kind, Plan

if TYPE_CHECKING:
    from ....lower.model import CompiledModel

BITS = {"int8": 8, "int4": 4}
BLOCKS = (16, 32, 64, 128, 256)
TYPES: dict[str, Kind | None] = {
    **{name: Kind(bits) for name, bits in BITS.items()},
    **{f"{name}:{block}": Kind(bits, block) for name, bits in BITS.items() for block in BLOCKS},
    "none": None,
}
LIMITS = {8: 0.1, 4: 0.6}
"""Relative error that an output of a graph with weights of so many bits may have."""


def parse(texts: Sequence[str]) -> dict[str, Kind | None]:
    """`int4`, `head=int8`, `encoder=int4:128`, `head=none` → the type by role; later ones win. Raises DiagnosticError for others."""
    return by_role(texts, "--quantize", TYPES, LANGUAGE)  # an embedding that is tied to a quantized head follows it


def planned(model: CompiledModel, texts: Sequence[str]) -> Plan:
    """Of a model. Raises DiagnosticError where nothing of it has a role that is asked for."""
    kinds = parse(texts)
    head = kinds.get("head")
    if "embedding" not in kinds and head is not None and tied(model):
        kinds["embedding"] = head
    there = {config.role or OP for config in model.graph.components.values()}
    if not there & {role for role, kind in kinds.items() if kind is not None}:
        text = f"{model.graph.name} has nothing of the roles that are to be quantized: {', '.join(kinds)}"
        raise DiagnosticError(Diagnostic(C.BAD_OPTION, text, fix=f"its roles: {', '.join(sorted(there))}; --quantize ROLE=int8"))
    return Plan({role: kind for role, kind in kinds.items() if kind is not None}, role_of(model.graph))


def tied(model: CompiledModel) -> bool:
    """Whether a weight of an embedding is one of a head too."""
    role = role_of(model.graph)
    held: dict[int, set[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        held.setdefault(id(parameter), set()).add(role(name))
    return any({"embedding", "head"} <= found for found in held.values())
