"""loss.mse: values predicted as numbers."""

from __future__ import annotations

from ...ir import types as T
from ..base import Loss, Ports


class MSE(Loss, name="loss.mse"):
    """Mean squared error over the tokens that count: tokens[..., N, d], tokens[..., N, d] → loss. Those of `skip`, mask[..., N], do not."""

    ports = Ports(
        prediction=T.tokens["...", "N", "d"], target=T.tokens["...", "N", "d"], skip=T.mask["...", "N"].optional_, returns=T.loss[()]
    )  # fmt: skip
    module = "vlmgraph.nn.regression:MSE"
