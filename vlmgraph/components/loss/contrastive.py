"""loss.contrastive and loss.sigmoid: matching pairs against the rest of the batch."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from ...ir import types as T
from ..base import Loss, Ports


class Contrastive(Loss, name="loss.contrastive"):
    """Symmetric softmax loss over the batch (CLIP, arXiv 2103.00020): embedding[B, d], or tokens[B, Q, d] of which the nearest counts,
    and embedding[B, d] → loss. Every image has its text. `targets` replace the identity by soft targets."""

    label_smoothing: float = Field(0.0, ge=0, lt=1, description="share of every target spread over the batch")
    gather: bool = Field(False, description="take negatives from all processes")
    queries: bool = Field(False, description="an image has several vectors; the nearest counts")
    module = "vlmgraph.nn.losses:Contrastive"

    def signature(self, facet: str = "") -> Ports:
        image = T.tokens["B", "Q", "d"] if self.queries else T.embedding["B", "d"]
        columns = "C" if self.gather else "B"  # with gather, of all processes
        targets = T.scores["B", columns].optional_
        return Ports(T.loss[()], image=image, text=T.embedding["B", "d"], scale=T.scalar[()].optional_, targets=targets)

    def arguments(self) -> dict[str, Any]:
        return {"smoothing": self.label_smoothing, "gather": self.gather}


class Sigmoid(Loss, name="loss.sigmoid"):
    """Every pair of the batch is a yes-or-no question (SigLIP, arXiv 2303.15343): embedding[B, d], embedding[B, d] → loss."""

    gather: bool = Field(False, description="take negatives from all processes")
    ports = Ports(
        image=T.embedding["B", "d"],
        text=T.embedding["B", "d"],
        scale=T.scalar[()].optional_,
        bias=T.scalar[()].optional_,
        returns=T.loss[()],
    )
    module = "vlmgraph.nn.losses:Sigmoid"
