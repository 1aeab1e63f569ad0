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
    image or clip, tokens[B, F, V, d] → tokens[B, queries, d]; without `video` the input is tokens[B, V, d]. A `mask` leaves padding out.
    """

    d: int | None = Field(None, ge=1, description="width; inferred")
    queries: int = Field(64, ge=1, description="number of latents")
    layers: int = Field(6, ge=1, description="attention and MLP, so many times")
    heads: int = Field(8, ge=1, description="attention heads")
    kv_heads: int | None = Field(None, ge=1, description="key and value heads; as many as `heads`")
    head_dim: int = Field(64, ge=1, description="width of a head")
    mlp: int | None = Field(None, ge=0, description="hidden width of the MLP; four times `d` where not given, 0 for none")
    gated: bool = Field(False, description="the MLP is gated: down(act(gate x) * up x)")
    act: Act = Field("gelu", description="activation of the MLP")
    keys: Literal["media+latents", "media"] = Field("media+latents", description="what the latents attend to")
    bias: bool = Field(False, description="biases in all linear layers")
    qk_norm: bool = Field(False, description="layer norm on the queries and keys of every head")
    video: bool = Field(True, description="the input has a frame axis; the frames of an item are read together")
    frames: int = Field(0, ge=0, description="learned time embeddings, stretched linearly for more frames; 0 for none")
    media: int = Field(0, ge=0, description="learned embeddings of the place of an item among those of the sample; 0 for none")
    norm: Literal["norm.layer", "norm.rms", "none"] = Field("norm.layer", description="of media, latents, MLPs and what goes out")
    residual: bool = Field(True, description="what is read is added to the latents, or takes their place (KOSMOS-1, arXiv 2302.14045)")
    norm_eps: float = Field(1e-5, gt=0, description="epsilon of the norms")
    final_norm: bool = Field(True, description="a norm after the last layer")
    init: Literal["normal", "ones"] = Field("normal", description="first values of the latents: unit normal, or one")
    ports = Ports(media=T.tokens["B", "F", "V", "d"], returns=T.tokens["B", "queries", "d"])
    module = "vlmgraph.nn.resampler:Resampler"

    @model_validator(mode="after")
    def _fits(self) -> Resampler:
        if self.frames and not self.video:
            raise ValueError("frames: time embeddings need the frame axis of `video = true`")
        if self.kv_heads is not None and self.heads % self.kv_heads:
            raise ValueError(f"kv_heads: {self.kv_heads} do not divide {self.heads} heads")
        return self

    def signature(self, facet: str = "") -> Ports:
        items = ("B", "M") if self.media else ("B",)
        shape = items + (("F", "V") if self.video else ("V",))
        return Ports(media=T.tokens[(*shape, "d")], mask=T.mask[shape].optional_, returns=T.tokens[(*items, "queries", "d")])

    @property
    def hidden(self) -> int:
        return 4 * (self.d or 0) if self.mlp is None else self.mlp

    @property
    def kv_inner(self) -> int:
        """Width of all keys."""
        return (self.kv_heads or self.heads) * self.head_dim

    def arguments(self) -> dict[str, Any]:
        fields = super().arguments()
        eps = fields.pop("norm_eps")
        return {**fields, "mlp": self.hidden, "act": activation(self.act), "eps": eps, "norm": self.norm.removeprefix("norm.")}

    def parameters(self) -> dict[str, int]:
        d, inner = self.d or 0, self.heads * self.head_dim
        each = {"norm.layer": 2, "norm.rms": 1, "none": 0}[self.norm]  # values of a norm by channel
        maps = linear(d, inner, self.bias) + 2 * linear(d, self.kv_inner, self.bias) + linear(inner, d, self.bias)
        attention = maps + each * (2 * d + (2 * self.head_dim if self.qk_norm else 0))
        entries = linear(d, self.hidden, self.bias) * (2 if self.gated else 1)
        mlp = entries + linear(self.hidden, d, self.bias) + each * d if self.hidden else 0
        return {
            "queries": self.queries * d,
            "frames": self.frames * d,
            "media": self.media * d,
            "layers": self.layers * (attention + mlp),
            "final_norm": each * d if self.final_norm else 0,
        }

    def flops(self, dims: Mapping[str, Dim]) -> Dim:
        d, inner = self.d or 0, self.heads * self.head_dim
        media = dims["V"] * dims["F"] if self.video else dims["V"]
        keys = media + self.queries if self.keys == "media+latents" else media
        feed = (3 if self.gated else 2) * d * self.hidden
        layer = keys * (2 * d * self.kv_inner) + keys * (2 * self.queries * inner) + self.queries * (2 * d * inner + feed)
        items = dims["B"] * dims["M"] if self.media else dims["B"]
        return items * layer * (2 * self.layers)
