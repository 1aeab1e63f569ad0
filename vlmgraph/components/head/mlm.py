"""head.mlm: BERT's masked-word head."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from ...ir import types as T
from ...ir.dims import Dim
from ..base import Head, Ports, linear
from ..counting import dense
from ..layer.mlp import activation


class MLMHead(Head, name="head.mlm"):
    """Dense, activation, norm, then a decoder with bias that may be tied to the word table: tokens[..., width] → logits[..., vocab]
    (BERT, arXiv 1810.04805)."""

    width: int | None = Field(None, ge=1, description="width of the states; inferred")
    vocab: int = Field(ge=1, description="number of tokens")
    act: str = Field("gelu", description="activation")
    eps: float = Field(1e-12, gt=0, description="of the norm")
    ports = Ports(x=T.tokens["...", "width"], returns=T.logits["...", "vocab"])
    shares = ("width", "vocab")
    module = "vlmgraph.nn.heads:MLMHead"

    def arguments(self) -> dict[str, Any]:
        return {"width": self.width, "vocab": self.vocab, "act": activation(self.act), "eps": self.eps}

    def parameters(self) -> dict[str, int]:
        width = self.width or 0
        return {"dense": linear(width, width), "norm": 2 * width, "decoder.weight": width * self.vocab, "decoder.bias": self.vocab}

    def flops(self, dims: Mapping[str, Dim]) -> Dim:
        return dense(dims, self.width or 0, self.width or 0, self.vocab)
