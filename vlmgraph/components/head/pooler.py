"""head.pooler: BERT's pooled state."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from ...ir import types as T
from ...ir.dims import Dim
from ..base import Head, Ports, linear
from ..counting import dense
from ..layer.mlp import Act, activation


class Pooler(Head, name="head.pooler"):
    """Dense and activation on a state, of the class token as a rule: tokens[..., width] → tokens[..., width] (BERT, arXiv 1810.04805)."""

    width: int | None = Field(None, ge=1, description="width of the states; inferred")
    act: Act = Field("tanh", description="activation")
    ports = Ports(x=T.tokens["...", "width"], returns=T.tokens["...", "width"])
    module = "vlmgraph.nn.pooler:Pooler"

    def arguments(self) -> dict[str, Any]:
        return {"width": self.width, "act": activation(self.act)}

    def parameters(self) -> dict[str, int]:
        return {"dense": linear(self.width or 0, self.width or 0)}

    def flops(self, dims: Mapping[str, Dim]) -> Dim:
        return dense(dims, self.width or 0, self.width or 0)
