"""Multi-head latent attention: keys and values of all heads from one small vector a token, which is all that a cache keeps."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .cache import LayerCache
from .norm import RMSNorm
from .rope import Rotation, rotate


class LatentAttention(nn.Module):
    """x [B, N, width] → [B, N, width] (DeepSeek-V2, arXiv 2405.04434, section 2.1).

    c = norm(kv_a x) has `kv_rank` values; kv_b c gives `nope` values of a key and `value` of a value for every head. Positions turn `rope`
    further values alone, those of a query its head's own, those of a key one vector for all heads, out of kv_a x too; the scores are the
    sum of both products over sqrt(nope + rope). With a `q_rank` queries come through a normed vector of that width too.

    With a `cache`, which keeps c and the turned k_rope, later tokens never see keys and values: kv_b is multiplied into their queries
    and into what they read, which gives the same sums (section 2.1.2).
    """

    def __init__(
        self,
        width: int,
        heads: int,
        kv_rank: int,
        nope: int,
        rope: int,
        value: int,
        q_rank: int | None = None,
        interleaved: bool = True,
        bias: bool = False,
        eps: float = 1e-6,
    ) -> None:
        super().__init__()
        self.heads, self.nope, self.rope, self.value, self.kv_rank, self.interleaved = heads, nope, rope, value, kv_rank, interleaved
        self.scale = (nope + rope) ** -0.5
        self.q = nn.Linear(width, heads * (nope + rope), bias=False) if q_rank is None else None
        self.q_a = None if q_rank is None else nn.Linear(width, q_rank, bias=bias)
        self.q_norm = None if q_rank is None else RMSNorm(q_rank, eps)
        self.q_b = None if q_rank is None else nn.Linear(q_rank, heads * (nope + rope), bias=False)
        self.kv_a = nn.Linear(width, kv_rank + rope, bias=bias)
        self.kv_norm = RMSNorm(kv_rank, eps)
        self.kv_b = nn.Linear(kv_rank, heads * (nope + value), bias=False)
        self.out = nn.Linear(heads * value, width, bias=bias)

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        rope: Rotation | None = None,
        cache: LayerCache | None = None,
        modality: Tensor | None = None,
    ) -> Tensor:
        """mask [B or 1, 1, N, K], boolean or additive; K counts what the cache holds."""
        q = self.q(x) if self.q is not None else self.q_b(self.q_norm(self.q_a(x)))
        q = q.unflatten(-1, (self.heads, -1)).transpose(1, 2)
        q, q_rope = q.split((self.nope, self.rope), dim=-1)
        latent, k_rope = self.kv_a(x).split((self.kv_rank, self.rope), dim=-1)
        latent, k_rope = self.kv_norm(latent)[:, None], k_rope[:, None]  # one head
        if rope is not None:
            q_rope, k_rope = rotate(q_rope, rope, self.interleaved), rotate(k_rope, rope, self.interleaved)
        if cache is not None:
            latent, k_rope = cache.append(latent, k_rope)
        mask = mask.to(q.dtype) if mask is not None and mask.is_floating_point() else mask
        if cache is not None and latent.shape[2] > x.shape[1]:
            y = self.absorbed(q, q_rope, latent, k_rope, mask)
        else:
            y = self.expanded(q, q_rope, latent, k_rope, mask)
        return self.out(y.transpose(1, 2).flatten(2))

    def expanded(self, q: Tensor, q_rope: Tensor, latent: Tensor, k_rope: Tensor, mask: Tensor | None) -> Tensor:
        """Keys and values of every head from the latent vectors [B, 1, K, kv_rank] → [B, heads, N, value]."""
        k, v = self.kv_b(latent[:, 0]).unflatten(-1, (self.heads, -1)).transpose(1, 2).split((self.nope, self.value), dim=-1)
        k = torch.cat([k, k_rope.expand(-1, self.heads, -1, -1)], dim=-1)
        return F.scaled_dot_product_attention(torch.cat([q, q_rope], dim=-1), k, v, attn_mask=mask, scale=self.scale)

    def absorbed(self, q: Tensor, q_rope: Tensor, latent: Tensor, k_rope: Tensor, mask: Tensor | None) -> Tensor:
        """The same without keys and values: latent vectors are both, for all heads."""
        to_k, to_v = self.kv_b.weight.unflatten(0, (self.heads, -1)).split((self.nope, self.value), dim=1)
        k = torch.cat([latent, k_rope], dim=-1).expand(-1, self.heads, -1, -1)
        v = latent.expand(-1, self.heads, -1, -1)
        read = F.scaled_dot_product_attention(torch.cat([q @ to_k, q_rope], dim=-1), k, v, attn_mask=mask, scale=self.scale)
        return read @ to_v.transpose(1, 2)
