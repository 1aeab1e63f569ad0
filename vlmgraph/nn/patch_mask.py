"""Which patches of an image are real."""

from __future__ import annotations

from torch import Tensor, nn


class PatchMask(nn.Module):
    """mask [..., H, W] of pixels → [..., rows * columns] of patches, real where any of their pixels is, or all (`covered`).

    Pixels behind the last whole patch do not count.
    """

    def __init__(self, patch: int, covered: str = "any") -> None:
        super().__init__()
        self.patch, self.covered = patch, covered

    def forward(self, mask: Tensor) -> Tensor:
        rows, columns = mask.shape[-2] // self.patch, mask.shape[-1] // self.patch
        cut = mask.bool()[..., : rows * self.patch, : columns * self.patch]
        patches = cut.unflatten(-1, (columns, self.patch)).unflatten(-3, (rows, self.patch)).transpose(-3, -2).flatten(-2)
        return (patches.any(-1) if self.covered == "any" else patches.all(-1)).flatten(-2)
