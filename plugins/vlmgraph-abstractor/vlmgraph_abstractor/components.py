"""Declarations; the modules import torch only when a model is built."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import Field, model_validator

from vlmgraph.components.base import Connector, Loss, Ports
from vlmgraph.ir.dims import Dim
from vlmgraph.ir.types import loss, tokens


class CAbstractor(Connector, name="connector.c_abstractor"):
    """Convolutional abstractor (Honeybee, arXiv 2312.06742, section 3.2): tokens[B, g*g, d_in] -> tokens[B, queries, d_out]."""

    queries: int = Field(144, ge=1, description="visual tokens given to the language model; a square number")
    grid: int = Field(24, ge=1, description="patches along one side of the image")
    depth: int = Field(3, ge=1, description="residual blocks before, and again after, the pooling")
    width: int = Field(1024, ge=4, description="channels of the residual blocks")
    d_in: int | None = None
    d_out: int | None = None

    ports = Ports(x=tokens["B", "patches", "d_in"], returns=tokens["B", "queries", "d_out"])
    module = "vlmgraph_abstractor.modules:CAbstractor"

    @property
    def patches(self) -> int:
        return self.grid * self.grid

    @model_validator(mode="after")
    def _square(self) -> CAbstractor:
        side = round(self.queries**0.5)
        if side * side != self.queries:
            raise ValueError(f"queries = {self.queries} is not a square number")
        return self

    def parameters(self) -> dict[str, int]:
        w, squeezed = self.width, self.width // 4
        d_in, d_out = self.d_in or 0, self.d_out or 0
        norms = 3 * 2 * w
        block = (w * w + w) * 2 + (w * 9 + w) + norms + (w * squeezed + squeezed) + (squeezed * w + w)
        enter = 0 if d_in == w else d_in * w + w
        return {
            "position": self.patches * d_in,
            "enter": enter,
            "before": self.depth * block,
            "after": self.depth * block,
            "readout": w * d_out + d_out + d_out * d_out + d_out,
        }

    def flops(self, dims: Mapping[str, Dim]) -> Dim:
        w = self.width
        per_cell = 2 * (2 * w * w + 9 * w)
        mlp = 2 * (w * (self.d_out or 0) + (self.d_out or 0) ** 2)
        return dims["B"] * (self.depth * per_cell * (self.patches + self.queries) + self.queries * mlp)


class CyclicLoss(Loss, name="loss.cyclic"):
    """Cross-modal and in-modal cyclic consistency (CyCLIP, arXiv 2205.14459, section 3):
    image[B, d], text[B, d] (normalised) -> loss[]."""

    cross: float = Field(0.25, ge=0, description="weight of <i, t'> = <i', t>")
    inner: float = Field(0.25, ge=0, description="weight of <i, i'> = <t, t'>")

    ports = Ports(image=tokens["...", "d"], text=tokens["...", "d"], returns=loss[()])
    module = "vlmgraph_abstractor.modules:CyclicLoss"
