"""Images of several sizes to one packed sequence of patches."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .eager import readable


class ImageSizes(ValueError):
    """Sizes that do not fit into the images they are of."""


class Patchify(nn.Module):
    """x [N, C, H, W] and sizes [N, 2], height and width of each → `out` [P, C * p * p] and `grid` [N, 3]: one frame, rows, columns.

    Patches go row by row, their values by channel, row, column, as a convolution whose stride is its kernel reads them
    (Pixtral, arXiv 2410.07073, section 2). On the meta device, where there are no sizes, padding is cut too and P is its largest.
    """

    def __init__(self, patch: int) -> None:
        super().__init__()
        self.patch = patch

    def forward(self, x: Tensor, sizes: Tensor | None = None) -> dict[str, Tensor]:
        """Raises ImageSizes."""
        p = self.patch
        count, rows, columns = x.shape[0], x.shape[2] // p, x.shape[3] // p
        cut = x[:, :, : rows * p, : columns * p].unflatten(3, (columns, p)).unflatten(2, (rows, p))
        cut = cut.permute(0, 2, 4, 1, 3, 5).flatten(3)  # [N, rows, columns, C * p * p]
        whole = torch.tensor([[1, rows, columns]], device=x.device).expand(count, -1)
        if sizes is None or x.device.type == "meta":
            return {"out": cut.flatten(0, 2), "grid": whole}
        grid = torch.cat([whole[:, :1], sizes.to(x.device) // p], dim=1)
        if readable(grid) and bool(((grid > whole) | (grid < 1)).any()):
            raise ImageSizes(f"images of {sizes.tolist()} pixels do not fit into {x.shape[2]} x {x.shape[3]} with patches of {p}")
        row, column = torch.arange(rows, device=x.device)[:, None], torch.arange(columns, device=x.device)
        real = (row < grid[:, 1, None, None]) & (column < grid[:, 2, None, None])
        return {"out": cut[real], "grid": grid}
