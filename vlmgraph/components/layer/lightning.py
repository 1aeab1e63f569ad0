"""attention.lightning: linear attention with decay."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import Field

from ...ir.dims import Dim, parse_dim
from ..base import Layer, load_symbol
from .mlp import Act, activation
from .norm import RMSNorm


class Lightning(Layer, name="attention.lightning"):
    """Linear attention whose past decays, faster in lower layers (Lightning Attention-2, arXiv 2401.04658; MiniMax-01, arXiv 2501.08313).

    It is causal by itself: give its layers mask = "full". What a layer keeps while decoding does not grow.
    """

    width: int | None = Field(None, ge=1, description="width of the tokens; the stack's")
    heads: int | None = Field(None, ge=1, description="heads; the stack's")
    head_dim: int | None = Field(None, ge=1, description="width of a head; width / heads")
    qkv_act: Act = Field("silu", description="activation on queries, keys and values")
    block: int = Field(256, ge=1, description="tokens that are computed at once")
    out_eps: float = Field(1e-6, gt=0, description="epsilon of the norm of the heads' outputs")
    depth: float | None = Field(None, ge=0, le=1, description="share of the stack below the layer; told by the stack")
    cached: ClassVar[int] = 0
    """Elements kept for every token while decoding."""

    @property
    def dim(self) -> int:
        return self.head_dim or (self.width or 0) // (self.heads or 1)

    @property
    def inner(self) -> int:
        return (self.heads or 0) * self.dim

    def at(self, layer: int, layers: int) -> Lightning:
        """This layer where it stands in its stack."""
        depth = layer / (layers - 1 + 1e-5)
        return type(self)(
            **{**{name: getattr(self, name) for name in self.model_fields_set}, "depth": depth if self.depth is None else self.depth}
        )

    def build(self) -> Any:
        norm = RMSNorm(width=self.inner, eps=self.out_eps).build()
        return load_symbol("vlmgraph.nn.lightning:LightningAttention")(
            self.width, self.heads, self.dim, activation(self.qkv_act), norm, self.depth or 0.0, self.block
        )

    def parameters(self) -> dict[str, int]:
        return {"": 5 * (self.width or 0) * self.inner + self.inner}

    def flops(self, dims: Mapping[str, Dim]) -> Dim:
        """Products inside blocks, and with what is left of the past."""
        n = dims["N"]
        return (
            n * (10 * (self.width or 0) * self.inner)
            + n * parse_dim(f"min({n}, {self.block})") * (4 * self.inner)
            + n * (4 * self.inner * self.dim)
        )
