"""vision.nfnet: a residual network without normalisation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field, model_validator

from ...ir import types as T
from ...ir.dims import Dim
from ..base import Encoder, Ports, linear

Convolution = tuple[int, int, int, int, int]
"""kernel, channels in and out, groups, stride of the output over the image's"""


class NFNet(Encoder, name="vision.nfnet"):
    """NFNet (arXiv 2102.06171), the encoder of Flamingo: image[B, 3, H, W] → tokens[B, (H/32)*(W/32), d], the last map in raster order."""

    image_size: int | None = Field(None, ge=1, description="side of the square image; inferred")
    layers: tuple[int, ...] = Field((1, 2, 6, 3), min_length=1, description="blocks of each stage")
    widths: tuple[int, ...] = Field((256, 512, 1536, 1536), min_length=1, description="channels of each stage")
    stem: int = Field(128, ge=8, multiple_of=8, description="channels after the stem")
    group: int = Field(128, ge=1, description="channels a group of the 3x3 convolutions")
    final: int = Field(0, ge=0, description="channels of a 1x1 convolution behind the last stage; 0 for none")
    channels: int = Field(3, ge=1, description="channels of the image")
    ports = Ports(image=T.image["B", "channels", "image_size", "image_size"], returns=T.tokens["B", "N", "d"])
    module = "vlmgraph.nn.nfnet:NFNet"

    @model_validator(mode="after")
    def _fits(self) -> NFNet:
        if len(self.layers) != len(self.widths) or not all(1 <= n <= 1000 for n in self.layers):
            raise ValueError("layers: every stage has 1 to 1000 blocks, and a width")
        if any(w < 2 or w % 2 or (w // 2 > self.group and w // 2 % self.group) for w in self.widths):
            raise ValueError(f"widths: half of each is made of groups of {self.group} channels")
        if self.image_size is not None and self.image_size % self.factor:
            raise ValueError(f"image_size {self.image_size} is no multiple of {self.factor}, the stride of the last stage")
        return self

    @property
    def factor(self) -> int:
        """Pixels a side that one token stands for."""
        return int(2 ** (len(self.layers) + 1))

    def signature(self, facet: str = "") -> Ports:
        count = f"(image_size/{self.factor})*(image_size/{self.factor})"
        return Ports(image=type(self).ports.inputs["image"], returns=T.tokens["B", count, self.final or self.widths[-1]])

    def arguments(self) -> dict[str, Any]:
        names = ("widths", "stem", "group", "final", "channels")
        return {"depths": self.layers, **{name: getattr(self, name) for name in names}}

    def convolutions(self) -> dict[str, list[Convolution]]:
        """Every convolution, by part."""
        sizes = (self.channels, self.stem // 8, self.stem // 4, self.stem // 2, self.stem)
        found = {"stem": [(3, a, b, 1, s) for a, b, s in zip(sizes, sizes[1:], (2, 2, 2, 4))]}
        current, stride = self.stem, 4
        for i, (depth, width) in enumerate(zip(self.layers, self.widths)):
            inner, before = width // 2, stride
            groups, stride = max(inner // self.group, 1), stride * (2 if i else 1)
            convs: list[Convolution] = []
            for j in range(depth):
                convs += [
                    (1, current, inner, 1, before if j == 0 else stride),
                    *[(3, inner, inner, groups, stride)] * 2,
                    (1, inner, width, 1, stride),
                ]
                if j == 0 and (i or current != width):
                    convs.append((1, current, width, 1, stride))
                current = width
            found[f"stages.{i}"] = convs
        if self.final:
            found["final"] = [(1, current, self.final, 1, stride)]
        return found

    def parameters(self) -> dict[str, int]:
        counts = {part: sum(k * k * a // g * b + 2 * b for k, a, b, g, _ in convs) for part, convs in self.convolutions().items()}
        for i, (depth, width) in enumerate(zip(self.layers, self.widths)):
            counts[f"stages.{i}"] += depth * (linear(width, width // 2) + linear(width // 2, width) + 1)
        return counts

    def flops(self, dims: Mapping[str, Dim]) -> Dim:
        if self.image_size is None:
            return Dim()
        every = [c for convs in self.convolutions().values() for c in convs]
        return dims["B"] * (2 * sum(k * k * a // g * b * (self.image_size // s) ** 2 for k, a, b, g, s in every))
