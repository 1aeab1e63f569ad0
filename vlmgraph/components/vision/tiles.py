"""vision.tiled_vit and what else a tower over tiles is made of."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

from pydantic import Field, model_validator

from ...ir import types as T
from ...ir.dims import Dim, apply
from ..base import Component, Encoder, Layer, Op, Ports, load_symbol
from ..layer.patch import ConvPatch
from ..layer.slot import counted
from ..stack import StackConfig


class TiledVisionTransformer(StackConfig, Encoder, name="vision.tiled_vit"):
    """A vision transformer whose tokens attend across the tiles of an image (Llama 3.2-Vision, arXiv 2407.21783, section 7.1):
    image[B, tiles, 3, S, S], index[B] → tokens[B, tiles * padded, width], their mask, and the places of the real ones.

    Each tile has a class token and its patches, filled up with zeros to `padded`, a multiple of `pad_to`. Which arrangement of tiles an
    image is cut into (`aspect`: 1 is the first, 0 no image) tells the tiles apart, behind gates that are closed at first: a vector a tile
    in front of the class token, a vector a token behind it. `op.take` with the places `real` leaves out what was filled up.
    """

    image_size: int | None = Field(None, ge=1, description="side of a tile in pixels; inferred")
    patch: int = Field(ge=1, description="side of a patch in pixels")
    patch_bias: bool = Field(True, description="the patch embedding has a bias")
    crop: bool = Field(False, description="leave out the last pixels where the patch does not divide the tile, instead of refusing it")
    pre_norm: bool = Field(False, description="a norm in front of the first layer")
    tiles: int = Field(4, ge=1, description="tiles that an image has room for")
    arrangements: tuple[tuple[int, int], ...] = Field(min_length=1, description="rows and columns of tiles, by number from 1")
    pad_to: int = Field(8, ge=1, description="tokens of a tile are filled up to a multiple of this")
    module = "vlmgraph.nn.tiles:TiledVisionTransformer"

    @model_validator(mode="after")
    def _plain(self) -> TiledVisionTransformer:
        if self.insert or self.cross is not None:
            raise ValueError("a tower over tiles has no insertions and no cross-attention")
        if self.position is not None:
            raise ValueError("position: that of tiles is learned, a table for all and one for each tile of each arrangement")
        if any(side < 1 for pair in self.arrangements for side in pair):
            raise ValueError("arrangements: rows and columns of tiles are counted from 1")
        return self

    @cached_property
    def cut(self) -> ConvPatch:
        """The patch layer with its dims."""
        return ConvPatch(size=self.patch, width=self.width, bias=self.patch_bias)

    @property
    def patches(self) -> Dim:
        """Patches of a tile. Raises DimError where the patch does not divide it, unless `crop` allows that."""
        size = Dim.of("image_size" if self.image_size is None else self.image_size)
        side = apply("//" if self.crop else "/", size, Dim.of(self.patch))
        return side * side

    @property
    def padded(self) -> Dim:
        """Tokens of a tile."""
        return apply("//", self.patches + self.pad_to, Dim.of(self.pad_to)) * self.pad_to

    def signature(self, facet: str = "") -> Ports:
        batch, tiles, size = Dim.of("B"), Dim.of(self.tiles), Dim.of("image_size")
        whole = tiles * self.padded
        outputs = {"out": T.Type("tokens", (batch, whole, Dim.of("width"))), "mask": T.Type("mask", (batch, whole))}
        outputs["real"] = T.Type("index", (batch, tiles, self.patches + 1))
        image, mask = T.Type("image", (batch, tiles, Dim.of(3), size, size)), T.Type("mask", (batch, tiles))
        return Ports(outputs, x=image, aspect=T.index["B"].optional_, mask=mask.optional_)

    def parameters(self) -> dict[str, int]:
        counts = counted("patch", self.cut) | {"cls": self.width}
        rows, tokens = (len(self.arrangements) + 1) * self.tiles, (self.patches + 1).constant or 0
        counts |= {"tile": 1 + rows * self.width, "position": 1 + tokens * self.width * (1 + rows)}
        if self.pre_norm:
            counts["pre_norm"] = self.norm_of().total()
        return counts | super().parameters()

    def flops(self, dims: Mapping[str, Dim]) -> Dim:
        if "B" not in dims:
            return Dim()
        embed = self.patches * (self.tiles * 2 * 3 * self.patch**2 * self.width)
        return dims["B"] * (embed + self.stack_flops(self.padded * self.tiles, dims))

    def cache_bytes_per_token(self) -> int:
        return 0

    def build(self) -> Any:
        count, padded = (self.patches + 1).constant, self.padded.constant
        if count is None:
            raise ValueError("image_size follows from no edge: give it")
        return load_symbol(self.module)(
            self.cut.build(), self.layer_modules(), self.width, self.arrangements, self.tiles, count, padded,
            pre_norm=self.norm_of().build() if self.pre_norm else None, **self.stack_options(),
        )  # fmt: skip


class VisionTokens(StackConfig, Encoder, name="vision.transformer"):
    """A transformer over tokens of images: tokens[B, N, width] → tokens[B, N, width]. A second stage behind a tower."""


class TileEmbedding(Component, Layer, name="vision.tile_embedding"):
    """A vector for each tile of each arrangement, behind a gate that is closed at first (Llama 3.2-Vision): tokens[B, N, width], index[B]
    → tokens[B, N, width]. N counts the tokens of all tiles, as many of each."""

    width: int | None = Field(None, ge=1, description="width of the tokens; inferred")
    tiles: int = Field(4, ge=1, description="tiles that an image has room for")
    aspects: int = Field(ge=1, description="arrangements of tiles; row 0 is that of no image")
    role = "layer"
    multiplies = False
    ports = Ports(x=T.tokens["B", "N", "width"], aspect=T.index["B"].optional_, returns=T.tokens["B", "N", "width"])
    module = "vlmgraph.nn.tiles:TileEmbedding"

    def parameters(self) -> dict[str, int]:
        return {"gate": 1, "table": (self.aspects + 1) * self.tiles * (self.width or 0)}


class Take(Op, name="op.take"):
    """Tokens at given places: tokens[B, N, d], index[B, K, n] → tokens[B, K, n, d]."""

    ports = Ports(x=T.tokens["B", "N", "d"], places=T.index["B", "K", "n"], returns=T.tokens["B", "K", "n", "d"])
    module = "vlmgraph.nn.tiles:Take"
