"""Rotary frequencies [dim / 2] for contexts longer than those a model was trained on."""

from __future__ import annotations

import math

import torch
from torch import Tensor

RULES = ("linear", "dynamic", "llama3", "yarn", "longrope")


def slowed(inverse: Tensor, factor: float, low: float, high: float, original: int) -> Tensor:
    """Frequencies that turn less than `low` times within the `original` context divided by `factor`, those that turn more than `high` times
    kept, the ones between blended (Llama 3.1, arXiv 2407.21783)."""
    turns = original * inverse / (2 * math.pi)
    blend = ((turns - low) / (high - low)).clamp(0, 1)
    return inverse * (blend + (1 - blend) / factor)


def ramped(inverse: Tensor, factor: float, first: float, last: float) -> Tensor:
    """Pairs up to `first` kept, pairs from `last` on divided by `factor`, the ones between blended by their number (YaRN, arXiv 2309.00071,
    section 3.2)."""
    blend = ((torch.arange(inverse.shape[0], device=inverse.device).float() - first) / (last - first)).clamp(0, 1)
    return inverse / factor * blend + inverse * (1 - blend)


def dynamic(dim: int, theta: float, factor: float, original: int, positions: Tensor) -> Tensor:
    """A base that grows with the length of the call where that exceeds the `original` one (dynamic NTK, arXiv 2309.00071, section 3.3).

    What a cache keeps was turned by the base of its own step.
    """
    length = (positions.max() + 1).clamp(min=original).float()
    base = theta * (factor * length / original - (factor - 1)) ** (dim / (dim - 2))
    return 1.0 / base ** (torch.arange(0, dim, 2, dtype=torch.int64, device=positions.device).float() / dim)


def rescaled(inverse: Tensor, short: tuple[float, ...], long: tuple[float, ...], original: int, positions: Tensor) -> Tensor:
    """Every pair slowed down by a factor of its own, of `long` where the call is longer than the `original` context, else of `short`
    (LongRoPE, arXiv 2402.13753)."""
    few, many = torch.tensor(short, device=inverse.device), torch.tensor(long, device=inverse.device)
    return inverse / torch.where(positions.max() + 1 > original, many, few)
