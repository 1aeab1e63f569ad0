"""connector.resampler: a fixed number of latents read from any number of tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, model_validator

from ...ir import types as T
from ...ir.dims import Dim
from ..base import Connector, Ports, linear
from ..layer.mlp import Act, activation


class Resampler(Connector, name="connector.resampler"):
    """Perceiver resampler (Flamingo, arXiv 2204.14198, section 3.1.1; Idefics): learned latents attend to the tokens of an
    image or clip, tokens[B, F, V, d] → tokens[B, queries, d]; without `video` the input is tokens[B, V, d].
    """

    d: int | None = Field(None, ge=1, description="width; inferred")
    queries: int = Field(64, ge=1, description="number of latents")
    layers: int = Field(6, ge=1, description="attention and MLP, so many times")
    heads: int = Field(8, ge=1, description="attention heads")
    head_dim: int = Field(64, ge=1, description="width of a head")
    mlp: int | None = Field(None, ge=0, description="hidden width of the MLP; four times `d` where not given, 0 for none")
    act: Act = Field("gelu", description="activation of the MLP")
    keys: Literal["media+latents", "media"] = Field("media+latents", description="what the latents attend to")
    bias: bool = Field(False, description="biases in all linear layers")
    qk_norm: bool = Field(False, description="layer norm on the queries and keys of every head")
    video: bool = Field(True, description="the input has a frame axis; the frames of an item are read together")
    frames: int = Field(0, ge=0, description="learned time embeddings, stretched linearly for more frames; 0 for none")
    media: int = Field(0, ge=0, description="learned embeddings of the place of an item among those of the sample; 0 for none")
    norm_eps: float = Field(1e-5, gt=0, description="epsilon of the layer norms")
    final_norm: bool = Field(True, description="layer norm after the last layer")
    ports = Ports(media=T.tokens["B", "F", "V", "d"], returns=T.tokens["B", "queries", "d"])
    module = "vlmgraph.nn.resampler:Resampler"

    @model_validator(mode="after")
    def _fits(self) -> Resampler:
        if self.frames and not self.video:
            raise ValueError("frames: time embeddings need the frame axis of `video = true`")
        return self

    def signature(self, facet: str = "") -> Ports:
        items = ("B", "M") if self.media else ("B",)
        shape = items + (("F", "V", "d") if self.video else ("V", "d"))
        return Ports(media=T.tokens[shape], returns=T.tokens[items + ("queries", "d")])  # noqa: RUF005

    @property
    def hidden(self) -> int:
        return 4 * (self.d or 0) if self.mlp is None else self.mlp

    def arguments(self) -> dict[str, Any]:
        fields = super().arguments()
        eps = fields.pop("norm_eps")
        return {**fields, "mlp": self.hidden, "act": activation(self.act), "eps": eps}

    def parameters(self) -> dict[str, int]:
        d, inner = self.d or 0, self.heads * self.head_dim
        attention = 3 * linear(d, inner, self.bias) + linear(inner, d, self.bias) + (4 * self.head_dim if self.qk_norm else 0) + 4 * d
        mlp = linear(d, self.hidden, self.bias) + linear(self.hidden, d, self.bias) + 2 * d if self.hidden else 0
        return {
            "queries": self.queries * d,
            "frames": self.frames * d,
            "media": self.media * d,
            "layers": self.layers * (attention + mlp),
            "final_norm": 2 * d if self.final_norm else 0,
        }

    def flops(self, dims: Mapping[str, Dim]) -> Dim:
        d, inner = self.d or 0, self.heads * self.head_dim
        media = dims["V"] * dims["F"] if self.video else dims["V"]
        keys = media + self.queries if self.keys == "media+latents" else media
        layer = keys * (2 * d * inner) + keys * (2 * self.queries * inner) + self.queries * (2 * d * inner + 2 * d * self.hidden)
        items = dims["B"] * dims["M"] if self.media else dims["B"]
        return items * layer * (2 * self.layers)
