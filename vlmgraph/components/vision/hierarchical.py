"""vision.hierarchical: towers of stages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field, model_validator

from ...ir import types as T
from ...ir.dims import Dim, apply
from ...ir.types import Type
from ..base import Encoder, Ports, linear, load_symbol
from ..layer.slot import BlockSlot, counted, filled


class Hierarchical(Encoder, name="vision.hierarchical"):
    """Stages of blocks on maps that grow coarser and wider: image[B, 3, H, W] → map[B, widths[-1], h, w].

    A stage begins with overlapping patches (CvT, arXiv 2103.15808): a strided convolution with a norm over the channels in front of it or
    behind. What the block leaves open it takes from the stage: `width`, and `heads` and `groups` from the lists here.
    """

    widths: tuple[int, ...] = Field(min_length=1, description="channels of each stage")
    depths: tuple[int, ...] = Field(min_length=1, description="blocks of each stage")
    heads: tuple[int, ...] | None = Field(None, description="attention heads of each stage")
    groups: tuple[int, ...] | None = Field(None, description="groups of channels of each stage")
    block: BlockSlot = Field(description="what a stage repeats")
    kernels: tuple[int, ...] = Field((7, 3, 3, 3), description="kernel of each stage's convolution")
    strides: tuple[int, ...] = Field((4, 2, 2, 2), description="its stride")
    paddings: tuple[int, ...] = Field((3, 1, 1, 1), description="its padding")
    norm_first: tuple[bool, ...] = Field((False, True, True, True), description="whether the norm stands in front of the convolution")
    channels: int = Field(3, ge=1, description="channels of the image")
    parts = ("embeds", "stages")
    module = "vlmgraph.nn.hierarchical:Hierarchical"

    @model_validator(mode="after")
    def _fits(self) -> Hierarchical:
        count = len(self.widths)
        for name in ("depths", "heads", "groups", "kernels", "strides", "paddings", "norm_first"):
            given = getattr(self, name)
            if given is not None and len(given) != count:
                raise ValueError(f"{name}: there are {count} stages (widths), but {len(given)} values")
        low = {"widths": 1, "depths": 0, "heads": 1, "groups": 1, "kernels": 1, "strides": 1, "paddings": 0}
        for name, least in low.items():
            if any(not least <= value <= 100_000 for value in getattr(self, name) or ()):
                raise ValueError(f"{name}: {getattr(self, name)} has a number below {least} or beyond reason")
        if sum(self.depths) > 10_000:
            raise ValueError("depths: at most 10000 blocks")
        _ = self.blocks  # says what does not fit
        return self

    @property
    def blocks(self) -> list[Any]:
        """The block of each stage with its dims."""
        heads, groups = self.heads or (None,) * len(self.widths), self.groups or (None,) * len(self.widths)
        return [filled(self.block, width=w, heads=h, groups=g) for w, h, g in zip(self.widths, heads, groups)]

    @property
    def convolutions(self) -> list[tuple[int, int, int, int, int]]:
        """Channels in and out, kernel, stride and padding of each stage."""
        before = (self.channels, *self.widths)
        return list(zip(before, self.widths, self.kernels, self.strides, self.paddings))

    def sides(self, size: Dim) -> list[Dim]:
        """A side of the map of each stage."""
        found = []
        for _, _, kernel, stride, padding in self.convolutions:
            size = apply("//", size + (2 * padding - kernel), Dim.of(stride)) + 1
            found.append(size)
        return found

    def signature(self, facet: str = "") -> Ports:
        height, width = self.sides(Dim.of("H"))[-1], self.sides(Dim.of("W"))[-1]
        out = Type("map", (Dim.of("B"), Dim.of(self.widths[-1]), height, width))
        return Ports(out, image=T.image["B", "channels", "H", "W"])

    def build(self) -> Any:
        embed = load_symbol("vlmgraph.nn.hierarchical:ConvEmbed")
        embeds = [embed(a, b, k, s, p, first) for (a, b, k, s, p), first in zip(self.convolutions, self.norm_first)]
        return load_symbol(self.module)(embeds, [[block.build() for _ in range(n)] for block, n in zip(self.blocks, self.depths)])

    def parameters(self) -> dict[str, int]:
        counts = {"embeds": 0}
        for (before, width, kernel, _, _), first in zip(self.convolutions, self.norm_first):
            counts["embeds"] += linear(before * kernel * kernel, width) + 2 * (before if first else width)
        for block, depth in zip(self.blocks, self.depths):
            for part, count in counted("stages", block).items():
                counts[part] = counts.get(part, 0) + depth * count
        return counts

    def flops(self, dims: Mapping[str, Dim]) -> Dim:
        cost = Dim()
        rows, columns = self.sides(dims["H"]), self.sides(dims["W"])
        for (before, width, kernel, _, _), block, depth, h, w in zip(self.convolutions, self.blocks, self.depths, rows, columns):
            cost = cost + h * w * (2 * kernel * kernel * before * width)
            window = getattr(block, "window", 1)
            padded = [apply("//", side + (window - 1), Dim.of(window)) * window for side in (h, w)]
            cost = cost + block.flops({"N": h * w, "padded": padded[0] * padded[1]}) * depth
        return dims["B"] * cost
