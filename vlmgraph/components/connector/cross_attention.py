"""connector.cross_attention: some tokens read others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field, model_validator

from ...ir import types as T
from ...ir.dims import Dim
from ..base import Connector, Ports, linear


class CrossAttention(Connector, name="connector.cross_attention"):
    """Multi-head attention (arXiv 1706.03762) of tokens[B, Q, d] to media tokens[B, M, d_media] → tokens[B, Q, d], without residual
    or norm.

    `values`, as many tokens of the same width, take the place of the media where values are read. Media that `media_mask` leaves out are
    not attended to.
    """

    d: int | None = Field(None, ge=1, description="width of the tokens that read; inferred")
    d_media: int | None = Field(None, ge=1, description="width of the media; inferred")
    heads: int = Field(8, ge=1, description="attention heads")
    bias: bool = Field(True, description="biases in all four projections")
    ports = Ports(
        x=T.tokens["B", "Q", "d"], media=T.tokens["B", "M", "d_media"], values=T.tokens["B", "M", "d_media"].optional_,
        media_mask=T.mask["B", "M"].optional_, returns=T.tokens["B", "Q", "d"],
    )  # fmt: skip
    module = "vlmgraph.nn.cross_attention:KeyValueAttention"

    @model_validator(mode="after")
    def _fits(self) -> CrossAttention:
        if self.d is not None and self.d % self.heads:
            raise ValueError(f"heads: {self.heads} heads do not divide the width {self.d}")
        return self

    def parameters(self) -> dict[str, int]:
        d, media = self.d or 0, self.d_media or 0
        return {
            "q": linear(d, d, self.bias),
            "k": linear(media, d, self.bias),
            "v": linear(media, d, self.bias),
            "out": linear(d, d, self.bias),
        }

    def flops(self, dims: Mapping[str, Dim]) -> Dim:
        d, media = self.d or 0, self.d_media or 0
        each = dims["Q"] * (4 * d * d) + dims["M"] * (4 * media * d) + dims["Q"] * dims["M"] * (4 * d)
        return dims["B"] * each

    def arguments(self) -> dict[str, Any]:
        return {"d": self.d, "d_media": self.d_media, "heads": self.heads, "bias": self.bias}
