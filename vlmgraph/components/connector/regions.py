"""connector.regions: regions of a detector as tokens."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import Field, model_validator

from ...ir import types as T
from ...ir.dims import Dim
from ..base import Connector, Ports, linear


class RegionEmbedding(Connector, name="connector.regions"):
    """A linear map of region features, plus a learned type and a learned position (VisualBERT, arXiv 1908.03557): regions[B, R, d_in] →
    tokens[B, R, out].

    With `words` there is a port `alignment`, index[B, R, A]: the places of the words that speak of a region, -1 for none. The mean of their
    rows in `words` is added; tie that table to the positions of the text.
    """

    d_in: int | None = Field(None, ge=1, description="width of the features; inferred")
    out: int | None = Field(None, ge=1, description="width of the tokens; inferred where the next part fixes it")
    types: int = Field(2, ge=1, description="number of region types")
    default_type: int = Field(1, ge=0, description="type of regions that come without one")
    max_positions: int = Field(512, ge=1, description="rows of the regions' own positions; every region has row 0")
    words: int = Field(0, ge=0, description="rows of a table of positions of words; no alignment where 0")
    parts = ("proj", "types", "positions", "words")
    module = "vlmgraph.nn.regions:RegionEmbedding"

    @model_validator(mode="after")
    def _there(self) -> RegionEmbedding:
        if self.default_type >= self.types:
            raise ValueError(f"default_type {self.default_type}: there are the types 0 to {self.types - 1}")
        return self

    def signature(self, facet: str = "") -> Ports:
        ports = {"types": T.index["B", "R"].optional_}
        if self.words:
            ports["alignment"] = T.index["B", "R", "A"].optional_
        return Ports(T.tokens["B", "R", "out"], x=T.regions["B", "R", "d_in"], **ports)

    def parameters(self) -> dict[str, int]:
        out = self.out or 0
        counts = {"proj": linear(self.d_in or 0, out), "types": self.types * out, "positions": self.max_positions * out}
        return counts | ({"words": self.words * out} if self.words else {})

    def flops(self, dims: Mapping[str, Dim]) -> Dim:
        return dims["B"] * dims["R"] * (2 * (self.d_in or 0) * (self.out or 0)) if "R" in dims else Dim()
