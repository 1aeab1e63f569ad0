"""Hard negatives inside a batch."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class BatchTooSmall(ValueError):
    """A batch of one pair has no negatives."""


class HardNegatives(nn.Module):
    """For every text a wrong image and for every image a wrong text, drawn in proportion to their similarity (ALBEF, arXiv 2107.07651,
    section 3.2; BLIP-2, arXiv 2301.12597, section 3.2). `generator` makes the draws repeatable. With a `floor` the weights are the softmax
    with the own pair among the others, plus the floor (BLIP, salesforce/BLIP models/blip_pretrain.py)."""

    def __init__(self, floor: float | None = None) -> None:
        super().__init__()
        self.floor = floor
        self.generator: torch.Generator | None = None

    def forward(
        self,
        similarity: Tensor,
        image: Tensor,
        ids: Tensor,
        mask: Tensor | None = None,
        image_index: Tensor | None = None,
        text_index: Tensor | None = None,
        text_similarity: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """similarity [B, B] of images (rows) and texts, text_similarity [B, B] of texts and images where it is not the transpose, image
        [B, N, d], ids [B, T], mask [B, T] → pairs in the order (own, own), (wrong image, text), (image, wrong text): `image` [3B, N, d],
        `ids` and `mask` [3B, T], `labels` [3B] (1 own, 0 wrong), `image_index` and `text_index` [B]. Given indices replace the draws.
        Raises BatchTooSmall.
        """
        if len(ids) < 2:
            raise BatchTooSmall("hard negatives need a batch of at least 2 pairs")
        if image_index is None:
            image_index = self.draw(similarity.t() if text_similarity is None else text_similarity)
        if text_index is None:
            text_index = self.draw(similarity)
        mask = torch.ones_like(ids, dtype=torch.bool) if mask is None else mask
        labels = torch.cat([ids.new_ones(len(ids)), ids.new_zeros(2 * len(ids))])
        return {
            "image": torch.cat([image, image[image_index], image]),
            "ids": torch.cat([ids, ids, ids[text_index]]),
            "mask": torch.cat([mask, mask, mask[text_index]]),
            "labels": labels,
            "image_index": image_index,
            "text_index": text_index,
        }

    def draw(self, scores: Tensor) -> Tensor:
        """One index a row, never the row's own: scores [B, B] → [B]."""
        own = torch.eye(len(scores), dtype=torch.bool, device=scores.device)
        if self.floor is not None:
            weights = (scores.detach().float().softmax(1) + self.floor).masked_fill(own, 0.0)
            return torch.multinomial(weights, 1, generator=self.generator)[:, 0]
        weights = scores.detach().float().masked_fill(own, float("-inf")).softmax(1)
        # a tiny floor keeps a row drawable whose softmax has underflown everywhere but at one place
        weights = (weights + 1e-8).masked_fill(own, 0.0)
        return torch.multinomial(weights, 1, generator=self.generator)[:, 0]
