"""connector.linear: one projection."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import Field

from ...ir import types as T
from ...ir.dims import Dim
from ..base import Connector, Ports, linear
from ..counting import dense


class LinearConnector(Connector, name="connector.linear"):
    """One linear map of every token (LLaVA, arXiv 2304.08485): tokens[..., d_in] → tokens[..., out]."""

    d_in: int | None = Field(None, ge=1, description="width that comes in; inferred")
    out: int | None = Field(None, ge=1, description="width that goes out; inferred where the next part fixes it")
    bias: bool = Field(True, description="add a vector")
    init: Literal["uniform", "normal", "zeros"] = Field(
        "uniform", description="first weights: torch's own, N(0, d_in ** -0.5) (CLIP), or zero (PaliGemma)"
    )
    ports = Ports(x=T.tokens["...", "d_in"], returns=T.tokens["...", "out"])
    module = "vlmgraph.nn.connectors:Linear"

    def parameters(self) -> dict[str, int]:
        return {"proj": linear(self.d_in or 0, self.out or 0, self.bias)}

    def flops(self, dims: Mapping[str, Dim]) -> Dim:
        return dense(dims, self.d_in or 0, self.out or 0)
