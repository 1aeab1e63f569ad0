"""loss.kl: distance from soft targets."""

from __future__ import annotations

from ...ir import types as T
from ..base import Loss, Ports


class KL(Loss, name="loss.kl"):
    """Kullback-Leibler divergence from soft targets to the softmax of the scores, summed over classes, mean over rows:
    logits[..., V], scores[..., V] → loss. The targets are taken as they are, also where they do not add up to one."""

    ports = Ports(logits=T.logits["...", "V"], targets=T.scores["...", "V"], returns=T.loss[()])
    module = "vlmgraph.nn.divergence:KL"
