"""head.linear and head.mlp: states to class scores."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from ...ir import types as T
from ...ir.dims import Dim
from ..base import Head, Ports, linear
from ..counting import dense
from ..layer.mlp import Act, activation


class LinearHead(Head, name="head.linear"):
    """One linear map to `out` scores: tokens[..., d_in] → logits[..., out]."""

    d_in: int | None = Field(None, ge=1, description="width of the states; inferred")
    out: int = Field(ge=1, description="number of classes")
    bias: bool = Field(True, description="add a vector")
    ports = Ports(x=T.tokens["...", "d_in"], returns=T.logits["...", "out"])
    module = "vlmgraph.nn.connectors:Linear"

    def parameters(self) -> dict[str, int]:
        return {"proj": linear(self.d_in or 0, self.out, self.bias)}

    def flops(self, dims: Mapping[str, Dim]) -> Dim:
        return dense(dims, self.d_in or 0, self.out)


class MLPHead(Head, name="head.mlp"):
    """Linear layers with an activation between (Janus' generation head, arXiv 2410.13848): tokens[..., d_in] → logits[..., out]."""

    d_in: int | None = Field(None, ge=1, description="width of the states; inferred")
    out: int = Field(ge=1, description="number of classes")
    hidden: int | None = Field(None, ge=1, description="width between the layers; `d_in` where not given")
    depth: int = Field(2, ge=1, le=1000, description="number of linear layers")
    act: Act = Field("gelu", description="activation between the layers")
    bias: bool = Field(True, description="biases in every layer")
    ports = Ports(x=T.tokens["...", "d_in"], returns=T.logits["...", "out"])
    module = "vlmgraph.nn.connectors:MLP"

    @property
    def widths(self) -> tuple[int, ...]:
        """From the input to the output."""
        d_in = self.d_in or 0
        return (d_in, *[self.hidden or d_in] * (self.depth - 1), self.out)

    def arguments(self) -> dict[str, Any]:
        hidden = self.hidden or self.d_in
        return {"d_in": self.d_in, "hidden": hidden, "out": self.out, "depth": self.depth, "act": activation(self.act), "bias": self.bias}

    def parameters(self) -> dict[str, int]:
        pairs = zip(self.widths[:-1], self.widths[1:], strict=True)
        return {f"fc{i}": linear(a, b, self.bias) for i, (a, b) in enumerate(pairs, 1)}

    def flops(self, dims: Mapping[str, Dim]) -> Dim:
        return dense(dims, *self.widths)
