"""head.similarity: scores of every image against every text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from ...ir import types as T
from ...ir.dims import Dim
from ..base import Head, Ports


class Scale(BaseModel):
    """The factor on the products."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    init: float = Field(1.0, gt=0, description="first value, of the divisor with `divide`")
    max: float | None = Field(None, gt=0, description="bound that it is held at")
    min: float | None = Field(None, gt=0, description="the same from below (AIMv2)")
    learned: bool = Field(True, description="whether it trains")
    divide: bool = Field(False, description="a learned temperature that divides, where the default is a learned logarithm of the factor")

    range: tuple[float, float] | None = Field(None, description="bounds that the divisor is brought back to between steps (BLIP)")

    @model_validator(mode="after")
    def _bound(self) -> Scale:
        if self.divide and self.max is not None:
            raise ValueError("`max` bounds a factor; a divisor has a `range`")
        if self.min is not None and (self.divide or self.min > (self.max or self.min)):
            raise ValueError("`min` bounds a factor, no higher than `max`")
        if self.range is not None and not (self.divide and 0 < self.range[0] <= self.range[1]):
            raise ValueError("`range` holds a divisor between two numbers above zero, the smaller first; it takes `divide`")
        return self


class Similarity(Head, name="head.similarity"):
    """scale * image . text (+ bias), with outputs `out` (logits per image) and `scale`: embedding[B, d], embedding[C, d] → logits[B, C].

    CLIP (arXiv 2103.00020): init 1 / 0.07, max 100. SigLIP (arXiv 2303.15343): init 10, bias -10. BLIP-2 (arXiv 2301.12597): divide by
    0.07, `reduce = "max"` over the queries tokens[B, Q, d] of an image.
    """

    d: int | None = Field(None, ge=1, description="width of both sides; inferred")
    scale: Scale = Field(default_factory=Scale, description="factor on the products")
    bias: float | None = Field(None, description="first value of a learned offset; an output `bias` then too")
    reduce: Literal["max"] | None = Field(None, description="the nearest of several vectors an image counts")
    module = "vlmgraph.nn.similarity:Similarity"

    def signature(self, facet: str = "") -> Ports:
        image = T.tokens["B", "Q", "d"] if self.reduce else T.embedding["B", "d"]
        outputs = {"out": T.logits["B", "C"], "scale": T.scalar[()], **({} if self.bias is None else {"bias": T.scalar[()]})}
        return Ports(outputs, image=image, text=T.embedding["C", "d"])

    def arguments(self) -> dict[str, Any]:
        scale = self.scale
        bounds = {"minimum": scale.min, "maximum": scale.max, "bounds": scale.range}
        return {"initial": scale.init, "divide": scale.divide, "learned": scale.learned, "bias": self.bias, **bounds}

    def parameters(self) -> dict[str, int]:
        return {"temperature" if self.scale.divide else "log_scale": 1, **({} if self.bias is None else {"bias": 1})}

    def flops(self, dims: Mapping[str, Dim]) -> Dim:
        queries = dims["Q"] if self.reduce else Dim.of(1)
        return dims["B"] * queries * dims["C"] * (self.d or 0) * 2
