"""Programs that keep something between the steps of decoding: stand-ins for their caches, and the method of a step."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from vlmgraph.ir.graph import Graph
from vlmgraph.ir.types import Type
from vlmgraph.nn.cache import KVCache, LayerCache
from vlmgraph.passes.slice import slice_program

from .stand import BOOL, Stand


class CacheStand:
    """Stands for an object of `vlmgraph.nn.cache` while a module is followed. `maybe` are its attributes that may be None."""

    maybe: frozenset[str] = frozenset()

    def none(self, method: str, given: list[Any]) -> bool:
        """Whether a method gives None where one of these arguments may be None."""
        return False


class LayerStand(CacheStand):
    """Of a `LayerCache`."""

    maybe = frozenset({"k", "v", "state"})
    k = v = state = Stand(4, torch.float32)

    def append(self, k: Stand, v: Stand) -> tuple[Stand, Stand]:
        return k, v

    def keep(self, state: Stand, new: int) -> None:
        return None

    def put(self, k: Stand, v: Stand) -> None:
        return None


class MediaStand(dict[str, LayerStand]):
    """Of the caches of media by name."""

    def setdefault(self, key: str, default: Any = None) -> LayerStand:  # type: ignore[override]
        return LayerStand()


class StackStand(CacheStand):
    """Of a `KVCache`."""

    maybe = frozenset({"encoded", "mask"})
    length = 0
    encoded = Stand(3, torch.float32)
    mask = Stand(2, BOOL)
    media = MediaStand()

    def __getitem__(self, layer: int) -> LayerStand:
        return LayerStand()

    def padding(self, mask: Stand | None, batch: int, new: int, device: Any) -> Stand | None:
        return None if mask is None else Stand(2, BOOL)

    def none(self, method: str, given: list[Any]) -> bool:
        return method == "padding"


CACHES = (KVCache, LayerCache)
"""Classes that every file with caches holds."""


def step_inputs(graph: Graph, program: str) -> dict[str, Type]:
    """What a step may be given: of the program's inputs those that go along with new tokens, and all that is carried."""
    whole = slice_program(graph, program, None, step=True)
    written = graph.inputs[written_input(graph)]
    seen = {k for k, t in graph.inputs.items() if t.kind == "mask" and len(t.dims) > 2 and t.dims[1] == written.dims[1]}
    along = {k: t for k, t in whole.inputs.items() if k in (written_input(graph), "attention_mask") or k in seen}
    return along | {k: replace(t, optional=True) for k, t in whole.inputs.items() if k not in graph.inputs}


def written_input(graph: Graph) -> str:
    """The input that grows by what is generated."""
    return "decoder_input_ids" if "decoder_input_ids" in graph.inputs else "input_ids"
