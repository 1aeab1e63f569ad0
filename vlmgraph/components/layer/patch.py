"""patch.*: how an image becomes tokens."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from ..base import Layer
from .slot import NormSlot, filled, slot


class ConvPatch(Layer, name="patch.conv"):
    """A convolution whose stride is its size, over whole images, and a norm of what it gives where one is named (AIMv2)."""

    size: int | None = Field(None, ge=1, description="side of a patch in pixels")
    width: int | None = Field(None, ge=1, description="the stack's")
    channels: int = Field(3, ge=1, description="of the image")
    bias: bool | None = Field(None, description="the tower's `patch_bias`")
    norm: NormSlot | None = Field(None, description="norm of every patch, before positions are added")
    module = "vlmgraph.nn.vit:ConvPatch"

    @property
    def behind(self) -> Any:
        """The norm with its width, if there is one."""
        return None if self.norm is None else filled(self.norm, width=self.width)

    def arguments(self) -> dict[str, Any]:
        fields = {"patch": self.size, "width": self.width, "channels": self.channels, "bias": self.bias is not False}
        return fields if self.behind is None else {**fields, "norm": self.behind.build()}

    def parameters(self) -> dict[str, int]:
        width = self.width or 0
        count = width * self.channels * (self.size or 0) ** 2 + (width if self.bias is not False else 0)
        return {"": count + (0 if self.behind is None else self.behind.total())}


class LinearPatch(Layer, name="patch.linear"):
    """A linear map of patches that were cut beforehand: patches[P, d_patch], any number of images of any size with their grid."""

    d_patch: int | None = Field(None, ge=1, description="values of a patch; inferred")
    width: int | None = Field(None, ge=1, description="the stack's")
    bias: bool | None = Field(None, description="the tower's `patch_bias`")
    module = "vlmgraph.nn.vit:LinearPatch"

    def arguments(self) -> dict[str, Any]:
        return {"d_patch": self.d_patch, "width": self.width, "bias": self.bias is not False}

    def parameters(self) -> dict[str, int]:
        width = self.width or 0
        return {"": width * (self.d_patch or 0) + (width if self.bias is not False else 0)}


PatchSlot = slot("patch", "patch.conv", "size")
