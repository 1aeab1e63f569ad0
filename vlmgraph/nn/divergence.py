"""Distances between distributions."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


class KL(nn.Module):
    """sum of t (log t - log softmax(logits)) over classes, mean over rows: logits and targets t [..., V]."""

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        scores = logits.reshape(-1, logits.shape[-1]).float()
        return F.kl_div(F.log_softmax(scores, -1), targets.reshape(scores.shape).float(), reduction="batchmean")
