"""text.embedding: ids to vectors."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from ...ir import types as T
from ..base import Component, Ports
from ..layer.slot import NormSlot, filled


class TextEmbedding(Component, name="text.embedding"):
    """Token vectors, with learned positions, token types and a norm where asked for: ids[B, T] → tokens[B, T, width].

    `of = "llm"` takes vocabulary, width and scale from that component.
    """

    vocab: int = Field(ge=1, description="rows of the table")
    width: int | None = Field(None, ge=1, description="width of a vector; inferred where the next part fixes it")
    added: int = Field(0, ge=0, description="further rows in a table of their own, with the ids vocab, vocab + 1, ...")
    max_positions: int | None = Field(None, ge=1, description="number of learned positions; none where left out")
    offset: int = Field(0, ge=0, description="rows of the positions that position 0 skips")
    types: int = Field(0, ge=0, description="number of token types")
    norm: NormSlot | None = Field(None, description="behind the sum")
    scale: float | None = Field(None, description="factor on the token vectors")
    std: float = Field(0.02, gt=0, description="standard deviation of the first values")
    position_std: float | None = Field(None, gt=0, description="that of the positions; `std` where left out")
    role = "embedding"
    multiplies = False
    shares = ("vocab", "width", "scale")
    module = "vlmgraph.nn.embedding:TextEmbedding"

    def signature(self, facet: str = "") -> Ports:
        ports = {"positions": T.positions["B", "T"].optional_} if self.max_positions else {}
        if self.types:
            ports["types"] = T.index["B", "T"].optional_
        return Ports(T.tokens["B", "T", "width"], ids=T.ids["B", "T"], **ports)

    def arguments(self) -> dict[str, Any]:
        norm = None if self.norm is None else filled(self.norm, width=self.width).build()
        return {**super().arguments(), "max_positions": self.max_positions or 0, "norm": norm}

    def parameters(self) -> dict[str, int]:
        width = self.width or 0
        rows = {"tokens": self.vocab, "added": self.added, "types": self.types}
        counts = {name: count * width for name, count in rows.items() if count}
        if self.max_positions:
            counts["positions"] = (self.max_positions + self.offset) * width
        if self.norm is not None:
            counts["norm"] = filled(self.norm, width=width or 1).total()
        return counts

    def addresses(self) -> tuple[str, ...]:
        return tuple(self.parameters())
