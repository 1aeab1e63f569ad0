"""Activations by their names in configs."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class QuickGELU(nn.Module):
    """x * sigmoid(1.702 x), the approximation OpenAI's CLIP was trained with."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


class SquaredReLU(nn.Module):
    """relu(x) ** 2 (Primer, arXiv 2109.08668)."""

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x).square()


def activation(name: str) -> nn.Module:
    """The module behind a name. Raises ValueError for an unknown one."""
    if name == "gelu":
        return nn.GELU()
    if name == "gelu_tanh":
        return nn.GELU(approximate="tanh")
    simple = {"quick_gelu": QuickGELU, "silu": nn.SiLU, "relu": nn.ReLU, "squared_relu": SquaredReLU, "tanh": nn.Tanh}
    if name not in simple:
        raise ValueError(f"there is no activation {name!r}; there are gelu, gelu_tanh, {', '.join(simple)}")
    return simple[name]()
