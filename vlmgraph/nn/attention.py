"""Attention layers over `scaled_dot_product_attention`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .cache import LayerCache
from .mlp import route
from .rope import Rotation, rotate

BIASES = "qkvo"


class Projections(nn.Module):
    """The four linear maps of attention. `bias` holds the letters (q, k, v, o) of those with a bias."""

    def __init__(self, width: int, d_keys: int, d_q: int, d_kv: int, bias: str = "") -> None:
        super().__init__()
        self.q = nn.Linear(width, d_q, bias="q" in bias)
        self.k = nn.Linear(d_keys, d_kv, bias="k" in bias)
        self.v = nn.Linear(d_keys, d_kv, bias="v" in bias)
        self.out = nn.Linear(d_q, width, bias="o" in bias)


class Attention(Projections):
    """Multi-head self-attention: x [B, N, width] → [B, N, width].

    `kv_heads` < `heads` share keys and values among groups of heads (GQA, arXiv 2305.13245). `q_norm`, `k_norm` act on every head by
    itself, or on all heads as one vector with `norm_whole`. `scale` is the factor on scores, head_dim ** -0.5 where None;
    soft_cap c bounds them, c * tanh(score / c). `inner_norm` acts on the heads side by side, in front of the last map (Sub-LN, Magneto,
    arXiv 2210.06423, section 2.2).
    """

    def __init__(
        self,
        width: int,
        heads: int,
        kv_heads: int | None = None,
        head_dim: int | None = None,
        bias: str = "",
        q_norm: nn.Module | None = None,
        k_norm: nn.Module | None = None,
        norm_whole: bool = False,
        scale: float | None = None,
        soft_cap: float | None = None,
        interleaved: bool = False,
        d_keys: int | None = None,
        inner_norm: nn.Module | None = None,
    ) -> None:
        self.width, self.heads, self.kv_heads = width, heads, kv_heads or heads
        if self.heads % self.kv_heads:
            raise ValueError(f"{self.kv_heads} kv_heads do not divide {heads} heads")
        if head_dim is None and width % heads:
            raise ValueError(f"{heads} heads do not divide the width {width}")
        self.head_dim = head_dim or width // heads
        super().__init__(width, d_keys or width, heads * self.head_dim, self.kv_heads * self.head_dim, bias)
        self.q_norm, self.k_norm, self.norm_whole = q_norm, k_norm, norm_whole
        self.scale, self.soft_cap, self.interleaved = scale, soft_cap, interleaved
        self.inner_norm = inner_norm

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        rope: Rotation | None = None,
        cache: LayerCache | None = None,
        modality: Tensor | None = None,
    ) -> Tensor:
        """mask [B or 1, heads or 1, N, K], boolean or additive; K counts what the cache holds. rope, modality: of the N new tokens."""
        q, k, v = self.project(x, x, modality)
        if rope is not None:
            q, k = rotate(q, rope, self.interleaved), rotate(k, rope, self.interleaved)
        if cache is not None:
            k, v = cache.append(k, v)
        return self.leave(self.attend(q, k, v, mask), modality)

    def project(self, x: Tensor, keys: Tensor, modality: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Queries [B, heads, N, head_dim], keys and values [B, kv_heads, K, head_dim]."""
        return self.heads_of(self.q(x), self.q_norm), self.heads_of(self.k(keys), self.k_norm), self.heads_of(self.v(keys))

    def leave(self, y: Tensor, modality: Tensor | None = None) -> Tensor:
        """[B, N, heads * head_dim] → [B, N, width]."""
        return self.out(y if self.inner_norm is None else self.inner_norm(y))

    def heads_of(self, x: Tensor, norm: nn.Module | None = None) -> Tensor:
        """[B, N, heads * head_dim] → [B, heads, N, head_dim], normalised on the way."""
        if norm is not None and self.norm_whole:
            x = norm(x)
        x = x.unflatten(-1, (-1, self.head_dim))
        if norm is not None and not self.norm_whole:
            x = norm(x)
        return x.transpose(1, 2)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        """softmax(q k^T) v, heads side by side: [B, N, heads * head_dim]."""
        if self.kv_heads != self.heads:
            groups = self.heads // self.kv_heads
            k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
        if self.soft_cap is None:
            mask = mask.to(q.dtype) if mask is not None and mask.is_floating_point() else mask
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=self.scale)
        else:
            scores = q @ k.transpose(2, 3) * (self.head_dim**-0.5 if self.scale is None else self.scale)
            scores = torch.tanh(scores / self.soft_cap) * self.soft_cap
            if mask is not None:
                scores = scores + mask if mask.is_floating_point() else scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
            y = scores.softmax(-1, dtype=torch.float32).to(q.dtype) @ v
        return y.transpose(1, 2).flatten(2)


class ModalityExpertAttention(Attention):
    """Own q, k, v and out for every modality, one softmax over all tokens (visual expert, CogVLM, arXiv 2311.03079, section 2.1).

    Without modality ids the first expert's projections run alone.
    """

    def __init__(
        self,
        experts: Sequence[str],
        width: int,
        heads: int,
        kv_heads: int | None = None,
        head_dim: int | None = None,
        bias: str = "",
        **options: object,
    ) -> None:
        super().__init__(width, heads, kv_heads, head_dim, bias, **options)  # type: ignore[arg-type]
        d_q, d_kv = self.heads * self.head_dim, self.kv_heads * self.head_dim
        for name in ("q", "k", "v", "out"):
            delattr(self, name)
        self.experts = nn.ModuleDict({name: Projections(width, width, d_q, d_kv, bias) for name in experts})

    def project(self, x: Tensor, keys: Tensor, modality: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = (route([getattr(e, name) for e in self.experts.values()], x, modality) for name in ("q", "k", "v"))
        return self.heads_of(q, self.q_norm), self.heads_of(k, self.k_norm), self.heads_of(v)

    def leave(self, y: Tensor, modality: Tensor | None = None) -> Tensor:
        return route([e.out for e in self.experts.values()], y if self.inner_norm is None else self.inner_norm(y), modality)


class CrossAttention(Attention):
    """Queries from x [B, N, width], keys and values from media [B, M, d_media] → [B, N, width].

    A query that may attend to nothing gets zero, before the bias of the output projection.
    """

    def __init__(
        self,
        width: int,
        d_media: int,
        heads: int,
        kv_heads: int | None = None,
        head_dim: int | None = None,
        bias: str = "",
        q_norm: nn.Module | None = None,
        k_norm: nn.Module | None = None,
        scale: float | None = None,
    ) -> None:
        super().__init__(width, heads, kv_heads, head_dim, bias, q_norm, k_norm, scale=scale, d_keys=d_media)

    def forward(  # type: ignore[override]
        self, x: Tensor, media: Tensor, mask: Tensor | None = None, cache: LayerCache | None = None
    ) -> Tensor:
        """mask [B, M] or [B, N, M], True = may attend. A cache holds the keys and values of the first media that it sees."""
        if cache is not None and cache.k is not None and cache.v is not None:
            q, k, v = self.heads_of(self.q(x), self.q_norm), cache.k, cache.v
        else:
            q, k, v = self.project(x, media)
        if cache is not None:
            cache.put(k, v)
        if mask is None:
            return self.out(self.attend(q, k, v, None))
        mask = mask.bool()
        mask = mask[:, None, None] if mask.dim() == 2 else mask[:, None]
        some = mask.any(-1)  # [B, 1, N or 1]
        y = self.attend(q, k, v, mask | ~some[..., None])
        return self.out(y * some.transpose(1, 2).to(y.dtype))
