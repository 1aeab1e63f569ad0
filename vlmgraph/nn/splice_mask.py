"""Features in the places that a mask marks."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .splice import fill, item_places


class MaskSplice(nn.Module):
    """Row k of the features replaces the embedding of the k-th place that `where` marks, in reading order over the batch."""

    def forward(self, text: Tensor, ids: Tensor, where: Tensor, vision: Tensor, mask: Tensor | None = None) -> dict[str, Tensor]:
        """text [B, T, d], ids and where [B, T], vision [..., d] → `out` [B, T, d], `mask`, `modality`, `spans`, `ids` [B, T].

        modality: 0 text, 1 features. spans: 0 text, else the place inside its image, from 1. The ids at the marked places count for
        nothing. Raises PlaceholderCount.
        """
        here = where.bool()
        out = fill(text, here, vision, "vision")
        mask = torch.ones_like(ids, dtype=torch.bool) if mask is None else mask
        return {"out": out, "mask": mask, "modality": here.long(), "spans": item_places(here, vision), "ids": ids}
