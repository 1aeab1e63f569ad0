"""op.standardize: vectors at mean 0 and variance 1."""

from __future__ import annotations

from pydantic import Field

from ...ir import types as T
from ..base import Op, Ports


class Standardize(Op, name="op.standardize"):
    """Every vector less its mean, by its standard deviation: tokens[..., d] → tokens[..., d]. Of patches of pixels, the targets of masked
    autoencoders (arXiv 2111.06377) and of AIM (arXiv 2401.08541)."""

    eps: float = Field(1e-6, gt=0, description="added to the variance")
    ports = Ports(x=T.tokens["...", "d"], returns=T.tokens["...", "d"])
    module = "vlmgraph.nn.regression:Standardize"
