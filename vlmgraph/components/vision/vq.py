"""vision.vq: an image tokenizer with a learned codebook."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import Field, model_validator

from ...ir import types as T
from ...ir.dims import Dim
from ..base import Encoder, Ports


def conv(kernel: int, channels_in: int, channels_out: int) -> int:
    """Parameters of a convolution with bias."""
    return kernel * kernel * channels_in * channels_out + channels_out


class VQ(Encoder, name="vision.vq"):
    """VQGAN tokenizer of LlamaGen and Janus (arXiv 2406.06525, 2410.13848), used through its facets.

    `encode`: pixels in [-1, 1] → one id for each square of f x f pixels in raster order, f = 2**(levels - 1); `decode`: ids → pixels.
    """

    image_size: int | None = Field(None, ge=1, description="side of the square image; inferred")
    channels: int = Field(128, ge=32, multiple_of=32, description="channels of the first level")
    multipliers: tuple[int, ...] = Field((1, 1, 2, 2, 4), min_length=1, description="channels of each level over those of the first")
    blocks: int = Field(2, ge=1, le=1000, description="residual blocks a level; the decoder has one more")
    latent: int = Field(256, ge=1, description="channels between the convolutions and the codebook's projection")
    codes: int = Field(16384, ge=2, description="rows of the codebook")
    code_width: int = Field(8, ge=1, description="width of the codebook")
    distance: Literal["cosine", "euclidean"] = Field("cosine", description="what makes a code the nearest")
    normalize: bool = Field(True, description="the decoder receives codes of unit length")
    facets = ("encode", "decode")
    parts = ("encode", "decode")
    ports = Ports(image=T.image["B", 3, "image_size", "image_size"], returns=T.image["B", 3, "image_size", "image_size"])
    module = "vlmgraph.nn.vq:VQ"

    @model_validator(mode="after")
    def _fits(self) -> VQ:
        if any(m < 1 for m in self.multipliers):
            raise ValueError("multipliers: every level needs at least the channels of the first")
        if self.image_size is not None and self.image_size % self.factor:
            raise ValueError(f"image_size {self.image_size} is no multiple of {self.factor}, the pixels a side of one code")
        return self

    @property
    def factor(self) -> int:
        """Side of the square of pixels that one code stands for."""
        return int(2 ** (len(self.multipliers) - 1))

    def signature(self, facet: str = "") -> Ports:
        count = f"(image_size/{self.factor})*(image_size/{self.factor})"
        pixels = T.image["B", 3, "image_size", "image_size"]
        if facet == "encode":
            return Ports(image=pixels, returns=T.ids["B", count])
        if facet == "decode":
            return Ports(ids=T.ids["G", count], returns=T.image["G", 3, "image_size", "image_size"])
        return type(self).ports

    def convolutions(self, facet: str) -> list[tuple[int, int, int, int]]:
        """(kernel, channels in, channels out, pixels a side over the code grid's) of every convolution."""
        decoding = facet == "decode"
        widths = [self.channels * m for m in self.multipliers]
        scales = [2 ** (len(widths) - 1 - i) for i in range(len(widths))]
        if decoding:
            widths, scales = widths[::-1], scales[::-1]
        last = len(widths) - 1

        def block(a: int, b: int, at: int) -> list[tuple[int, int, int, int]]:
            return [(3, a, b, at), (3, b, b, at)] + ([(1, a, b, at)] if a != b else [])

        deep = widths[0] if decoding else widths[-1]
        found = block(deep, deep, 1) * 2 + [(1, deep, deep, 1)] * 4  # the middle
        previous = deep if decoding else self.channels
        for i, (width, scale) in enumerate(zip(widths, scales)):
            for _ in range(self.blocks + decoding):
                found += block(previous, width, scale)
                if scale == 1:
                    found += [(1, width, width, 1)] * 4
                previous = width
            if i < last:
                found.append((3, width, width, 2 * scale if decoding else scale // 2))
        if decoding:
            return [*found, (1, self.code_width, self.latent, 1), (3, self.latent, widths[0], 1), (3, widths[-1], 3, scales[-1])]
        return [*found, (3, 3, self.channels, scales[0]), (3, widths[-1], self.latent, 1), (1, self.latent, self.code_width, 1)]

    def norms(self, facet: str) -> int:
        """Parameters of the group norms."""
        decoding = facet == "decode"
        widths = [self.channels * m for m in self.multipliers]
        if decoding:
            widths.reverse()
        deep = widths[0] if decoding else widths[-1]
        total, previous = 5 * deep, deep if decoding else self.channels
        for i, width in enumerate(widths):
            for _ in range(self.blocks + decoding):
                total += previous + width
                if i == (0 if decoding else len(widths) - 1):
                    total += width
                previous = width
        return 2 * (total + widths[-1])

    def parameters(self) -> dict[str, int]:
        def side(facet: str) -> int:
            return sum(conv(k, a, b) for k, a, b, _ in self.convolutions(facet)) + self.norms(facet)

        return {"encode": side("encode"), "codebook": self.codes * self.code_width, "decode": side("decode")}

    def flops(self, dims: Mapping[str, Dim]) -> Dim:
        """Convolutions, attention at the lowest resolution, and the search through the codebook. `G` marks the decoder's batch."""
        if self.image_size is None:
            return Dim()
        facet, batch = ("decode", dims["G"]) if "G" in dims else ("encode", dims["B"])
        grid = self.image_size // self.factor
        cost = sum(k * k * a * b * (grid * at) ** 2 for k, a, b, at in self.convolutions(facet))
        deep = self.channels * self.multipliers[-1]
        attentions = 1 + self.blocks + (facet == "decode")
        cost += attentions * 2 * grid**4 * deep
        if facet == "encode":
            cost += grid**2 * self.codes * self.code_width
        return batch * (2 * cost)
