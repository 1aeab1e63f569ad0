"""connector.fourier: numbers, such as coordinates, as tokens."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import Field

from ...ir import types as T
from ...ir.dims import Dim
from ..base import Connector, Ports, linear
from ..counting import dense


class Fourier(Connector, name="connector.fourier"):
    """Fourier features of numbers (arXiv 2006.10739), frequencies learned, then a linear map: points[..., inputs] → tokens[..., out]."""

    inputs: int = Field(1, ge=1, description="numbers that make one token")
    features: int = Field(ge=2, multiple_of=2, description="cosines and sines together")
    out: int | None = Field(None, ge=1, description="width that goes out; inferred where the next part fixes it")
    ports = Ports(x=T.points["...", "inputs"], returns=T.tokens["...", "out"])
    module = "vlmgraph.nn.fourier:Fourier"

    def parameters(self) -> dict[str, int]:
        return {"frequencies": self.inputs * self.features // 2, "proj": linear(self.features, self.out or 0)}

    def addresses(self) -> tuple[str, ...]:
        return ("frequencies", "proj")

    def flops(self, dims: Mapping[str, Dim]) -> Dim:
        return dense(dims, self.inputs, self.features // 2) + dense(dims, self.features, self.out or 0)
