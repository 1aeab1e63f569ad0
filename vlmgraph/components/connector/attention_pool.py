"""connector.attention_pool: all tokens → one vector, by attention with a single query."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, model_validator

from ...ir import types as T
from ...ir.dims import Dim
from ..base import Connector, Ports, linear
from ..layer.mlp import Act, activation


class AttentionPool(Connector, name="connector.attention_pool"):
    """Attention pooling (CLIP's ResNets, arXiv 2103.00020; SigLIP, arXiv 2303.15343; AIM, arXiv 2401.08541): tokens[B, N, d] →
    embedding[B, out]. A learned query leaves padding out."""

    d: int | None = Field(None, ge=1, description="width of the tokens; inferred")
    out: int | None = Field(None, ge=1, description="width that goes out; inferred where the next part fixes it")
    heads: int = Field(8, ge=1, description="attention heads")
    query: Literal["mean", "learned"] = Field("mean", description="the mean of the tokens asks, or a learned vector")
    query_proj: bool = Field(True, description="the query goes through a map of its own")
    bias: bool = Field(True, description="biases of queries, keys and values; the map behind always has one")
    position: bool = Field(False, description="learned positions on the tokens and the mean")
    count: int | None = Field(None, ge=1, description="number of tokens; inferred, needed for positions only")
    mlp: int = Field(0, ge=0, description="hidden width of a residual MLP behind the attention; 0 for none")
    act: Act = Field("gelu", description="activation of the MLP")
    norm_eps: float = Field(1e-6, gt=0, description="epsilon of the MLP's norm")
    init: Literal["normal", "xavier", "plain"] = Field(
        "normal", description="first weights: N(0, fan_in ** -0.5) (CLIP), Xavier-uniform (SigLIP), or N(0, 0.02) (AIM)"
    )
    ports = Ports(x=T.tokens["B", "N", "d"], returns=T.embedding["B", "out"])
    module = "vlmgraph.nn.attention_pool:AttentionPool"

    @model_validator(mode="after")
    def _fits(self) -> AttentionPool:
        if self.d is not None and self.d % self.heads:
            raise ValueError(f"heads: {self.heads} heads do not divide the width {self.d}")
        return self

    def signature(self, facet: str = "") -> Ports:
        count = "count" if self.position else "N"
        ports = Ports(x=T.tokens["B", count, "d"], returns=T.embedding["B", "out"])
        return ports if self.query == "mean" else ports | {"mask": T.mask["B", count].optional_}

    @property
    def places(self) -> int:
        return self.count or 0 if self.position else 0

    def arguments(self) -> dict[str, Any]:
        fields = super().arguments()
        eps = fields.pop("norm_eps")
        del fields["position"], fields["count"]
        return {**fields, "act": activation(self.act), "positions": self.places, "eps": eps}

    def parameters(self) -> dict[str, int]:
        d, out = self.d or 0, self.out or 0
        return {
            "positions": (self.places + (self.query == "mean")) * d if self.places else 0,
            "query": d if self.query == "learned" else 0,
            "attention": (3 if self.query_proj else 2) * linear(d, d, self.bias) + linear(d, out),
            "norm": 2 * out if self.mlp else 0,
            "mlp": linear(out, self.mlp) + linear(self.mlp, out) if self.mlp else 0,
        }

    def flops(self, dims: Mapping[str, Dim]) -> Dim:
        d, out = self.d or 0, self.out or 0
        keys = dims["N"] if "N" in dims else Dim.of(self.places)
        keys = keys + 1 if self.query == "mean" else keys
        query = d * d if self.query_proj else 0
        return dims["B"] * (keys * (2 * d * d + 2 * d) + (query + d * out + 2 * out * self.mlp)) * 2
