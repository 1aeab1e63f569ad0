"""connector.mlp: a multi-layer perceptron on every token."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from ...ir import types as T
from ...ir.dims import Dim
from ..base import Connector, Ports, linear
from ..counting import dense
from ..layer.mlp import Act, activation


class MLPConnector(Connector, name="connector.mlp"):
    """Linear layers with an activation between (LLaVA-1.5, arXiv 2310.03744): tokens[..., d_in] → tokens[..., out]."""

    d_in: int | None = Field(None, ge=1, description="width that comes in; inferred")
    out: int | None = Field(None, ge=1, description="width that goes out; inferred where the next part fixes it")
    hidden: int | None = Field(None, ge=1, description="width between the layers; `out` where not given")
    depth: int = Field(2, ge=1, le=1000, description="number of linear layers")
    act: Act = Field("gelu", description="activation between the layers")
    act_in: Act | None = Field(None, description="activation in front of the first layer")
    bias: bool = Field(True, description="biases in every layer")
    ports = Ports(x=T.tokens["...", "d_in"], returns=T.tokens["...", "out"])
    module = "vlmgraph.nn.connectors:MLP"

    @property
    def widths(self) -> tuple[int, ...]:
        """From the input to the output."""
        out = self.out or 0
        return (self.d_in or 0, *[self.hidden or out] * (self.depth - 1), out)

    def arguments(self) -> dict[str, Any]:
        acts = {"act": activation(self.act), "act_in": None if self.act_in is None else activation(self.act_in)}
        return {"d_in": self.d_in, "hidden": self.hidden or self.out, "out": self.out, "depth": self.depth, "bias": self.bias, **acts}

    def parameters(self) -> dict[str, int]:
        pairs = zip(self.widths[:-1], self.widths[1:], strict=True)
        return {f"fc{i}": linear(a, b, self.bias) for i, (a, b) in enumerate(pairs, 1)}

    def flops(self, dims: Mapping[str, Dim]) -> Dim:
        return dense(dims, *self.widths)
