"""op.stitch: tiles put together as one map."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import Field, model_validator

from ...ir import types as T
from ...ir.dims import Dim
from ..base import Op, Ports


class Stitch(Op, name="op.stitch"):
    """Tiles of images put together as maps, each resampled to size x size: tokens[V, side^2, d], index[N, 2] → tokens[N, size^2, d].

    `grid` says how many rows and columns of tiles an image has, so that any resolution costs as many tokens (moondream).
    """

    side: int = Field(ge=1, description="tokens along a side of a tile")
    size: int = Field(ge=1, description="tokens along a side of the result")
    margin: int = Field(0, ge=0, description="tokens that a tile gives up where another follows; they overlap by twice as many")
    mode: Literal["bilinear", "average"] = Field("bilinear", description="kernel")
    module = "vlmgraph.nn.stitch:Stitch"

    @model_validator(mode="after")
    def _inside(self) -> Stitch:
        if 2 * self.margin >= self.side:
            raise ValueError(f"margin: two margins of {self.margin} leave nothing of {self.side} tokens")
        return self

    def signature(self, facet: str = "") -> Ports:
        return Ports(T.tokens["N", "size*size", "d"], x=T.tokens["V", "side*side", "d"], grid=T.index["N", 2])

    def flops(self, dims: Mapping[str, Dim]) -> Dim:
        if not {"V", "d"} <= dims.keys():
            return Dim()
        return dims["V"] * dims["d"] * (2 * self.size * self.side * (self.side + self.size))
