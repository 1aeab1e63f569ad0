"""op.patch_mask: which patches of an image are real."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ...ir import types as T
from ...ir.dims import Dim, apply
from ...ir.types import Type
from ..base import Op, Ports


class PatchMask(Op, name="op.patch_mask"):
    """Which patches are real, of images whose real pixels are known: mask[B, H, W] → mask[B, (H // patch) * (W // patch)] (Aria)."""

    patch: int = Field(ge=1, description="side of a patch in pixels")
    covered: Literal["any", "all"] = Field("any", description="a patch is real where any of its pixels is, or all are")
    module = "vlmgraph.nn.patch_mask:PatchMask"

    def signature(self, facet: str = "") -> Ports:
        rows, columns = (apply("//", Dim.of(side), Dim.of(self.patch)) for side in "HW")
        return Ports(Type("mask", (Dim.of("B"), rows * columns)), mask=T.mask["B", "H", "W"])
