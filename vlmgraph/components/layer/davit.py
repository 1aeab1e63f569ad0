"""block.davit: DaViT's dual block."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field, model_validator

from ...ir.dims import Dim
from ..base import Layer, linear
from .mlp import Act, activation


class DualBlock(Layer, name="block.davit"):
    """Attention inside windows, then among the channels of groups, each with depthwise convolutions and an MLP (DaViT, arXiv 2204.03645).

    For the stages of `vision.hierarchical`.
    """

    width: int | None = Field(None, ge=1, description="channels; the stage's")
    heads: int | None = Field(None, ge=1, description="heads of the window attention; the stage's")
    groups: int | None = Field(None, ge=1, description="groups of channels that attend to each other; as many as `heads`")
    window: int = Field(12, ge=1, description="side of a window")
    mlp_ratio: float = Field(4.0, gt=0, description="hidden width of the MLPs over the channels")
    act: Act = Field("gelu", description="activation of the MLPs")
    bias: bool = Field(True, description="queries, keys and values have biases")
    module = "vlmgraph.nn.davit:DualBlock"

    @model_validator(mode="after")
    def _fits(self) -> DualBlock:
        for name in ("heads", "groups"):
            parts = getattr(self, name)
            if parts is not None and self.width is not None and self.width % parts:
                raise ValueError(f"{parts} {name} do not divide {self.width} channels")
        return self

    @property
    def hidden(self) -> int:
        return int((self.width or 0) * self.mlp_ratio)

    def arguments(self) -> dict[str, Any]:
        heads = self.heads or 1
        return {
            "width": self.width, "heads": heads, "groups": self.groups or heads, "window": self.window, "hidden": self.hidden,
            "act": activation(self.act), "bias": "qkvo" if self.bias else "o",
        }  # fmt: skip

    def parameters(self) -> dict[str, int]:
        w = self.width or 0
        attention = 3 * linear(w, w, self.bias) + linear(w, w)
        half = {"attention": attention, "mlp": linear(w, self.hidden) + linear(self.hidden, w)}
        half |= {f"convs.{branch}": 10 * w for branch in ("attention", "mlp")} | {
            f"norms.{branch}": 2 * w for branch in ("attention", "mlp")
        }
        return {f"{side}.{part}": count for side in ("spatial", "channel") for part, count in half.items()}

    def flops(self, dims: Mapping[str, Dim]) -> Dim:
        """N places in rows of `columns`; windows as they are with their padding."""
        w, places, padded = self.width or 0, dims["N"], dims.get("padded", dims["N"])
        common = places * (2 * 9 * w + 2 * w * self.hidden) * 2
        spatial = padded * (4 * w * w + 2 * self.window**2 * w)
        channel = places * (4 * w * w + 2 * w * (w // (self.groups or self.heads or 1)))
        return (common + spatial + channel) * 2
