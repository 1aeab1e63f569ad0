"""Features in the place of placeholder tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from .eager import readable


class PlaceholderCount(ValueError):
    """Placeholders and feature rows differ in number."""


class Splice(nn.Module):
    """Row k of a port's features replaces the embedding of the k-th placeholder of that port, in reading order over the batch.

    tokens: placeholder ids by port. `modality` says which places count as the port's: all of them, or all but the last of every image
    (CogVLM, arXiv 2311.03079, section 2.2: the end-of-image token is language).
    """

    def __init__(self, tokens: Mapping[str, Sequence[int]], modality: str = "all") -> None:
        super().__init__()
        self.tokens = {port: tuple(ids) for port, ids in tokens.items()}
        self.modality = modality

    def forward(self, text: Tensor, ids: Tensor, mask: Tensor | None = None, **features: Tensor) -> dict[str, Tensor]:
        """text [B, T, d], ids [B, T], features [..., d] by port → `out` [B, T, d], `mask`, `modality`, `spans`, `ids` [B, T].

        modality: 0 text, k the k-th port. spans: 0 text, else the place inside its image, from 1.
        Raises PlaceholderCount.
        """
        out = text
        modality, spans = torch.zeros_like(ids), torch.zeros_like(ids)
        for number, (port, tokens) in enumerate(self.tokens.items(), 1):
            rows = features.get(port)
            if rows is None:
                continue
            here = is_token(ids, tokens)
            out = fill(out, here, rows, port)
            places = item_places(here, rows)
            spans = torch.where(here, places, spans)
            inner = here & ~ends(places) if self.modality == "all but last" else here
            modality = modality.masked_fill(inner, number)
        mask = torch.ones_like(ids, dtype=torch.bool) if mask is None else mask
        return {"out": out, "mask": mask, "modality": modality, "spans": spans, "ids": ids}


def is_token(ids: Tensor, tokens: Sequence[int]) -> Tensor:
    """ids [B, T] → bool [B, T], True where the id is one of `tokens`."""
    found = ids == tokens[0]
    for token in tokens[1:]:
        found = found | (ids == token)
    return found


def ranks(here: Tensor) -> Tensor:
    """here [B, T] bool → [B, T]: how many True stand before, in reading order over the batch."""
    flat = here.flatten().long()
    return (flat.cumsum(0) - flat).view_as(here)


def fill(text: Tensor, here: Tensor, rows: Tensor, port: str) -> Tensor:
    """text [B, T, d] with rows [..., d] written where `here` [B, T] is True. Raises PlaceholderCount."""
    rows = rows.reshape(-1, rows.shape[-1]).to(text.dtype)
    if readable(here):
        places = int(here.sum())
        if places != len(rows):
            raise PlaceholderCount(f"input_ids hold {places} placeholders for {port!r}, but there are {len(rows)} feature rows")
        if not places:
            return text
    else:  # there is always a row to read
        rows = torch.cat([rows, rows.new_zeros(1, rows.shape[1])])
    # a gather and a where: exact, differentiable, and known to every export target
    placed = rows[ranks(here).clamp(max=rows.shape[0] - 1)]
    return torch.where(here[..., None], placed, text)


def item_places(here: Tensor, rows: Tensor) -> Tensor:
    """Place of every placeholder inside its image, from 1, and 0 elsewhere: [B, T].

    rows [..., N, V, d] tell the length V of an image; packed rows [P, d] do not, there an image is a run of placeholders.
    """
    if rows.dim() > 2:
        return torch.where(here, ranks(here) % rows.shape[-2] + 1, 0)
    count = here.long().cumsum(1)
    before = torch.where(here, 0, count).cummax(1).values
    return torch.where(here, count - before, 0)


def ends(places: Tensor) -> Tensor:
    """True at the last place of every image: places [B, T] → bool [B, T]."""
    following = torch.cat([places[:, 1:], torch.zeros_like(places[:, :1])], dim=1)
    return (places > 0) & (following != places + 1)
