"""attention.mha, attention.modality_expert and attention.cross."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator

from ...ir.dims import Dim
from ..base import Layer, linear
from .mlp import named
from .slot import NormSlot, filled


class Heads(Layer):
    """What all attention layers share: heads, biases, norms on queries and keys."""

    width: int | None = Field(None, ge=1, description="width of the tokens; the stack's")
    heads: int | None = Field(None, ge=1, description="query heads; the stack's")
    kv_heads: int | None = Field(None, ge=1, description="key and value heads; as many as `heads`")
    head_dim: int | None = Field(None, ge=1, description="width of a head; width / heads")
    bias: bool | str | None = Field(None, description="which projections have a bias: all, none, or letters out of q, k, v, o")
    qk_norm: NormSlot | None = Field(None, description="norm on queries and keys (the point `attention.qk`)")
    qk_norm_over: Literal["head", "all"] = Field("head", description="each head by itself, or all heads as one vector")
    scale: float | None = Field(None, gt=0, description="factor on the scores; head_dim ** -0.5")

    @field_validator("bias")
    @classmethod
    def _letters(cls, bias: bool | str | None) -> bool | str | None:
        return bias_letters(bias)

    @property
    def letters(self) -> str:
        """The projections that have a bias."""
        return self.bias if isinstance(self.bias, str) else "qkvo" if self.bias else ""

    @property
    def dims(self) -> tuple[int, int, int, int]:
        """Width, head width, width of all queries, width of all keys."""
        width, heads = self.width or 0, self.heads or 1
        dim = self.head_dim or width // heads
        return width, dim, heads * dim, (self.kv_heads or heads) * dim

    @property
    def cached(self) -> int:
        """Elements kept for every token while decoding."""
        return 2 * self.dims[3]

    def norms(self) -> tuple[Any, Any]:
        """Configs of the norms of queries and of keys, or None twice."""
        if self.qk_norm is None:
            return None, None
        _, dim, q, k = self.dims
        widths = (q, k) if self.qk_norm_over == "all" else (dim, dim)
        return tuple(filled(self.qk_norm, width=width) for width in widths)  # type: ignore[return-value]

    def common(self) -> dict[str, Any]:
        q_norm, k_norm = (None if n is None else n.build() for n in self.norms())
        return {
            "width": self.width, "heads": self.heads, "kv_heads": self.kv_heads, "head_dim": self.head_dim, "bias": self.letters,
            "q_norm": q_norm, "k_norm": k_norm, "scale": self.scale,
        }  # fmt: skip

    def projections(self, d_keys: int) -> int:
        width, _, q, k = self.dims
        has = self.letters
        return linear(width, q, "q" in has) + linear(d_keys, k, "k" in has) + linear(d_keys, k, "v" in has) + linear(q, width, "o" in has)

    def norm_count(self) -> int:
        return sum(0 if n is None else n.total() for n in self.norms())

    def flops(self, dims: Mapping[str, Dim]) -> Dim:
        """N queries over K keys, of which as many are projected as there are queries."""
        width, _, q, k = self.dims
        return dims["N"] * (4 * width * (q + k)) + dims["N"] * dims["K"] * (4 * q)


class MultiHead(Heads, name="attention.mha"):
    """Multi-head self-attention (arXiv 1706.03762); with fewer `kv_heads` grouped queries (arXiv 2305.13245)."""

    soft_cap: float | None = Field(None, ge=0, description="bound c of c * tanh(score / c); 0: none")
    interleaved: bool | None = Field(None, description="rotary pairs are neighbours; the position's own word")
    inner_norm: NormSlot | None = Field(None, description="norm of all heads together, before the last map (the point `attention.inner`)")
    module = "vlmgraph.nn.attention:Attention"

    @property
    def inner(self) -> Any:
        """The norm before the last map with its width, if there is one."""
        return None if self.inner_norm is None else filled(self.inner_norm, width=self.dims[2])

    def arguments(self) -> dict[str, Any]:
        bound, whole = self.soft_cap or None, self.qk_norm_over == "all"
        inner = {} if self.inner is None else {"inner_norm": self.inner.build()}
        return {**self.common(), "norm_whole": whole, "soft_cap": bound, "interleaved": bool(self.interleaved), **inner}

    def parameters(self) -> dict[str, int]:
        return {"": self.projections(self.width or 0) + self.norm_count()}

    def norm_count(self) -> int:
        return super().norm_count() + (0 if self.inner is None else self.inner.total())


class ModalityExpert(MultiHead, name="attention.modality_expert"):
    """Own q, k, v and out for every modality and one softmax over all tokens (CogVLM's visual expert, arXiv 2311.03079)."""

    experts: tuple[str, ...] = Field(min_length=1, description="names by modality id, from 0")
    module = "vlmgraph.nn.attention:ModalityExpertAttention"
    routed: ClassVar[bool] = True

    @field_validator("experts")
    @classmethod
    def _named(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        return named(names)

    def arguments(self) -> dict[str, Any]:
        return {"experts": self.experts, **super().arguments()}

    def parameters(self) -> dict[str, int]:
        each = self.projections(self.width or 0)
        norms = {"": count} if (count := self.norm_count()) else {}
        return {**{f"experts.{name}": each for name in self.experts}, **norms}


class Cross(Heads, name="attention.cross"):
    """Queries from the tokens, keys and values from media."""

    d_media: int | None = Field(None, ge=1, description="width of the media; inferred")
    module = "vlmgraph.nn.attention:CrossAttention"

    def arguments(self) -> dict[str, Any]:
        if self.d_media is None:
            raise ValueError("the width of the media, d_media, follows from no edge: give it")
        if self.qk_norm_over == "all":
            raise ValueError("attention.cross normalises queries and keys by head")
        return {**self.common(), "d_media": self.d_media}

    def parameters(self) -> dict[str, int]:
        return {"": self.projections(self.d_media or 0) + self.norm_count()}

    def flops(self, dims: Mapping[str, Dim]) -> Dim:
        width, _, q, k = self.dims
        return dims["N"] * (4 * width * q) + dims["K"] * (4 * (self.d_media or 0) * k) + dims["N"] * dims["K"] * (4 * q)


def bias_letters(bias: bool | str | None) -> bool | str | None:
    """Raises ValueError for a string that is not made of q, k, v and o."""
    if isinstance(bias, str) and (not bias or set(bias) - set("qkvo") or len(set(bias)) != len(bias)):
        raise ValueError(f"{bias!r} does not say which projections have a bias: true, false, or letters out of q, k, v, o (out)")
    return bias
