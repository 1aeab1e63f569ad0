"""A state made ready for a classifier."""

from __future__ import annotations

from torch import Tensor, nn


class Pooler(nn.Module):
    """[..., width] → act(dense x), the same width (BERT, arXiv 1810.04805). First weights N(0, 0.02)."""

    def __init__(self, width: int, act: nn.Module) -> None:
        super().__init__()
        self.dense = nn.Linear(width, width)
        self.act = act

    def init_weights(self) -> None:
        nn.init.normal_(self.dense.weight, std=0.02)
        nn.init.zeros_(self.dense.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.dense(x))
