"""connector.tiled_views: the whole picture and a grid of tiles, as one sequence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isqrt
from typing import Any

from pydantic import Field, model_validator

from ...ir import types as T
from ..base import Connector, Ports


class TiledViews(Connector, name="connector.tiled_views"):
    """Views of images, the whole first, then tiles row by row, to one packed sequence: tokens[V, count, d], index[I, 2] → tokens[P, d].

    `tiles` are columns and rows of each image; none are padding. The whole, a learned separator, and the tiles put together; a learned
    newline ends each row of both (DeepSeek-VL2, arXiv 2412.10302).
    """

    count: int | None = Field(None, ge=1, description="tokens of a view, those of a square; inferred")
    d: int | None = Field(None, ge=1, description="width of the tokens; inferred")
    ports = Ports(x=T.tokens["V", "count", "d"], tiles=T.index["I", 2], returns=T.tokens["P", "d"])
    module = "vlmgraph.nn.tiled_views:TiledViews"
    multiplies = False

    @model_validator(mode="after")
    def _square(self) -> TiledViews:
        if self.count is not None and self.side**2 != self.count:
            raise ValueError(f"count: {self.count} tokens are not those of a square")
        return self

    @property
    def side(self) -> int:
        """Tokens along a side of a view."""
        return isqrt(self.count or 0)

    def arguments(self) -> dict[str, Any]:
        return {"side": self.side, "width": self.d}

    def parameters(self) -> dict[str, int]:
        return {"newline": self.d or 0, "separator": self.d or 0}

    def lengths(self, inputs: Mapping[str, Any]) -> Sequence[int] | None:
        if "tiles" not in inputs:
            return None
        return [self.length(int(columns), int(rows)) for columns, rows in inputs["tiles"] if columns and rows]

    def length(self, columns: int, rows: int) -> int:
        """Tokens of an image."""
        return self.side * (self.side + 1) + 1 + self.side * rows * (self.side * columns + 1)
