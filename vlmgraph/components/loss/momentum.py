"""loss.momentum_contrastive: pairs against the keys of a model that follows."""

from __future__ import annotations

from pydantic import Field

from ...ir import types as T
from ..base import Loss, Ports


class MomentumContrastive(Loss, name="loss.momentum_contrastive"):
    """Softmax loss of features embedding[B, d] against the keys of a momentum copy, and of banks of earlier keys, with soft targets
    (ALBEF, arXiv 2107.07651): embeddings → loss. `ramp` is the share of `soft` that holds yet, which grows from 0 to 1."""

    soft: float = Field(0.4, ge=0, le=1, description="share of a target that is what the copy finds similar")
    ports = Ports(
        image=T.embedding["B", "d"],
        text=T.embedding["B", "d"],
        image_keys=T.embedding["B", "d"],
        text_keys=T.embedding["B", "d"],
        image_bank=T.embedding["K", "d"].optional_,
        text_bank=T.embedding["K", "d"].optional_,
        scale=T.scalar[()].optional_,
        ramp=T.scalar[()].optional_,
        returns=T.loss[()],
    )
    module = "vlmgraph.nn.momentum:MomentumContrastive"
