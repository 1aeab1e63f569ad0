"""Attention among the tokens of a square grid: by windows, with relative positions by rows and by columns."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .attention import Attention
from .cache import LayerCache
from .rope import Rotation


class GridAttention(Attention):
    """Self-attention over a grid of side x side tokens, rows first: x [B, side * side, width] → the same.

    `window` cuts the grid into squares of window x window that attend to themselves alone. Zeros fill the last squares up and are attended
    to like tokens, as in ViTDet (arXiv 2203.16527, section 3) and SAM (arXiv 2304.02643, appendix A).

    `relative` adds q · (rows[i - i'] + columns[j - j']) to the scaled score of a query at (i, j) and a key at (i', j'): decomposed
    relative positions, one table for rows and one for columns, all heads alike (MViTv2, arXiv 2112.01526, section 4.1). Zero at first.
    """

    def __init__(self, width: int, heads: int, side: int, window: int | None = None, relative: bool = True, **options: Any) -> None:
        super().__init__(width, heads, **options)
        self.side, self.window = side, window or None
        self.reach = window or side
        self.rows = nn.Parameter(torch.empty(2 * self.reach - 1, self.head_dim)) if relative else None
        self.columns = nn.Parameter(torch.empty(2 * self.reach - 1, self.head_dim)) if relative else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        for table in (self.rows, self.columns):
            if table is not None:
                nn.init.zeros_(table)

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        rope: Rotation | None = None,
        cache: LayerCache | None = None,
        modality: Tensor | None = None,
    ) -> Tensor:
        """A grid is whole and attends in both directions: rotations, caches and modalities are not read. Raises ValueError for a mask."""
        if mask is not None:
            raise ValueError("attention over a grid takes no mask: all tokens of a grid are real")
        if self.window is None:
            return self.inside(x)
        window, side = self.window, self.side
        count = -(-side // window)
        grid = F.pad(x.unflatten(1, (side, side)), (0, 0, 0, count * window - side, 0, count * window - side))
        cut = grid.unflatten(2, (count, window)).unflatten(1, (count, window)).transpose(2, 3)  # [B, count, count, window, window, width]
        y = self.inside(cut.flatten(3, 4).flatten(0, 2))
        y = y.unflatten(1, (window, window)).unflatten(0, (-1, count, count)).transpose(2, 3)
        return y.flatten(3, 4).flatten(1, 2)[:, :side, :side].flatten(1, 2)

    def inside(self, x: Tensor) -> Tensor:
        """Attention of all tokens of a square to each other."""
        q, k, v = self.project(x, x)
        return self.leave(self.attend(q, k, v, None if self.rows is None else self.bias(q)))

    def bias(self, q: Tensor) -> Tensor:
        """Queries [B, heads, N, head_dim] → what is added to their scores, [B, heads, N, N]."""
        assert self.rows is not None and self.columns is not None
        place = torch.arange(self.reach, device=q.device)
        apart = place[:, None] - place + self.reach - 1  # of a query and a key, from 0
        grid = q.unflatten(2, (self.reach, self.reach))  # [B, heads, row, column, head_dim]
        down = grid @ self.rows[apart].to(q.dtype).transpose(1, 2)
        across = (grid.transpose(2, 3) @ self.columns[apart].to(q.dtype).transpose(1, 2)).transpose(2, 3)
        return (down[..., :, None] + across[..., None, :]).flatten(4).flatten(2, 3)
