"""op.real_patches: padding of images told from their sizes."""

from __future__ import annotations

from pydantic import Field

from ...ir import types as T
from ...ir.dims import Dim, apply
from ...ir.types import Type
from ..base import Op, Ports


class RealPatches(Op, name="op.real_patches"):
    """Which patches of padded images are real: image[B, C, H, W], sizes index[B, 2] → mask[B, (H // patch) * (W // patch)].

    `sizes` are heights and widths of the part of each image, from its upper left corner, that is no padding. Without them there is no mask.
    """

    patch: int = Field(ge=1, description="side of a patch in pixels")
    module = "vlmgraph.nn.real_patches:RealPatches"

    def signature(self, facet: str = "") -> Ports:
        rows, columns = (apply("//", Dim.of(side), Dim.of(self.patch)) for side in "HW")
        return Ports(Type("mask", (Dim.of("B"), rows * columns)), x=T.image["B", "C", "H", "W"], sizes=T.index["B", 2])
