"""Perceiver resampler: any number of tokens → a fixed number of learned latents (Flamingo, arXiv 2204.14198, section 3.1.1)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .attention import CrossAttention
from .mlp import MLP, GatedMLP
from .norm import RMSNorm


class ResamplerLayer(nn.Module):
    """x + attention(x; media or media and x), then x + mlp(x), each behind its norms. The media are never changed.

    Without `residual` what attention reads takes the place of x.
    """

    def __init__(
        self,
        attention: CrossAttention,
        mlp: MLP | GatedMLP | None,
        norms: Mapping[str, nn.Module],
        keys: str = "media+latents",
        residual: bool = True,
    ) -> None:
        super().__init__()
        self.keys, self.residual = keys, residual
        self.norms = nn.ModuleDict(norms)
        self.attention = attention
        self.mlp = mlp

    def forward(self, x: Tensor, media: Tensor, mask: Tensor | None = None) -> Tensor:
        """Latents x [B, Q, d], media [B, K, d] and which of them are real, mask [B, K] → [B, Q, d]."""
        latents, media = self.norms["attention"](x), self.norms["media"](media)
        keys = torch.cat([media, latents], dim=1) if self.keys == "media+latents" else media
        if mask is not None and self.keys == "media+latents":
            mask = torch.cat([mask.bool(), torch.ones(latents.shape[:2], dtype=torch.bool, device=mask.device)], dim=1)
        read = self.attention(latents, keys, mask)
        x = x + read if self.residual else read
        if self.mlp is not None:
            x = x + self.mlp(self.norms["mlp"](x))
        return x


class Resampler(nn.Module):
    """tokens [..., V, d] → latents [..., queries, d].

    video: the input has a frame axis, [..., F, V, d], and all frames of an item are read together. `frames` learned time
    embeddings are added to every token of a frame; more frames than there are embeddings stretch the table linearly, its
    ends staying at the ends. `media` learned embeddings number the items of a sample, [B, M, ...]. No code for the place
    in the image: the tokens carry it. `mask` [..., V], or [..., F, V], leaves padding out. `norm`: "layer", "rms" or "none". `kv_heads` <
    `heads` share keys and values among groups of heads. `init`: latents begin as unit normal vectors, or as "ones". One layer without
    norms, residual and MLP is the attentive pooling of KOSMOS-1 (arXiv 2302.14045, section 2.2).
    """

    def __init__(
        self,
        d: int,
        queries: int,
        layers: int,
        heads: int,
        head_dim: int,
        mlp: int,
        act: nn.Module,
        keys: str = "media+latents",
        bias: bool = False,
        qk_norm: bool = False,
        video: bool = True,
        frames: int = 0,
        media: int = 0,
        eps: float = 1e-5,
        final_norm: bool = True,
        kv_heads: int | None = None,
        gated: bool = False,
        norm: str = "layer",
        init: str = "normal",
        residual: bool = True,
    ) -> None:
        super().__init__()
        self.video, self.init = video, init
        self.queries = nn.Parameter(torch.empty(queries, d))
        self.frames = nn.Parameter(torch.empty(frames, d)) if frames else None
        self.media = nn.Parameter(torch.empty(media, d)) if media else None
        letters = "qkvo" if bias else ""

        def norm_of(width: int) -> nn.Module:
            return nn.Identity() if norm == "none" else RMSNorm(width, eps) if norm == "rms" else nn.LayerNorm(width, eps=eps)

        names = ["media", "attention"] + (["mlp"] if mlp else [])
        feed = GatedMLP if gated else MLP
        self.layers = nn.ModuleList()
        for _ in range(layers):
            q_norm, k_norm = (norm_of(head_dim), norm_of(head_dim)) if qk_norm else (None, None)
            attention = CrossAttention(d, d, heads, kv_heads, head_dim, letters, q_norm, k_norm)
            own = {name: norm_of(d) for name in names}
            self.layers.append(ResamplerLayer(attention, feed(d, mlp, act, bias) if mlp else None, own, keys, residual))
        self.final_norm = norm_of(d) if final_norm else nn.Identity()
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Unit normal latents and embeddings, as in OpenFlamingo; latents of ones as in Idefics2."""
        for table in (self.queries, self.frames, self.media):
            if table is not None:
                nn.init.normal_(table)
        if self.init == "ones":
            nn.init.ones_(self.queries)

    def forward(self, media: Tensor, mask: Tensor | None = None) -> Tensor:
        if self.frames is not None:
            media = media + time_table(self.frames, media.shape[-3])[:, None].to(media.dtype)
        if self.video:
            media = media.flatten(-3, -2)
            mask = None if mask is None else mask.flatten(-2)
        if self.media is not None:
            if media.shape[-3] > len(self.media):
                raise ValueError(f"{media.shape[-3]} media a sample, but the resampler has embeddings for {len(self.media)}")
            media = media + self.media[: media.shape[-3], None].to(media.dtype)
        around = media.shape[:-2]
        media = media.flatten(0, -3)
        mask = None if mask is None else mask.flatten(0, -2)
        x = self.queries.to(media.dtype).expand(media.shape[0], -1, -1)
        for layer in self.layers:
            x = layer(x, media, mask)
        return self.final_norm(x).unflatten(0, around)


def time_table(table: Tensor, count: int) -> Tensor:
    """The first `count` rows; where there are too few, the table stretched linearly over `count` frames: [count, d]."""
    if count <= len(table):
        return table[:count]
    return F.interpolate(table.T[None], size=count, mode="linear", align_corners=True)[0].T
