"""vision.resnet: CLIP's residual network."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import Field, model_validator

from ...ir import types as T
from ...ir.dims import Dim
from ..base import Encoder, Ports


class ResNet(Encoder, name="vision.resnet"):
    """CLIP's modified ResNet (arXiv 2103.00020, section 2.4): image[B, 3, H, W] → tokens[B, (H/32)*(W/32), 32 * width].

    The last map in raster order; what pools it is a part of its own (`connector.attention_pool`).
    """

    image_size: int | None = Field(None, ge=1, description="side of the square image; inferred")
    layers: tuple[int, ...] = Field((3, 4, 6, 3), min_length=1, description="bottlenecks of each stage")
    width: int = Field(64, ge=2, multiple_of=2, description="channels after the stem; a stage's output has four times its channels")
    channels: int = Field(3, ge=1, description="channels of the image")
    ports = Ports(image=T.image["B", "channels", "image_size", "image_size"], returns=T.tokens["B", "N", "d"])
    module = "vlmgraph.nn.resnet:ResNet"

    @model_validator(mode="after")
    def _fits(self) -> ResNet:
        if not all(1 <= depth <= 1000 for depth in self.layers):
            raise ValueError("layers: every stage has 1 to 1000 bottlenecks")
        if self.image_size is not None and self.image_size % self.factor:
            raise ValueError(f"image_size {self.image_size} is no multiple of {self.factor}, the stride of the last stage")
        return self

    @property
    def factor(self) -> int:
        """Pixels a side that one token stands for."""
        return int(2 ** (len(self.layers) + 1))

    def signature(self, facet: str = "") -> Ports:
        count = f"(image_size/{self.factor})*(image_size/{self.factor})"
        out = 4 * self.width * 2 ** (len(self.layers) - 1)
        return Ports(image=type(self).ports.inputs["image"], returns=T.tokens["B", count, out])

    def arguments(self) -> dict[str, object]:
        return {"layers": self.layers, "width": self.width, "channels": self.channels}

    def convolutions(self) -> dict[str, list[tuple[int, int, int, int]]]:
        """(kernel, channels in, channels out, stride of the output over the image's) of every convolution, by part; a norm follows each."""
        half = self.width // 2
        found = {"stem": [(3, self.channels, half, 2), (3, half, half, 2), (3, half, self.width, 2)]}
        current, stride = self.width, 4
        for i, depth in enumerate(self.layers):
            inner, before = self.width * 2**i, stride
            stride = stride * (2 if i else 1)
            convs = []
            for j in range(depth):
                at = before if j == 0 else stride  # the pool stands behind the 3x3 convolution
                convs += [(1, current, inner, at), (3, inner, inner, at), (1, inner, 4 * inner, stride)]
                if j == 0 and (i or current != 4 * inner):
                    convs.append((1, current, 4 * inner, stride))
                current = 4 * inner
            found[f"stages.{i}"] = convs
        return found

    def parameters(self) -> dict[str, int]:
        return {part: sum(k * k * a * b + 2 * b for k, a, b, _ in convs) for part, convs in self.convolutions().items()}

    def flops(self, dims: Mapping[str, Dim]) -> Dim:
        if self.image_size is None:
            return Dim()
        every = [c for convs in self.convolutions().values() for c in convs]
        return dims["B"] * (2 * sum(k * k * a * b * (self.image_size // s) ** 2 for k, a, b, s in every))
