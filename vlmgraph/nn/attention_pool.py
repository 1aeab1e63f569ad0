"""One vector read from all tokens by attention with a single query (CLIP, arXiv 2103.00020; SigLIP's pooling head, arXiv 2303.15343;
AIM's, arXiv 2401.08541)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .attention import CrossAttention
from .init import plain, xavier
from .mlp import MLP


class AttentionPool(nn.Module):
    """tokens [B, N, d] → [B, out].

    query "mean": the mean of the tokens, put in front of them, is the query (CLIP's ResNets); "learned": a learned vector is.
    positions: learned positions for that many tokens, and one for the mean. mlp: hidden width of a residual MLP behind the
    attention (SigLIP), 0 for none. Without `query_proj` the query asks as it is (AIM).
    """

    def __init__(
        self, d: int, heads: int, out: int, act: nn.Module, query: str = "mean", positions: int = 0, mlp: int = 0, eps: float = 1e-6,
        init: str = "normal", query_proj: bool = True, bias: bool = True,
    ) -> None:  # fmt: skip
        super().__init__()
        self.init = init
        self.positions = nn.Parameter(torch.empty(positions + (query == "mean"), d)) if positions else None
        self.query = nn.Parameter(torch.empty(1, d)) if query == "learned" else None
        self.attention = CrossAttention(d, d, heads, bias="qkvo" if bias else "")
        if not query_proj:
            self.attention.q = nn.Identity()
        self.attention.out = nn.Linear(d, out)
        self.norm = nn.LayerNorm(out, eps=eps) if mlp else None
        self.mlp = MLP(out, mlp, act) if mlp else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        for table in (self.positions, self.query):
            if table is not None:
                nn.init.normal_(table, std=0.02 if self.init == "plain" else table.shape[1] ** -0.5)

    def init_weights(self) -> None:
        """CLIP's N(0, fan_in**-0.5), SigLIP's (google-research/big_vision models/vit.py, MAPHead): all Xavier-uniform; or N(0, 0.02)."""
        if self.init == "xavier":
            xavier(self, 0)
            if self.query is not None:
                nn.init.xavier_uniform_(self.query)
            return
        if self.init == "plain":
            plain(self, 0.02)
            return
        for layer in (self.attention.q, self.attention.k, self.attention.v, self.attention.out):
            if isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, std=layer.in_features**-0.5)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """mask [B, N], True for real tokens; with a learned query only."""
        if self.query is None:
            x = torch.cat([x.mean(dim=1, keepdim=True), x], dim=1)
        if self.positions is not None:
            x = x + self.positions.to(x.dtype)
        query = x[:, :1] if self.query is None else self.query.to(x.dtype).expand(x.shape[0], -1, -1)
        y = self.attention(query, x, mask)
        if self.mlp is not None and self.norm is not None:
            y = y + self.mlp(self.norm(y))
        return y[:, 0]
