"""loss.load_balance and loss.router_z: losses on the scores of routers."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ...ir import types as T
from ..base import Loss, Ports


class LoadBalance(Loss, name="loss.load_balance"):
    """Equal load for all experts (Switch Transformer, arXiv 2101.03961, section 2.2): logits[L, B, N, E] of the routers of L layers → loss,
    L at the least. `mask` says which tokens count."""

    top_k: int = Field(ge=1, description="experts that run for a token")
    per: Literal["batch", "sequence"] = Field("batch", description="over all tokens at once, or first over those of a sample (DeepSeek-V2)")
    score: Literal["softmax", "sigmoid"] = Field("softmax", description="what the router makes of its scores")
    ports = Ports(router=T.logits["L", "B", "N", "E"], mask=T.mask["B", "N"].optional_, returns=T.loss[()])
    module = "vlmgraph.nn.balance:LoadBalance"


class RouterZ(Loss, name="loss.router_z"):
    """Keeps the scores of routers small (ST-MoE, arXiv 2202.08906, section 3.2): logits[L, B, N, E] of L layers → loss, the mean over
    tokens of logsumexp^2, summed over layers. `mask` says which tokens count."""

    ports = Ports(router=T.logits["L", "B", "N", "E"], mask=T.mask["B", "N"].optional_, returns=T.loss[()])
    module = "vlmgraph.nn.balance:RouterZ"
