"""attention.grid: attention over a square grid of tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import Field

from ...ir.dims import Dim
from .attention import Heads


class GridAttention(Heads, name="attention.grid"):
    """Self-attention over a square grid, by windows (ViTDet, arXiv 2203.16527; SAM, arXiv 2304.02643), with relative positions that
    are decomposed into rows and columns (MViTv2, arXiv 2112.01526). For vision.vit without class token and registers."""

    side: int | None = Field(None, ge=1, description="tokens along a side of the grid; told by the tower")
    window: int | None = Field(None, ge=0, description="side of the squares that attend to themselves; none or 0: the whole grid")
    relative: bool = Field(True, description="learned relative positions, a table for rows and one for columns")
    square: ClassVar[bool] = True
    """Reads whole square grids alone."""
    module = "vlmgraph.nn.grid_attention:GridAttention"

    @property
    def reach(self) -> int:
        """Side of the squares that attend."""
        return self.window or self.side or 0

    def arguments(self) -> dict[str, Any]:
        if self.side is None:
            raise ValueError("attention.grid needs the side of the grid: it stands in vision.vit, whose image_size tells it")
        whole = self.qk_norm_over == "all"
        return {**self.common(), "side": self.side, "window": self.window, "relative": self.relative, "norm_whole": whole}

    def parameters(self) -> dict[str, int]:
        counts = {"": self.projections(self.width or 0) + self.norm_count()}
        if self.relative and self.reach:
            table = (2 * self.reach - 1) * self.dims[1]
            counts |= {"rows": table, "columns": table}
        return counts

    def flops(self, dims: Mapping[str, Dim]) -> Dim:
        """Windows are counted with the zeros that fill them up."""
        if self.side is None:
            return Dim()
        width, _, q, k = self.dims
        tokens = (-(-self.side // self.reach) * self.reach) ** 2
        inside = self.reach**2 + (self.reach if self.relative else 0)
        return Dim.of(4 * tokens * (width * (q + k) + inside * q))
