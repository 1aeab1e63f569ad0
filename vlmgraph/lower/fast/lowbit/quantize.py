"""A model's linear maps made low-bit in place, by the roles of its components."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ....diagnostics import Diagnostic, DiagnosticError
from ....diagnostics import codes as C
from ....ir.roles import role_of
from ....nn.mla import LatentAttention
from ....nn.moe import MixtureOfExperts, StackedExperts
from .choice import BITS, Choice, chosen
from .modules import LowBitEmbedding, LowBitExperts, LowBitLinear, Packed, RowLinear
from .pack import CHUNK, packed

if TYPE_CHECKING:
    from ...model import CompiledModel

KEPT: dict[type[nn.Module], dict[str, str]] = {
    MixtureOfExperts: {"router": "which experts a token gets hangs on small differences"},
    LatentAttention: {"kv_b": "its halves enter other products than its own"},
}
"""Maps that stay as they are, and why."""
FORWARDS: set[Callable[..., Any]] = {nn.Linear.forward, RowLinear.forward, nn.Embedding.forward, StackedExperts.forward}
"""What may be replaced: a module with another forward does more than its product."""


@dataclass
class Part:
    """What was made of one role's maps."""

    kind: str
    maps: int = 0
    weights: int = 0
    before: int = 0
    """Bytes."""
    after: int = 0
    error: float = 0.0
    """Of the weights, relative: norm of the difference over the norm."""
    squares: tuple[float, float] = (0.0, 0.0)

    def json(self) -> dict[str, Any]:
        return {"type": self.kind, "maps": self.maps, "weights": self.weights, "bytes": [self.before, self.after], "error": self.error}

    @classmethod
    def of(cls, row: dict[str, Any]) -> Part:
        return cls(row["type"], row["maps"], row["weights"], row["bytes"][0], row["bytes"][1], row["error"])

    def add(self, difference: Tensor, weight: Tensor) -> None:
        self.squares = (self.squares[0] + float(difference.square().sum()), self.squares[1] + float(weight.square().sum()))
        self.error = (self.squares[0] / self.squares[1]) ** 0.5 if self.squares[1] else 0.0


@dataclass
class Quantization:
    """What is quantised, by role, and what stayed as it was though its role is (its place, and why)."""

    types: dict[str, str]
    parts: dict[str, Part] = field(default_factory=dict)
    left: dict[str, str] = field(default_factory=dict)

    def json(self, dtype: str = "") -> dict[str, Any]:
        """With the model's dtype where it is to be made again from this."""
        given = {"dtype": dtype} if dtype else {}
        return {"types": self.types, **given, "roles": {role: p.json() for role, p in self.parts.items()}, "left": self.left}

    def __str__(self) -> str:
        lines = [
            f"{role}: {p.kind}, {p.maps} maps, {p.before / 1e6:.1f} to {p.after / 1e6:.1f} MB, weights to {p.error:.2%}"
            for role, p in self.parts.items()
        ]
        return "\n".join([*lines, *(f"left: {place} ({why})" for place, why in self.left.items())])


@dataclass
class Place:
    """A module that holds a matrix."""

    owner: nn.Module
    name: str
    module: nn.Module
    path: str
    role: str
    why: str = ""
    """It stays, for this reason."""


@torch.no_grad()
def quantize(model: CompiledModel, choice: Choice) -> Quantization:
    """Put low-bit modules in the places of linear maps, in all components of the chosen roles.

    A matrix that stands in several places, as embedding and head, is quantised once, for all of them. What is left can train no more.
    Raises DiagnosticError where nothing is to be quantised.
    """
    made = Quantization(chosen(choice))
    for group in groups(model):
        for place, module in replaced(group, made):
            setattr(place.owner, place.name, module)
    if not made.parts:
        roles = sorted({config.role for config in model.graph.components.values()} & {p.role for p in places(model)})
        wanted = ", ".join(f"{role}={kind}" for role, kind in made.types.items()) or "nothing"
        text = f"{model.graph.name} has no linear maps in the roles that quantize chooses ({wanted})"
        raise DiagnosticError(Diagnostic(C.BAD_OPTION, text, fix=f"its roles: {', '.join(roles) or 'none has any'}"))
    model.requires_grad_(False)
    return made


def places(model: CompiledModel) -> Iterator[Place]:
    """Everything that holds a matrix which could be quantised."""
    role = role_of(model.graph)
    for path, owner in model.named_modules():
        kept = next((names for kind, names in KEPT.items() if isinstance(owner, kind)), {})
        for name, module in owner._modules.items():
            full = f"{path}.{name}" if path else name
            if isinstance(module, (nn.Linear, nn.Embedding, StackedExperts)) and not isinstance(module, LowBitExperts):
                yield Place(owner, name, module, full, role(full), kept.get(name, ""))


def groups(model: CompiledModel) -> list[list[Place]]:
    """Places by the matrix they hold; a tie makes one of several."""
    found: dict[Any, list[Place]] = defaultdict(list)
    for place in places(model):
        found[id(place.module) if isinstance(place.module, StackedExperts) else id(place.module.weight)].append(place)
    return list(found.values())


def replaced(group: list[Place], made: Quantization) -> list[tuple[Place, nn.Module]]:
    """Low-bit modules for the places of one matrix: if all its maps are of chosen roles. Embeddings go with the maps they are tied to."""
    maps = [place for place in group if not isinstance(place.module, nn.Embedding)] or group
    kinds = [made.types.get(place.role) for place in maps]
    if not any(kinds):
        return []
    why = next((place.why for place in group if place.why), "")
    if None in kinds:
        other = maps[kinds.index(None)]
        why = f"tied to {other.path}, whose role {other.role} is not chosen"
    elif any(type(place.module).forward not in FORWARDS for place in group):
        why = "it is no plain linear map"
    if why:
        made.left |= {place.path: why for place, kind in zip(maps, kinds) if kind}
        return []
    kind = min((kind for kind in kinds if kind), key=lambda k: -BITS[k])  # the finer of two
    part = made.parts.setdefault(maps[0].role, Part(kind))
    first: Any = group[0].module
    if isinstance(first, StackedExperts):
        gate_up, down = (of_experts(matrix, BITS[kind]) for matrix in (first.gate_up, first.down))
        count(part, first.gate_up.transpose(1, 2), gate_up)
        count(part, first.down.transpose(1, 2), down)
        return [(place, LowBitExperts(gate_up, down, first.act)) for place in group]
    codes, scale = packed(first.weight, BITS[kind])
    shared = Packed(codes, scale, first.weight.shape[1], first.weight.dtype)
    count(part, first.weight, shared)
    part.maps += len(maps) - 1
    return [(place, of_place(place, shared)) for place in group]


def of_place(place: Place, shared: Packed) -> nn.Module:
    if isinstance(place.module, nn.Embedding):
        return LowBitEmbedding(shared.codes, shared.scale, shared.k, shared.kind)
    bias: Any = place.module.bias
    return LowBitLinear(shared.codes, shared.scale, shared.k, shared.kind, bias)


def of_experts(matrices: Tensor, bits: int) -> Packed:
    """[experts, k, n] → codes and scales of [experts, n, k]."""
    parts = [packed(matrix.t(), bits) for matrix in matrices]
    return Packed(torch.stack([c for c, _ in parts]), torch.stack([s for _, s in parts]), matrices.shape[1], matrices.dtype)


def count(part: Part, weight: Tensor, low: Packed) -> None:
    part.maps += 1
    part.weights += weight.numel()
    part.before += weight.numel() * weight.element_size()
    part.after += sum(t.numel() * t.element_size() for t in (low.codes, low.scale))
    if weight.is_meta:
        return
    rows = max(1, CHUNK // weight[0].numel())
    for i in range(0, len(weight), rows):
        part_of = weight[i : i + rows].float()
        part.add(Packed(low.codes[i : i + rows], low.scale[i : i + rows], low.k, torch.float32).weight - part_of, part_of)
