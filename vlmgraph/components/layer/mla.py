"""attention.mla: multi-head latent attention."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from ...ir.dims import Dim
from ..base import Layer, linear


class LatentAttention(Layer, name="attention.mla"):
    """Keys and values of all heads from one small vector a token, all that a cache keeps (DeepSeek-V2, arXiv 2405.04434, section 2.1).

    Positions turn `rope` further values alone: give the stack `position = { type = "position.rope", head_dim = ROPE, interleaved = true }`.
    """

    width: int | None = Field(None, ge=1, description="width of the tokens; the stack's")
    heads: int | None = Field(None, ge=1, description="heads; the stack's")
    kv_rank: int = Field(ge=1, description="width of the vector that keys and values come from")
    q_rank: int | None = Field(None, ge=1, description="width of a vector that queries come from; else from the token itself")
    nope: int = Field(ge=1, description="values of a head's query and key that no position turns")
    rope: int = Field(ge=2, description="values that positions turn, of a key the same for all heads")
    value: int = Field(ge=1, description="width of a head's value")
    interleaved: bool | None = Field(None, description="rotary pairs are neighbours; the position's own word")
    bias: bool | None = Field(None, description="biases in what makes the small vectors, and in the output")
    latent_eps: float = Field(1e-6, gt=0, description="epsilon of the norms of the small vectors")
    module = "vlmgraph.nn.mla:LatentAttention"

    @property
    def cached(self) -> int:
        """Elements kept for every token while decoding."""
        return self.kv_rank + self.rope

    def arguments(self) -> dict[str, Any]:
        fields = super().arguments()
        eps = fields.pop("latent_eps")
        return {**fields, "interleaved": bool(self.interleaved), "bias": bool(self.bias), "eps": eps}

    @property
    def queries(self) -> int:
        return (self.heads or 0) * (self.nope + self.rope)

    def parameters(self) -> dict[str, int]:
        width, heads, biased = self.width or 0, self.heads or 0, bool(self.bias)
        q = width * self.queries
        if self.q_rank is not None:
            q = linear(width, self.q_rank, biased) + self.q_rank + self.q_rank * self.queries
        kv = linear(width, self.kv_rank + self.rope, biased) + self.kv_rank + self.kv_rank * heads * (self.nope + self.value)
        return {"": q + kv + linear(heads * self.value, width, biased)}

    def flops(self, dims: Mapping[str, Dim]) -> Dim:
        """N queries over as many keys, which are made for every head."""
        width, heads = self.width or 0, self.heads or 0
        q = width * self.queries if self.q_rank is None else self.q_rank * (width + self.queries)
        kv = width * (self.kv_rank + self.rope) + self.kv_rank * heads * (self.nope + self.value)
        weights = q + kv + heads * self.value * width
        return dims["N"] * (2 * weights) + dims["N"] * dims["K"] * (2 * heads * (self.nope + self.rope + self.value))
