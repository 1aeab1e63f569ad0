"""connector.qformer: learned queries that read an image, with a text path for its first training stage."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field, model_validator

from ...ir import types as T
from ...ir.dims import Dim
from ..base import Connector, Ports, linear


class QFormer(Connector, name="connector.qformer"):
    """Q-Former (BLIP-2, arXiv 2301.12597): a BERT body over [queries; text] whose queries attend to an image.

    image tokens[B, V, d_image] give `queries` tokens[B, queries, width]; ids[C, T] give `text` tokens[C, T, width]. A node's `mask` says
    who sees whom when both are fed: "unimodal", "bidirectional" (the default) or "multimodal_causal".
    """

    d_image: int | None = Field(None, ge=1, description="width of the image tokens; inferred")
    queries: int = Field(32, ge=1, description="number of learned queries")
    layers: int = Field(12, ge=1, description="number of layers")
    width: int = Field(768, ge=1, description="width of queries and text")
    heads: int = Field(12, ge=1, description="attention heads")
    mlp: int = Field(3072, ge=1, description="hidden width of the MLPs, of which queries and text have one each")
    cross_every: int = Field(2, ge=1, description="every so many layers the queries attend to the image, from the first")
    text: bool = Field(True, description="has the text path: embedding and text MLPs")
    vocab: int = Field(30523, ge=1, description="rows of the text embedding")
    max_positions: int = Field(512, ge=1, description="longest text")
    norm_eps: float = Field(1e-12, gt=0, description="epsilon of the layer norms")
    std: float = Field(0.02, gt=0, description="standard deviation of the first values")
    options = ("mask",)
    parts = ("queries", "embed", "tokens", "positions", "norm", "attention", "cross", "mlp", "query", "text")
    ports = Ports(
        {"queries": T.tokens["B", "queries", "width"], "text": T.tokens["C", "T", "width"]},
        image=T.tokens["B", "V", "d_image"].optional_,
        ids=T.ids["C", "T"].optional_,
        ids_mask=T.mask["C", "T"].optional_,
    )
    module = "vlmgraph.nn.qformer:QFormer"

    @model_validator(mode="after")
    def _fits(self) -> QFormer:
        if self.width % self.heads:
            raise ValueError(f"heads: {self.heads} heads do not divide the width {self.width}")
        return self

    def signature(self, facet: str = "") -> Ports:
        if self.text:
            return type(self).ports
        return Ports({"queries": T.tokens["B", "queries", "width"]}, image=T.tokens["B", "V", "d_image"])

    def absent(self, fed: frozenset[str]) -> frozenset[str]:
        """Outputs that do not exist when only the ports `fed` are fed."""
        return frozenset(output for output, port in (("queries", "image"), ("text", "ids")) if port not in fed)

    def arguments(self) -> dict[str, Any]:
        fields = super().arguments()
        eps = fields.pop("norm_eps")
        return {**fields, "eps": eps}

    @property
    def crossings(self) -> int:
        """Layers with cross-attention."""
        return -(-self.layers // self.cross_every)

    def parameters(self) -> dict[str, int]:
        w, norm = self.width, 2 * self.width
        expert = linear(w, self.mlp) + linear(self.mlp, w) + norm
        return {
            "queries": self.queries * w,
            "embed.norm": norm,
            "embed.tokens": self.vocab * w if self.text else 0,
            "embed.positions": self.max_positions * w if self.text else 0,
            "attention": self.layers * (4 * linear(w, w) + norm),
            "cross": self.crossings * (2 * linear(w, w) + 2 * linear(self.d_image or 0, w) + norm),
            "mlp.query": self.layers * expert,
            "mlp.text": self.layers * expert if self.text else 0,
        }

    def flops(self, dims: Mapping[str, Dim]) -> Dim:
        """Both paths where both are fed, as one sequence; cross-attention for the queries only."""
        w, none = self.width, Dim()
        queries = Dim.of(self.queries) if "V" in dims else none
        total = queries + dims.get("T", none)
        layer = total * (4 * w * w + 2 * w * self.mlp) + total * total * (2 * w)
        cost = layer * self.layers
        if "V" in dims:
            image = dims["V"]
            cost = cost + (queries * (2 * w * w) + image * (2 * w * (self.d_image or 0)) + queries * image * (2 * w)) * self.crossings
        return dims.get("B", dims.get("C", none)) * cost * 2
