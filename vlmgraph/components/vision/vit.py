"""vision.vit: vision transformers, over whole images or over patches cut beforehand."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

from pydantic import Field, model_validator

from ...ir import types as T
from ...ir.dims import Dim, DimError, Symbol, apply
from ..base import Encoder, Ports, load_symbol
from ..layer.patch import LinearPatch, PatchSlot
from ..layer.position import Fractional, Learned, Position
from ..layer.sincos import SinCos2D
from ..layer.slot import counted, filled
from ..stack import StackConfig


class VisionTransformer(StackConfig, Encoder, name="vision.vit"):
    """Vision transformer (ViT, arXiv 2010.11929): image[B, 3, S, S] → tokens[B, prefix + (S / patch)^2, width].

    With `patch.linear` it takes patches of any number of images of any size with their grid of frames, rows and columns (Qwen2-VL):
    patches[P, d_patch], grid[n, 3] → tokens[P, width]. With `position.fractional` images have any aspect ratio: image[B, 3, H, W] →
    tokens[B, (H // patch) * (W // patch), width], and `mask` says which patches are no padding (Idefics2). The output is after the final
    norm, class and register tokens in front.
    """

    image_size: int | None = Field(None, ge=1, description="side of the image in pixels; inferred")
    patch: PatchSlot = Field(description="side of a patch in pixels, or a patch layer")
    crop: bool = Field(False, description="leave out the last pixels where the patch does not divide the image, instead of refusing it")
    patch_bias: bool = Field(True, description="the patch embedding has a bias")
    d_patch: int | None = Field(None, ge=1, description="values of a pre-cut patch; inferred")
    cls: bool = Field(True, description="a class token in front")
    registers: int = Field(0, ge=0, description="learned tokens behind the class token")
    drop_prefix: bool = Field(False, description="leave class and register tokens out of the output and of hidden states")
    pre_norm: bool = Field(False, description="a norm in front of the first layer (CLIP)")
    module = "vlmgraph.nn.vit:VisionTransformer"

    @model_validator(mode="after")
    def _patches(self) -> VisionTransformer:
        if self.packed and (self.cls or self.registers or isinstance(self.code, Learned | Fractional | SinCos2D)):
            raise ValueError(
                "pre-cut patches of many images have no class token, registers or learned positions: set cls = false and another position"
            )
        if not self.packed and self.position is not None and self.position.kind in ("position.rope_2d", "position.mrope"):
            raise ValueError(f'position: {self.position.kind} reads a grid: it needs patch = {{ type = "patch.linear" }}')
        if not self.packed and self.cut.size is None:
            raise ValueError("patch: give its size in pixels")
        if self.native and (self.cls or self.registers):
            raise ValueError(f"{self.code.kind} has no rows for class and register tokens: set cls = false")  # type: ignore[union-attr]
        return self

    @property
    def packed(self) -> bool:
        """Whether patches come with a grid instead of whole images."""
        return isinstance(self.patch, LinearPatch)

    @property
    def native(self) -> bool:
        """Whether whole images come in any aspect ratio."""
        return isinstance(self.code, Fractional | SinCos2D)

    @property
    def square(self) -> bool:
        plain = self.rules == ("full",) and (self.code is None or isinstance(self.code, Learned))
        return not self.packed and not self.prefix and plain

    @cached_property
    def around(self) -> dict[str, Any]:
        """What slots take over; of a tower over images also the side of its grid."""
        try:
            side = None if self.packed or self.cut.size is None else self.side.constant
        except DimError:  # it is said where the tower reads an image
            side = None
        return {**super().around, "side": side}

    @cached_property
    def cut(self) -> Any:
        """The patch layer with its dims."""
        return filled(self.patch, width=self.width, d_patch=self.d_patch, bias=self.patch_bias)

    def default_position(self) -> Position | None:
        return None if self.packed else Learned()

    @property
    def prefix(self) -> int:
        return int(self.cls) + self.registers

    @property
    def side(self) -> Dim:
        """Patches along one side. Raises DimError where the patch does not divide the image, unless `crop` allows it."""
        size = Dim.of(self.image_size) if self.image_size is not None else Dim.of(Symbol("image_size"))
        return apply("//" if self.crop or self.native else "/", size, Dim.of(self.cut.size))

    @property
    def patches(self) -> Dim:
        """Patches of an image."""
        if not self.native:
            return self.side * self.side
        rows, columns = (apply("//", Dim.of(side), Dim.of(self.cut.size)) for side in "HW")
        return rows * columns

    @property
    def table(self) -> int:
        """Rows of the learned positions."""
        side = self.rows if isinstance(self.code, Learned | Fractional) and not self.packed else None
        return 0 if side is None else self.prefix + side**2

    @property
    def rows(self) -> int | None:
        """Rows of the grid of learned positions: the patches along a side, unless the position code says otherwise."""
        given = self.code.side if isinstance(self.code, Fractional) else None
        return given or self.side.constant

    def signature(self, facet: str = "") -> Ports:
        if self.packed:
            ports = Ports(T.tokens["P", "width"], x=T.patches["P", "d_patch"], grid=T.grid["n", 3], **self.media_ports())
            return ports | {"merges": T.index["n"]} if self.merges else ports
        out = T.Type("tokens", (Dim.of("B"), self.patches + (0 if self.drop_prefix else self.prefix), Dim.of("width")))
        sides = ("H", "W") if self.native else ("image_size", "image_size")
        mask = T.Type("mask", (Dim.of("B"), self.patches)).optional_
        ports = {"mask": mask, **self.media_ports()}
        if {"prefix", "prefix_or_full"} & set(self.rules):
            ports["prefix"] = mask
        return Ports(out, x=T.image["B", self.cut.channels, sides[0], sides[1]], **ports)

    def parameters(self) -> dict[str, int]:
        counts = counted("patch", self.cut)
        front = {"cls": int(self.cls) * self.width, "registers": self.registers * self.width, "position": self.table * self.width}
        counts |= {name: count for name, count in front.items() if count}
        if self.pre_norm:
            counts["pre_norm"] = self.norm_of().total()
        return counts | {name: count for name, count in super().parameters().items() if name != "position"}

    def flops(self, dims: Mapping[str, Dim]) -> Dim:
        """Packed patches are counted as one image: attention between all of them."""
        if self.packed:
            if "P" not in dims:
                return Dim()
            embed = dims["P"] * (2 * (self.d_patch or 0) * self.width)
            return embed + self.stack_flops(dims["P"], dims)
        patches = self.patches.substitute({symbol: dims[symbol.name] for symbol in self.patches.symbols() if symbol.name in dims})
        embed = patches * (2 * self.cut.channels * self.cut.size**2 * self.width)
        return dims.get("B", Dim.of(1)) * (embed + self.stack_flops(patches + self.prefix, dims))

    def cache_bytes_per_token(self) -> int:
        return 0

    def position_module(self) -> Any:
        """Learned positions are those of the patches of one image; what other codes say stays."""
        if not isinstance(self.code, Learned | Fractional):
            return super().position_module()
        side = self.rows
        if side is None:
            raise ValueError("image_size follows from no edge: give it")
        if self.native:
            return load_symbol("vlmgraph.nn.position:FractionalPositions")(side, self.width, self.std)
        return load_symbol("vlmgraph.nn.position:ImagePositions")(side, side, self.width, self.prefix, self.std)

    def build(self) -> Any:
        return load_symbol(self.module)(
            self.cut.build(), self.layer_modules(), self.width, cls=self.cls, registers=self.registers,
            pre_norm=self.norm_of().build() if self.pre_norm else None, drop_prefix=self.drop_prefix, std=self.std, **self.stack_options(),
        )  # fmt: skip
