"""op.patchify: images of several sizes to one packed sequence of patches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import Field

from ...ir import types as T
from ..base import Op, Ports


class Patchify(Op, name="op.patchify"):
    """Whole images cut into patches, row by row, one image behind the other: image[N, C, H, W] → patches[P, C p^2], grid[N, 3].

    `sizes` [N, 2] says which part of each image, from its upper left corner, is real; the rest is padding and gives no patches.
    """

    patch: int = Field(ge=1, description="side of a patch in pixels")
    channels: int = Field(3, ge=1, description="of the image")
    module = "vlmgraph.nn.patchify:Patchify"

    def signature(self, facet: str = "") -> Ports:
        outputs = {"out": T.patches["P", self.channels * self.patch**2], "grid": T.grid["N", 3]}
        return Ports(outputs, x=T.image["N", self.channels, "H", "W"], sizes=T.index["N", 2].optional_)

    def arguments(self) -> dict[str, Any]:
        return {"patch": self.patch}

    def lengths(self, inputs: Mapping[str, Any]) -> Sequence[int] | None:
        if "sizes" in inputs:
            return [int(h) // self.patch * (int(w) // self.patch) for h, w in inputs["sizes"]]
        if "x" not in inputs:
            return None
        count, _, height, width = inputs["x"].shape
        return [height // self.patch * (width // self.patch)] * count
