"""text.positions: learned positions of a sequence that is put together before."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from ...ir import types as T
from ..base import Component, Ports
from ..layer.slot import NormSlot, filled


class TextPositions(Component, name="text.positions"):
    """Learned positions added to tokens, whatever they stand for, and a norm behind the sum: tokens[B, N, width] → the same.

    Where words have their positions before images are put among them use the fields of `text.embedding`.
    """

    max_positions: int = Field(ge=1, description="number of positions")
    width: int | None = Field(None, ge=1, description="width of the tokens; inferred")
    offset: int = Field(0, ge=0, description="rows in front that position 0 skips (BART: 2)")
    norm: NormSlot | None = Field(None, description="behind the sum")
    std: float = Field(0.02, gt=0, description="standard deviation of the first values")
    role = "embedding"
    multiplies = False
    parts = ("positions", "norm")
    ports = Ports(x=T.tokens["B", "N", "width"], returns=T.tokens["B", "N", "width"])
    module = "vlmgraph.nn.embedding:TextPositions"

    def arguments(self) -> dict[str, Any]:
        return {**super().arguments(), "norm": None if self.norm is None else filled(self.norm, width=self.width).build()}

    def parameters(self) -> dict[str, int]:
        counts = {"positions": (self.max_positions + self.offset) * (self.width or 0)}
        if self.norm is not None:
            counts["norm"] = filled(self.norm, width=self.width or 1).total()
        return counts
