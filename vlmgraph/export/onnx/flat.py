"""A piece as a module of plain tensors: caches come in and go out one tensor by one, masks as whole numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ...nn.cache import KVCache, LayerCache

if TYPE_CHECKING:
    from .pieces import Piece

KEPT = ("k", "v", "state")
NAMES = {"k": "key", "v": "value", "state": "state", "encoded": "encoded"}
GROWING = 2
"""The axis of keys and values along which tokens stand; a state has none."""


@dataclass(frozen=True)
class Slot:
    """One tensor of a cache: of a layer (a number) or of media (a group and a layer), keys, values or a state; or what an encoder made."""

    component: str
    layer: int | str
    what: str

    @property
    def grows(self) -> bool:
        """Whether every token adds to it: keys and values of media are made once, a state sums up."""
        return self.what != "state" and isinstance(self.layer, int)

    @property
    def axes(self) -> tuple[int, ...]:
        """The axes of the batch and of the tokens."""
        return {"state": (0,), "encoded": (0, 1)}.get(self.what, (0, GROWING))

    @property
    def once(self) -> bool:
        """Whether the prompt makes it and steps only read it."""
        return isinstance(self.layer, str)

    def name(self, leading: str, alone: bool) -> str:
        """`past_key_values.3.key` or `present.3.value`; of media `present.media.xattn.3.key`."""
        if self.what == "encoded":
            return f"{leading}.{'' if alone else self.component + '.'}encoded"
        where = f"{self.layer}" if isinstance(self.layer, int) else f"media.{self.layer}"
        return f"{leading}.{'' if alone else self.component + '.'}{where}.{NAMES[self.what]}"


def slots_of(caches: Mapping[str, KVCache]) -> list[Slot]:
    """What caches hold after a prompt."""
    found = []
    for component, cache in caches.items():
        layers: list[tuple[int | str, LayerCache]] = [*enumerate(cache.layers), *sorted(cache.media.items())]
        found += [Slot(component, at, what) for at, layer in layers for what in KEPT if getattr(layer, what) is not None]
        found += [Slot(component, "encoded", "encoded")] if cache.encoded is not None else []
    return found


def holder(cache: KVCache, slot: Slot) -> Any:
    """The part of a cache whose attribute `slot.what` is the tensor."""
    if slot.what == "encoded":
        return cache
    return cache[slot.layer] if isinstance(slot.layer, int) else cache.media.setdefault(slot.layer, LayerCache())


def held(caches: Mapping[str, KVCache], slot: Slot) -> Tensor:
    found: Tensor = getattr(holder(caches[slot.component], slot), slot.what)
    return found


def refilled(components: Sequence[str], slots: Sequence[Slot], values: Sequence[Tensor]) -> dict[str, KVCache]:
    """Caches that hold these tensors."""
    caches = {component: KVCache() for component in components}
    given = dict(zip(slots, values))
    for slot, value in given.items():
        if slot.what == "k":
            holder(caches[slot.component], slot).append(value, given[replace(slot, what="v")])
        elif slot.what != "v":
            setattr(holder(caches[slot.component], slot), slot.what, value)
    return caches


class Flat(nn.Module):
    """forward(*inputs, *pasts) → (*outputs, *presents), all tensors.

    `slots` say what caches hold; with `past` they enter behind the inputs. Masks enter as whole numbers, which is what other tools feed,
    and are truth values inside; a padding mask that one piece gives another leaves so, too.
    """

    def __init__(self, module: nn.Module, piece: Piece, slots: Sequence[Slot], past: bool) -> None:
        super().__init__()
        self.module = module
        self.count, self.outputs = len(piece.inputs), tuple(piece.outputs)
        self.caches, self.slots, self.past = piece.cache, tuple(slots), past
        made = {v: t for n in piece.program.nodes for v, t in n.values()}
        self.masks = {i for i, t in enumerate(piece.program.inputs.values()) if t.kind == "mask"}
        self.padding = {v for v in self.outputs if v in made and made[v].kind == "mask" and len(made[v].dims) == 2}

    def forward(self, *values: Tensor) -> tuple[Tensor, ...]:
        pasts = values[self.count :]
        caches = refilled(self.caches, self.slots if self.past else (), pasts)
        inputs = (x.bool() if i in self.masks else x for i, x in enumerate(values[: self.count]))
        out: dict[str, Any] = self.module(*inputs, *(caches[c] for c in self.caches))
        given = (out[name].to(torch.int64) if name in self.padding else out[name] for name in self.outputs)
        return (*given, *(held(caches, slot) for slot in self.slots))
