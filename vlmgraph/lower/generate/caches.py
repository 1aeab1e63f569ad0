"""A cache for every component that a program caches."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ...nn.cache import KVCache
    from ..model import CompiledModel


def new_caches(model: CompiledModel, name: str, room: int | None = None) -> dict[str, KVCache]:
    """Fresh ones for program `name`, by component. With `room` they are static: allocated once, for the prompt and so many tokens."""
    from ...nn.cache import KVCache

    if room is not None and model.mode == "compile":
        room += 1  # what a step reads of its places is then never all of them, which torch would compile once more
    return {component: KVCache(room) for component in model.graph.programs[name].cache}
