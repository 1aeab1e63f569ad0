"""Mixtures of experts: a router sends every token through a few of many MLPs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .eager import readable


class MixtureOfExperts(nn.Module):
    """The `top_k` experts a token scores highest, weighted by the softmax over their scores: [..., width] → [..., width]
    (Mixtral, arXiv 2401.04088, section 2.1). Without `renormalise` the weights are those of the softmax over all experts.
    """

    def __init__(self, width: int, experts: Sequence[nn.Module], top_k: int, renormalise: bool = True, std: float = 0.02) -> None:
        super().__init__()
        self.top_k, self.renormalise, self.std = top_k, renormalise, std
        self.router = nn.Linear(width, len(experts), bias=False)
        self.experts = nn.ModuleList(experts)

    def init_weights(self) -> None:
        nn.init.normal_(self.router.weight, std=self.std)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(0, -2)
        shares = self.shares(tokens).to(x.dtype)
        out = torch.zeros_like(tokens)
        for i, expert in enumerate(self.experts):
            if readable(x):  # only the tokens that chose it
                rows = shares[:, i].nonzero()[:, 0]
                out = out.index_add(0, rows, expert(tokens[rows]) * shares[rows, i, None])
            else:
                out = out + expert(tokens) * shares[:, i, None]
        return out.view(x.shape)

    def shares(self, tokens: Tensor) -> Tensor:
        """[S, experts]: the weight of every expert for a token, zero for those that do not run."""
        odds = self.router(tokens).float().softmax(-1)
        best = odds.topk(self.top_k, dim=-1)
        weights = best.values / best.values.sum(-1, keepdim=True) if self.renormalise else best.values
        return torch.zeros_like(odds).scatter(-1, best.indices, weights)
