"""Learned vectors around the tokens of an item, or in their place."""

from __future__ import annotations

from pydantic import Field

from ...ir import types as T
from ..base import Connector, Ports


class LearnedTokens(Connector, name="connector.learned_tokens"):
    """Learned vectors before and after every item (begin and end of image, say): tokens[..., V, d] →
    tokens[..., V + before + after, d]."""

    d: int | None = Field(None, ge=1, description="width; inferred")
    before: int = Field(1, ge=0, description="vectors in front")
    after: int = Field(1, ge=0, description="vectors behind")
    std: float = Field(0.02, ge=0, description="standard deviation of the first values; 0 starts them at zero")
    ports = Ports(x=T.tokens["...", "V", "d"], returns=T.tokens["...", "V+before+after", "d"])
    module = "vlmgraph.nn.connectors:LearnedTokens"
    multiplies = False

    def parameters(self) -> dict[str, int]:
        return {"before": self.before * (self.d or 0), "after": self.after * (self.d or 0)}


class LearnedQueries(Connector, name="connector.learned_queries"):
    """The same learned queries for every item of the batch: tokens[..., N, e] → tokens[..., count, width]."""

    count: int = Field(ge=1, description="number of queries")
    width: int | None = Field(None, ge=1, description="width; inferred")
    std: float = Field(0.02, ge=0, description="standard deviation of the first values")
    ports = Ports(like=T.tokens["...", "N", "e"], returns=T.tokens["...", "count", "width"])
    module = "vlmgraph.nn.connectors:LearnedQueries"
    multiplies = False

    def parameters(self) -> dict[str, int]:
        return {"queries": self.count * (self.width or 0)}
