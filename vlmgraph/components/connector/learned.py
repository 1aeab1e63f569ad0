"""Learned vectors around the tokens of an item, or in their place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field, model_validator

from ...ir import types as T
from ...ir.dims import Dim, DimError, apply
from ...ir.types import Type
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
    """The same learned queries for every item of the batch: tokens[..., N, e] → tokens[..., count, width].

    With `counts` the first so many of them that it says for items of N tokens (Aria, arXiv 2410.05993, section 2.2).
    """

    count: int | None = Field(None, ge=1, description="number of queries; the largest of `counts`")
    counts: dict[int, int] = Field(default_factory=dict, description="tokens of an item → queries that are used for it, from the first")
    width: int | None = Field(None, ge=1, description="width; inferred")
    std: float = Field(0.02, ge=0, description="standard deviation of the first values")
    ports = Ports(like=T.tokens["...", "N", "e"], returns=T.tokens["...", "count", "width"])
    module = "vlmgraph.nn.connectors:LearnedQueries"
    multiplies = False

    @model_validator(mode="after")
    def _some(self) -> LearnedQueries:
        if self.count is None and not self.counts:
            raise ValueError("give the number of queries, `count`, or `counts`")
        if any(not 1 <= count <= self.rows for count in self.counts.values()):
            raise ValueError(f"counts: 1 to {self.rows} queries can be used")
        return self

    @property
    def rows(self) -> int:
        return self.count or max(self.counts.values())

    def signature(self, facet: str = "") -> Ports:
        used = Dim.of(self.rows) if not self.counts else Dim()
        for tokens, count in self.counts.items():
            used = used + apply("==", Dim.of("N"), Dim.of(tokens)) * count
        return Ports(T.tokens["...", used, "width"], like=T.tokens["...", "N", "e"])

    def result(self, inputs: Mapping[str, Type | tuple[Type, ...]]) -> Mapping[str, Type] | None:
        """Raises DimError for items of a number of tokens that `counts` does not name."""
        like = inputs["like"]
        tokens = like.dims[-2].constant if isinstance(like, Type) else None
        if self.counts and tokens is not None and tokens not in self.counts:
            raise DimError(f"there are queries for items of {' or '.join(map(str, self.counts))} tokens, not of {tokens}")
        return None

    def arguments(self) -> dict[str, Any]:
        return {"count": self.rows, "width": self.width, "std": self.std, "counts": tuple(self.counts.items())}

    def parameters(self) -> dict[str, int]:
        return {"queries": self.rows * (self.width or 0)}
