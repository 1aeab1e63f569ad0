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


def sample_cross_entropy(logits: Tensor, labels: Tensor, smoothing: float = 0.0, ignore: Sequence[int] = (), total: bool = False) -> Tensor:
    """Each sample's mean over its labels that count, or with `total` their sum: logits [B, T, V], labels [B, T] → [B]."""
    if logits.shape[:2] != labels.shape:
        raise LabelCount(f"there are {tuple(logits.shape[:2])} predictions, but {tuple(labels.shape)} labels")
    for token in ignore:
        labels = labels.masked_fill(labels == token, -100)
    each = F.cross_entropy(
        logits.flatten(0, 1).float(), labels.flatten(), ignore_index=-100, label_smoothing=smoothing, reduction="none"
    ).view(labels.shape)
    return each.sum(1) if total else each.sum(1) / (labels != -100).sum(1).clamp(min=1)


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
    """The state at place t predicts the label at t + 1: logits [B, T, V], labels [B, T].

    average "samples": the mean over the batch of the mean over a sample, where a short answer weighs as much as a long one. "sums": the
    mean over the batch of the sum over a sample, each times its weight, weights [B]. reduce "sample": that of every sample, [B].
    """

    def __init__(self, smoothing: float = 0.0, ignore: Sequence[int] = (), average: str = "tokens", reduce: str = "batch") -> None:
        super().__init__()
        self.smoothing, self.ignore, self.average = smoothing, tuple(ignore), average
        self.reduce = reduce

    def forward(self, logits: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
        logits, labels = logits[:, :-1], labels[:, 1:]
        if self.average == "tokens" and self.reduce == "batch":
            return cross_entropy(logits, labels, self.smoothing, self.ignore)
        each = sample_cross_entropy(logits, labels, self.smoothing, self.ignore, self.average == "sums")
        each = each if weights is None else each * weights
        return each if self.reduce == "sample" else each.mean()


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


class DPO(nn.Module):
    """Direct preference optimisation (arXiv 2305.18290, equation 7; with smoothing, conservative DPO).

    policy and reference: logits [B, T, V] of the chosen and of the rejected answers, labels [B, T] of both → []. T may differ.
    """

    def __init__(self, beta: float = 0.1, label_smoothing: float = 0.0) -> None:
        super().__init__()
        self.beta, self.smoothing = beta, label_smoothing

    def forward(self, policy: Sequence[Tensor], reference: Sequence[Tensor], labels: Sequence[Tensor]) -> Tensor:
        gains = [log_likelihood(p, y) - log_likelihood(r, y) for p, r, y in zip(policy, reference, labels)]
        margin = self.beta * (gains[0] - gains[1])
        right, wrong = -F.logsigmoid(margin), -F.logsigmoid(-margin)
        return ((1 - self.smoothing) * right + self.smoothing * wrong).mean()


def log_likelihood(logits: Tensor, labels: Tensor) -> Tensor:
    """The sum over the labels [B, T] that count, each given what stands before it: logits [B, T, V] → [B]."""
    scores, wanted = logits[:, :-1].float().log_softmax(-1), labels[:, 1:]
    counts = wanted != -100
    return (scores.gather(-1, wanted.masked_fill(~counts, 0)[..., None])[..., 0] * counts).sum(-1)


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
