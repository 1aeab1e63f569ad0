"""Which token goes to which expert, found out once a call: every layer then takes rows by number instead of comparing masks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ...nn.eager import readable


class Layout(NamedTuple):
    """The places of each expert's tokens among all of the batch [B * N]."""

    rows: tuple[Tensor, ...]


def layout(modality: Tensor, experts: int) -> Layout:
    """Of modality ids [B, N]; those past the last expert belong to it."""
    ids = modality.flatten().clamp(max=experts - 1)
    return Layout(tuple((ids == i).nonzero()[:, 0] for i in range(experts)))


def routed(maps: Sequence[Callable[[Tensor], Any]], x: Tensor, places: Layout) -> tuple[Tensor, ...]:
    """x [B, N, d] through the maps, each over its own tokens; one [B, N, e] for each value that a map gives."""
    flat = x.flatten(0, 1)
    parts = [many(run(flat[rows])) for run, rows in zip(maps, places.rows, strict=True)]
    made = []
    for values in zip(*parts, strict=True):
        out = flat.new_empty(flat.shape[0], values[0].shape[-1])
        for rows, value in zip(places.rows, values, strict=True):
            out = out.index_copy(0, rows, value)
        made.append(out.unflatten(0, x.shape[:2]))
    return tuple(made)


def many(value: Any) -> tuple[Tensor, ...]:
    return value if isinstance(value, tuple) else (value,)


def layout_hook(stack: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    """In front of a stack with experts: modality ids become a layout where their values can be read and no gradients are wanted."""
    modality = kwargs.get("modality")
    if not isinstance(modality, Tensor) or torch.is_grad_enabled() or not readable(modality):
        return None
    groups = (getattr(part, "experts", None) for part in stack.modules())
    counts = {len(group) for group in groups if isinstance(group, nn.ModuleDict)}
    if len(counts) != 1:
        return None
    return args, {**kwargs, "modality": layout(modality, counts.pop())}
