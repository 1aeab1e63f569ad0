"""op.pixel_shuffle and op.rearrange: tokens regrouped without arithmetic."""

from __future__ import annotations

import re
from typing import Any, Literal

from pydantic import Field, model_validator

from ...ir import types as T
from ...ir.dims import Dim
from ...ir.types import Type
from ..base import Op, Ports


class PixelShuffle(Op, name="op.pixel_shuffle"):
    """Blocks of neighbouring tokens become the channels of one: tokens[..., N, d] → tokens[..., N / (h w), d h w].

    Channel orders: `hwc` (row, column, channel; InternVL, Idefics3), `chw` (channel, row, column; DeepSeek-VL2), both of a square grid,
    rows first; `block-major` (token, channel) of tokens that come block by block already (Qwen2-VL).
    """

    factor: int = Field(2, ge=1, description="side of a square block")
    block: tuple[int, int] | None = Field(None, description="rows and columns of a block, where it is not square")
    order: Literal["hwc", "chw", "block-major"] = Field("hwc", description="how tokens come and channels are laid out")
    side: int | None = Field(None, ge=1, description="side of the grid before padding; needed with `pad`")
    pad: bool = Field(False, description="add zero rows and columns up to a multiple of the block")
    module = "vlmgraph.nn.rearrange:PixelShuffle"

    @model_validator(mode="after")
    def _shape(self) -> PixelShuffle:
        if self.block is not None and min(self.block) < 1:
            raise ValueError("a block has at least one row and one column")
        if self.pad != (self.side is not None):
            raise ValueError("`pad` and `side` go together")
        if self.pad and self.order == "block-major":
            raise ValueError("tokens that come block by block cannot be padded")
        return self

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of a block."""
        return self.block or (self.factor, self.factor)

    def signature(self, facet: str = "") -> Ports:
        h, w = self.shape
        before: str | int = "N"
        after: str | int = f"N/{h * w}"
        if self.side is not None:
            before, after = self.side**2, -(-self.side // h) * -(-self.side // w)
        return Ports(T.tokens["...", after, f"d*{h * w}"], x=T.tokens["...", before, "d"])

    def arguments(self) -> dict[str, Any]:
        return {"block": self.shape, "order": self.order, "pad": self.pad}


class Rearrange(Op, name="op.rearrange"):
    """Dims regrouped by a pattern: `"b (h f) c -> b h (f c)"` with `sizes = { f = 2 }`."""

    pattern: str = Field(description="dims on the left, regrouped on the right; parentheses join dims")
    sizes: dict[str, int] = Field(default_factory=dict, description="lengths that the shape leaves open")
    takes: Literal["tokens", "map", "image", "patches", "embedding", "logits"] = Field("tokens", description="kind that comes in")
    gives: Literal["tokens", "map", "image", "patches", "embedding", "logits"] = Field("tokens", description="kind that goes out")
    module = "vlmgraph.nn.rearrange:Rearrange"

    @model_validator(mode="after")
    def _readable(self) -> Rearrange:
        left, _ = self.groups
        names = {name for group in left for name in group}
        for name, size in self.sizes.items():
            if name not in names or size < 1:
                raise ValueError(f"sizes: {name} = {size} is not a length of a dim of the pattern")
        for group in left:
            if sum(name not in self.sizes for name in group) > 1:
                raise ValueError(f"give all but one length of ({' '.join(group)}) in `sizes`")
        return self

    @property
    def groups(self) -> tuple[tuple[tuple[str, ...], ...], tuple[tuple[str, ...], ...]]:
        """Names on both sides. Raises ValueError for a pattern that cannot be read or does not keep every dim."""
        sides = self.pattern.split("->")
        if len(sides) != 2:
            raise ValueError(f"{self.pattern!r} is not `dims -> dims`")
        read = []
        for side in sides:
            if re.sub(r"\([a-z]+( [a-z]+)*\)|[a-z]+|\s", "", side) or "(" in re.sub(r"\([^()]*\)", "", side):
                raise ValueError(f"cannot read {side.strip()!r}: write lower-case names, and groups in parentheses")
            read.append(tuple(tuple(found.strip("()").split()) for found in re.findall(r"\([a-z ]+\)|[a-z]+", side)))
        left, right = (sorted(name for group in side for name in group) for side in read)
        if left != right or len(set(left)) != len(left):
            raise ValueError(f"both sides of {self.pattern!r} must name the same dims, each once")
        return read[0], read[1]

    def signature(self, facet: str = "") -> Ports:
        left, right = self.groups
        return Ports(self._type(self.gives, right), x=self._type(self.takes, left))

    def _type(self, kind: str, groups: tuple[tuple[str, ...], ...]) -> Type:
        dims = []
        for group in groups:
            total = Dim.of(1)
            for name in group:
                # a prefix keeps a dim called `sizes` or `takes` from meaning the field of that name
                total = total * (self.sizes.get(name) or f"_{name}")
            dims.append(total)
        return Type(kind, tuple(dims))

    def arguments(self) -> dict[str, Any]:
        left, right = self.groups
        return {"left": left, "right": right, "sizes": self.sizes}
