"""What `--quantize` asks for: the type of weights by role."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ....diagnostics import Diagnostic, DiagnosticError
from ....diagnostics import codes as C
from ....ir.roles import OP, ROLES, role_of
from .quantize import Kind, Plan

if TYPE_CHECKING:
    from ....lower.model import CompiledModel

LANGUAGE = ("decoder", "head")
"""What a type without a role is for: vision stays as it is. An embedding that is tied to a quantized head follows it."""
BITS = {"int8": 8, "int4": 4}
BLOCKS = (16, 32, 64, 128, 256)
OFF = "none"
LIMITS = {8: 0.1, 4: 0.6}
"""Relative error that an output of a graph with weights of so many bits may have."""


def parse(texts: Sequence[str]) -> dict[str, Kind | None]:
    """`int4`, `head=int8`, `encoder=int4:128`, `head=none` → the type by role; later ones win. Raises DiagnosticError for others."""
    found: dict[str, Kind | None] = {}
    for text in texts:
        role, equals, name = text.rpartition("=")
        kind, colon, block = name.partition(":")
        if equals and role not in ROLES:
            raise DiagnosticError(
                Diagnostic(C.BAD_OPTION, f"--quantize {text}: there is no role {role!r}", fix=f"roles: {', '.join(ROLES)}")
            )
        if kind not in (*BITS, OFF) or (colon and (kind == OFF or block not in map(str, BLOCKS))):
            fix = f"int8, int4, either with :{'|'.join(map(str, BLOCKS))} values to a scale, or {OFF}"
            raise DiagnosticError(Diagnostic(C.BAD_OPTION, f"--quantize {text}: there is no type {name!r}", fix=fix))
        made = None if kind == OFF else Kind(BITS[kind], int(block or 32))
        found |= {role: made} if equals else dict.fromkeys(LANGUAGE, made)
    return found


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
