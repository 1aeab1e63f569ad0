"""Objectives: each returns a scalar."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .similarity import pairwise


def cross_entropy(logits: Tensor, labels: Tensor, smoothing: float = 0.0, ignore: Sequence[int] = ()) -> Tensor:
    """Mean over the labels that count: logits [..., V], labels [...]. -100 and the ids in `ignore` do not; with none left the loss is 0."""
    logits, labels = logits.reshape(-1, logits.shape[-1]).float(), labels.reshape(-1)
    if len(logits) != len(labels):
        raise LabelCount(f"there are {len(logits)} predictions, but {len(labels)} labels")
    for token in ignore:
        labels = labels.masked_fill(labels == token, -100)
    total = F.cross_entropy(logits, labels, ignore_index=-100, label_smoothing=smoothing, reduction="sum")
    return total / (labels != -100).sum().clamp(min=1)


class LabelCount(ValueError):
    """Predictions and labels differ in number."""


class CrossEntropy(nn.Module):
    """logits [..., V] against labels [...]."""

    def __init__(self, smoothing: float = 0.0, ignore: Sequence[int] = ()) -> None:
        super().__init__()
        self.smoothing, self.ignore = smoothing, tuple(ignore)

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        return cross_entropy(logits, labels, self.smoothing, self.ignore)


class NextToken(nn.Module):
    """The state at place t predicts the label at t + 1: logits [B, T, V], labels [B, T]."""

    def __init__(self, smoothing: float = 0.0, ignore: Sequence[int] = ()) -> None:
        super().__init__()
        self.smoothing, self.ignore = smoothing, tuple(ignore)

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        return cross_entropy(logits[:, :-1], labels[:, 1:], self.smoothing, self.ignore)


class Contrastive(nn.Module):
    """Symmetric cross entropy of every pair against the rest of the batch (CLIP, arXiv 2103.00020, section 2.3).

    image [B, d] or [B, Q, d] and text [B, d], normalised; scale [] multiplies their products. `gather` takes negatives from all
    processes, with gradients through them. `targets` [B, B x processes] replace the identity (soft targets; rows sum to 1).
    """

    def __init__(self, smoothing: float = 0.0, gather: bool = False) -> None:
        super().__init__()
        self.smoothing, self.gather = smoothing, gather

    def forward(self, image: Tensor, text: Tensor, scale: Tensor | None = None, targets: Tensor | None = None) -> Tensor:
        images, texts, first = gathered(image, text) if self.gather else (image, text, 0)
        factor = 1.0 if scale is None else scale
        by_image = (pairwise(image, texts) * factor).float()
        by_text = (pairwise(images, text).t() * factor).float()
        wanted = torch.arange(len(image), device=image.device) + first if targets is None else targets.float()
        losses = [F.cross_entropy(scores, wanted, label_smoothing=self.smoothing) for scores in (by_image, by_text)]
        return (losses[0] + losses[1]) / 2


class Sigmoid(nn.Module):
    """Every pair is a yes-or-no question: -log sigmoid(z * (scale * image . text + bias)), z = 1 for a pair, -1 otherwise, summed
    over texts and averaged over images (SigLIP, arXiv 2303.15343, section 3.2). image [B, d], text [B, d]."""

    def __init__(self, gather: bool = False) -> None:
        super().__init__()
        self.gather = gather

    def forward(self, image: Tensor, text: Tensor, scale: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
        _, texts, first = gathered(image, text) if self.gather else (image, text, 0)
        scores = pairwise(image, texts) * (1.0 if scale is None else scale) + (0.0 if bias is None else bias)
        signs = -torch.ones_like(scores)
        rows = torch.arange(len(image), device=image.device)
        signs[rows, rows + first] = 1.0
        return -F.logsigmoid((signs * scores).float()).sum(1).mean()


def gathered(image: Tensor, text: Tensor) -> tuple[Tensor, Tensor, int]:
    """Features of all processes in rank order and where this process's rows start; the same tensors where there is one process."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return image, text, 0
    return AllGather.apply(image), AllGather.apply(text), torch.distributed.get_rank() * len(image)


class AllGather(torch.autograd.Function):
    """x [B, ...] of every process → [B x processes, ...]; what all processes' losses say of a row comes back to its owner, summed."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        parts = [torch.empty_like(x) for _ in range(torch.distributed.get_world_size())]
        torch.distributed.all_gather(parts, x.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        grad = grad.clone(memory_format=torch.contiguous_format)
        torch.distributed.all_reduce(grad)
        return grad.chunk(torch.distributed.get_world_size())[torch.distributed.get_rank()]
