"""connector.conv and connector.gated_add: convolutions over the grid of tokens, and a branch behind a learned number."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any

from pydantic import Field, field_validator

from ...ir import types as T
from ...ir.dims import Dim, apply
from ..base import Config, Connector, Ports, load_symbol
from ..layer.mlp import Act, activation
from ..layer.slot import NormSlot, filled


class ConvLayer(Config):
    """One convolution, with what stands behind it."""

    out: int = Field(ge=1, description="channels that go out")
    kernel: int = Field(3, ge=1, description="side of the kernel, odd; zeros around the grid keep its size")
    stride: int = Field(1, ge=1, description="tokens along a side that one becomes; divides the side")
    norm: NormSlot | None = Field(None, description="on the channels of every token")
    act: Act | None = Field(None, description="activation behind it")

    @field_validator("kernel")
    @classmethod
    def _odd(cls, kernel: int) -> int:
        if kernel % 2 == 0:
            raise ValueError(f"a kernel of {kernel} has no middle: kernels are odd")
        return kernel


class Conv(Connector, name="connector.conv"):
    """Convolutions over a square grid of tokens, rows first: tokens[B, N, d_in] → tokens[B, N / strides^2, out].

    The neck of SAM's image encoder (arXiv 2304.02643, appendix A), and what shortens its tokens for language models (Vary, arXiv
    2312.06109; DeepSeek-VL, arXiv 2403.05525).
    """

    d_in: int | None = Field(None, ge=1, description="width that comes in; inferred")
    layers: tuple[ConvLayer, ...] = Field(min_length=1, description="convolutions, one behind the other")
    bias: bool = Field(True, description="biases of the convolutions")
    norm_eps: float | None = Field(None, gt=0, description="epsilon of the norms")
    module = "vlmgraph.nn.conv:GridConv"
    ports = Ports(x=T.tokens["B", "N", "d_in"], returns=T.tokens["B", "N", "d_in"])

    def signature(self, facet: str = "") -> Ports:
        shrink = prod(layer.stride for layer in self.layers) ** 2
        return Ports(T.tokens["B", f"N/{shrink}" if shrink > 1 else "N", self.layers[-1].out], x=T.tokens["B", "N", "d_in"])

    @property
    def steps(self) -> list[tuple[int, ConvLayer, Any]]:
        """Channels that come in, the convolution, its norm with its dims."""
        wide = [self.d_in or 0, *(layer.out for layer in self.layers)]
        norms = [None if s.norm is None else filled(s.norm, width=s.out, eps=self.norm_eps) for s in self.layers]
        return list(zip(wide, self.layers, norms))

    def parameters(self) -> dict[str, int]:
        counts = {}
        for i, (d_in, layer, norm) in enumerate(self.steps):
            conv = layer.kernel**2 * d_in * layer.out + (layer.out if self.bias else 0)
            counts[f"layers.{i}"] = conv + (0 if norm is None else norm.total())
        return counts

    def addresses(self) -> tuple[str, ...]:
        return ("layers", *(str(i) for i in range(len(self.layers))))

    def flops(self, dims: Mapping[str, Dim]) -> Dim:
        if not {"B", "N"} <= dims.keys():
            return Dim()
        cost, tokens = Dim(), dims["N"]
        for d_in, layer, _ in self.steps:
            tokens = apply("/", tokens, Dim.of(layer.stride**2))
            cost = cost + tokens * (2 * layer.kernel**2 * d_in * layer.out)
        return dims["B"] * cost

    def build(self) -> Any:
        layer = load_symbol("vlmgraph.nn.conv:GridConvLayer")
        return load_symbol(self.module)([
            layer(
                d_in, s.out, s.kernel, s.stride, self.bias, None if norm is None else norm.build(),
                None if s.act is None else activation(s.act),
            )
            for d_in, s, norm in self.steps
        ])  # fmt: skip


class GatedAdd(Connector, name="connector.gated_add"):
    """x + gate * branch with a learned number, zero at first: tokens[..., N, d] twice → tokens[..., N, d]."""

    init: float = Field(0.0, description="first value of the gate")
    multiplies = False
    parts = ("gate",)
    ports = Ports(T.tokens["...", "N", "d"], x=T.tokens["...", "N", "d"], branch=T.tokens["...", "N", "d"])
    module = "vlmgraph.nn.conv:GatedAdd"

    def parameters(self) -> dict[str, int]:
        return {"gate": 1}
