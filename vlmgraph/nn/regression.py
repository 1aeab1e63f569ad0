"""Values predicted as numbers, and the values made ready for it."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Standardize(nn.Module):
    """Every vector at mean 0 and variance 1: x [..., d] → (x - mean) / sqrt(var + eps), computed in float32.

    The variance is that of a sample, by d - 1, as the targets of masked autoencoders have it (arXiv 2111.06377, section 3;
    facebookresearch/mae, norm_pix_loss).
    """

    def __init__(self, eps: float = 1e-6) -> None:
        super().__init__()
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        y = x.float()
        y = y - y.mean(-1, keepdim=True)
        variance = y.pow(2).sum(-1, keepdim=True) / max(x.shape[-1] - 1, 1)
        return (y * torch.rsqrt(variance + self.eps)).to(x.dtype)


class MSE(nn.Module):
    """Mean squared error: prediction and target [..., N, d] → []. Tokens where `skip` [..., N] is True do not count; with none left the
    loss is 0."""

    def forward(self, prediction: Tensor, target: Tensor, skip: Tensor | None = None) -> Tensor:
        each = (prediction.float() - target.float()).pow(2).mean(-1)
        if skip is None:
            return each.mean()
        counts = (~skip.bool()).to(each.dtype)
        return (each * counts).sum() / counts.sum().clamp(min=1)
