"""norm.layer and norm.rms: in a slot, or standing in the graph by themselves."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from ...ir import types as T
from ..base import Component, Layer, Ports


class Norm(Component, Layer):
    """What both norms share: tokens[..., width] → the same."""

    width: int | None = Field(None, ge=1, description="width of the tokens; inferred, or the stack's")
    eps: float | None = Field(None, gt=0, description="added to the variance; the stack's `norm_eps`, else 1e-5 or, for norm.rms, 1e-6")
    role = "layer"
    multiplies = False
    ports = Ports(x=T.tokens["...", "width"], returns=T.tokens["...", "width"])


class LayerNorm(Norm, name="norm.layer"):
    """Layer norm (arXiv 1607.06450): tokens[..., width] → tokens[..., width]."""

    bias: bool = Field(True, description="has a bias beside the weight")
    module = "vlmgraph.nn.norm:LayerNorm"

    def arguments(self) -> dict[str, Any]:
        return {"normalized_shape": self.width, "eps": self.eps or 1e-5, "bias": self.bias}

    def parameters(self) -> dict[str, int]:
        width = self.width or 0
        return {"weight": width, "bias": width} if self.bias else {"weight": width}


class RMSNorm(Norm, name="norm.rms"):
    """Root-mean-square norm (arXiv 1910.07467): tokens[..., width] → tokens[..., width]."""

    offset: float = Field(0.0, description="added to the weight; Gemma stores weight - 1")
    module = "vlmgraph.nn.norm:RMSNorm"

    def arguments(self) -> dict[str, Any]:
        return {"width": self.width, "eps": self.eps or 1e-6, "offset": self.offset}

    def parameters(self) -> dict[str, int]:
        return {"weight": self.width or 0}
