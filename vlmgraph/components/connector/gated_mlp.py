"""connector.gated_mlp: a gated MLP on every token."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from ...ir import types as T
from ...ir.dims import Dim
from ..base import Connector, Ports, linear
from ..counting import rows
from ..layer.mlp import Act, activation


class GatedMLPConnector(Connector, name="connector.gated_mlp"):
    """down(act(gate x) * up x): tokens[..., d_in] → tokens[..., out] (the modality projection of Idefics2, arXiv 2405.02246)."""

    d_in: int | None = Field(None, ge=1, description="width that comes in; inferred")
    out: int | None = Field(None, ge=1, description="width that goes out; inferred where the next part fixes it")
    hidden: int = Field(ge=1, description="width inside")
    act: Act = Field("silu", description="activation of the gate")
    bias: bool = Field(False, description="biases in the linear layers")
    ports = Ports(x=T.tokens["...", "d_in"], returns=T.tokens["...", "out"])
    module = "vlmgraph.nn.mlp:GatedMLP"

    def arguments(self) -> dict[str, Any]:
        return {"width": self.d_in, "hidden": self.hidden, "act": activation(self.act), "bias": self.bias, "out": self.out}

    def parameters(self) -> dict[str, int]:
        enter = linear(self.d_in or 0, self.hidden, self.bias)
        return {"gate": enter, "up": enter, "down": linear(self.hidden, self.out or 0, self.bias)}

    def flops(self, dims: Mapping[str, Dim]) -> Dim:
        return rows(dims) * (2 * (self.d_in or 0) + (self.out or 0)) * (2 * self.hidden)
