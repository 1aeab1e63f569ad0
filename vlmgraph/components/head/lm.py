"""Heads: states to logits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from ...ir import types as T
from ...ir.dims import Dim
from ..base import Head, Ports, linear
from ..counting import dense


class LMHead(Head, name="head.lm"):
    """Next-token logits; `of = "llm"` takes width, vocabulary and form from the decoder: tokens[..., width] →
    logits[..., vocab + added]."""

    width: int | None = Field(None, ge=1, description="width of the states; inferred")
    vocab: int = Field(ge=1, description="number of tokens")
    added: int = Field(0, ge=0, description="further tokens, in a table of their own behind the others")
    tie: bool = Field(False, description="share the embedding table of the same decoder")
    bias: bool = Field(False, description="add a vector to the logits")
    logit_scale: float | None = Field(None, description="factor on the logits")
    soft_cap: float | None = Field(None, ge=0, description="bound c of c * tanh(logits / c); 0: none")
    ports = Ports(x=T.tokens["...", "width"], returns=T.logits["...", "vocab+added"])
    shares = ("width", "vocab", "tie", "logit_scale", "soft_cap")
    parts = ("proj", "added")
    module = "vlmgraph.nn.heads:LMHead"

    def arguments(self) -> dict[str, Any]:
        return {
            "width": self.width,
            "vocab": self.vocab,
            "added": self.added,
            "bias": self.bias,
            "scale": self.logit_scale,
            "soft_cap": self.soft_cap or None,
        }

    def parameters(self) -> dict[str, int]:
        counts = {"proj": linear(self.width or 0, self.vocab, self.bias)}
        return counts | ({"added": linear(self.width or 0, self.added, self.bias)} if self.added else {})

    def flops(self, dims: Mapping[str, Dim]) -> Dim:
        return dense(dims, self.width or 0, self.vocab + self.added)
