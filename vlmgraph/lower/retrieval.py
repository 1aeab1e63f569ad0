"""Retrieval in two steps: embeddings for all pairs, a program that sees both for the best of them (ALBEF, arXiv 2107.07651, section 5)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..components.inference.retrieval import Retrieval
from ..nn.similarity import pairwise
from .zero_shot import only

if TYPE_CHECKING:
    from .model import CompiledModel

OUT = -100.0
"""The score of what is no candidate."""


@torch.no_grad()
def retrieve(
    model: CompiledModel, procedure: Retrieval, images: Mapping[str, Tensor], texts: Mapping[str, Tensor], batch: int = 64
) -> tuple[Tensor, Tensor]:
    """Scores of texts for every image [I, T] and of images for every text [T, I].

    images and texts are the inputs of their programs, with I and T rows. With `match` a candidate's score is the product of the embeddings
    plus the logit of a match, `batch` pairs at a time, and that of all others -100.
    """
    similarity = pairwise(only(model, procedure.image, images), only(model, procedure.text, texts)).float()
    if procedure.match is None:
        return similarity, similarity.t()
    ranked = []
    for scores, of_image in ((similarity, True), (similarity.t(), False)):
        candidates = scores.topk(min(procedure.top, scores.shape[1]), dim=1).indices
        rows = torch.arange(len(scores), device=scores.device).repeat_interleave(candidates.shape[1])
        others = candidates.flatten()
        image, text = (rows, others) if of_image else (others, rows)
        logits = [
            only(model, procedure.match, {**taken(images, i), **taken(texts, t)})[:, 1].float()
            for i, t in zip(image.split(batch), text.split(batch))
        ]
        found = torch.full_like(scores, OUT)
        found[rows, others] = scores[rows, others] + torch.cat(logits)
        ranked.append(found)
    return ranked[0], ranked[1]


def taken(inputs: Mapping[str, Tensor], rows: Tensor) -> dict[str, Tensor]:
    return {name: value[rows] for name, value in inputs.items()}
