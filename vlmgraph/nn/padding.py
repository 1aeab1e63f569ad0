"""Padding left out of a batch of images."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class RealImages(nn.Module):
    """x [..., C, H, W] → `out` [N, C, H, W], the images of which not all values are zero, in reading order.

    pixel_mask [..., H, W] becomes `mask` [N, rows * columns] of patches: real where all of their pixels are, or any (`covered`); pixels
    behind the last whole patch do not count. `keep_one`: where every image is padding the first one stays. On the meta device, where
    there are no values, all images stay.
    """

    def __init__(self, patch: int, covered: str = "all", keep_one: bool = False) -> None:
        super().__init__()
        self.patch, self.covered, self.keep_one = patch, covered, keep_one

    def forward(self, x: Tensor, pixel_mask: Tensor | None = None) -> dict[str, Tensor]:
        images = x.flatten(0, -4)
        real = (images != 0).flatten(1).any(1)
        if self.keep_one:
            real = torch.cat([real[:1] | ~real.any(), real[1:]])
        known = x.device.type != "meta"
        kept = real.nonzero()[:, 0] if known else None  # one number of images for both
        out = {"out": images if kept is None else images[kept]}
        if pixel_mask is not None:
            patches = self.patches(pixel_mask.flatten(0, -3).bool())
            out["mask"] = patches if kept is None else patches[kept]
        return out

    def patches(self, mask: Tensor) -> Tensor:
        """[N, H, W] of pixels → [N, rows * columns]."""
        p = self.patch
        rows, columns = mask.shape[1] // p, mask.shape[2] // p
        cut = mask[:, : rows * p, : columns * p].unflatten(2, (columns, p)).unflatten(1, (rows, p)).transpose(2, 3).flatten(3)
        return (cut.all(3) if self.covered == "all" else cut.any(3)).flatten(1)
