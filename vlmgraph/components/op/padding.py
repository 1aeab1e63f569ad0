"""op.real_images: padding left out of a batch of images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import Field

from ...ir import types as T
from ...ir.dims import Dim, apply
from ...ir.types import Type
from ..base import Op, Ports


class RealImages(Op, name="op.real_images"):
    """The images that are not padding, all of whose values are zero: image[..., C, H, W] → image[N, C, H, W] (Idefics2, Idefics3).

    `pixel_mask` [..., H, W] says which pixels are real, the output `mask` which patches: mask[N, (H // patch) * (W // patch)].
    """

    patch: int = Field(ge=1, description="side of a patch in pixels")
    channels: int = Field(3, ge=1, description="of the image")
    covered: Literal["all", "any"] = Field("all", description="a patch is real where all of its pixels are, or any")
    keep_one: bool = Field(False, description="where every image is padding the first one stays")
    module = "vlmgraph.nn.padding:RealImages"

    def signature(self, facet: str = "") -> Ports:
        rows, columns = (apply("//", Dim.of(side), Dim.of(self.patch)) for side in "HW")
        outputs = {"out": T.image["N", self.channels, "H", "W"], "mask": Type("mask", (Dim.of("N"), rows * columns))}
        return Ports(outputs, x=T.image["...", self.channels, "H", "W"], pixel_mask=T.mask["...", "H", "W"].optional_)

    def arguments(self) -> dict[str, Any]:
        return {"patch": self.patch, "covered": self.covered, "keep_one": self.keep_one}

    def lengths(self, inputs: Mapping[str, Any]) -> Sequence[int] | None:
        """A picture is as many images as it was cut into."""
        return inputs.get("entries")

    def absent(self, fed: frozenset[str]) -> frozenset[str]:
        return frozenset() if "pixel_mask" in fed else frozenset({"mask"})
