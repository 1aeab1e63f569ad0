"""connector.grid_positions and connector.frame_positions: where a feature stands in its image and in its video."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from ...ir import types as T
from ..base import Connector, Ports


class GridPositions(Connector, name="connector.grid_positions"):
    """A map as tokens in raster order, each with a learned vector for its column and one for its row: map[B, width, H, W] →
    tokens[B, H*W, width]. The column's are the first half of the channels (DETR, arXiv 2005.12872; Florence-2)."""

    width: int | None = Field(None, ge=1, description="channels; inferred")
    size: int = Field(50, ge=1, description="rows of the two tables, the largest map")
    std: float = Field(0.02, gt=0, description="standard deviation of the first values")
    multiplies = False
    parts = ("columns", "rows")
    ports = Ports(x=T.map_["B", "width", "H", "W"], returns=T.tokens["B", "H*W", "width"])
    module = "vlmgraph.nn.hierarchical:GridPositions"

    def parameters(self) -> dict[str, int]:
        width = self.width or 0
        return {"columns": self.size * (width - width // 2), "rows": self.size * (width // 2)}


class FramePositions(Connector, name="connector.frame_positions"):
    """Sines and cosines of a frame's number, added to all its tokens: tokens[B, N, width] of frame 0 → the same.

    They are computed; checkpoints hold the table.
    """

    width: int | None = Field(None, ge=1, description="width of the tokens; inferred")
    count: int = Field(100, ge=1, description="most frames")
    multiplies = False
    ports = Ports(x=T.tokens["B", "N", "width"], returns=T.tokens["B", "N", "width"])
    module = "vlmgraph.nn.hierarchical:FramePositions"

    def arguments(self) -> dict[str, Any]:
        return {"count": self.count, "width": self.width}
