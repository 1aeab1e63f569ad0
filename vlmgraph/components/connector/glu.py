"""connector.glu: a projection, a norm, then a gated MLP."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field

from ...ir import types as T
from ...ir.dims import Dim
from ..base import Connector, Ports, linear
from ..counting import rows
from ..layer.mlp import Act, activation


class GLUConnector(Connector, name="connector.glu"):
    """CogVLM's adapter (arXiv 2311.03079, section 2.1): Linear, norm, activation, gated MLP: tokens[..., d_in] → tokens[..., out]."""

    d_in: int | None = Field(None, ge=1, description="width that comes in; inferred")
    out: int | None = Field(None, ge=1, description="width that goes out; inferred where the next part fixes it")
    hidden: int = Field(ge=1, description="width inside the gated MLP")
    norm: Literal["norm.layer", "norm.rms"] = Field("norm.layer", description="after the first projection")
    eps: float = Field(1e-5, gt=0, description="of the norm")
    act_in: Act = Field("gelu", description="activation after the norm")
    act: Act = Field("silu", description="activation of the gate")
    bias: bool = Field(False, description="biases in the linear layers")
    ports = Ports(x=T.tokens["...", "d_in"], returns=T.tokens["...", "out"])
    module = "vlmgraph.nn.connectors:GLU"

    def arguments(self) -> dict[str, Any]:
        from torch import nn

        norm = nn.LayerNorm(self.out or 0, eps=self.eps) if self.norm == "norm.layer" else nn.RMSNorm(self.out or 0, eps=self.eps)
        acts = {"act_in": activation(self.act_in), "act": activation(self.act)}
        return {"d_in": self.d_in, "hidden": self.hidden, "out": self.out, "norm": norm, **acts, "bias": self.bias}

    def parameters(self) -> dict[str, int]:
        d_in, out = self.d_in or 0, self.out or 0
        gated = {name: linear(out, self.hidden, self.bias) for name in ("gate", "up")}
        norm = out * (2 if self.norm == "norm.layer" else 1)
        return {"proj": linear(d_in, out, self.bias), "norm": norm, **gated, "down": linear(self.hidden, out, self.bias)}

    def flops(self, dims: Mapping[str, Dim]) -> Dim:
        d_in, out = self.d_in or 0, self.out or 0
        return rows(dims) * (d_in * out + 3 * out * self.hidden) * 2
