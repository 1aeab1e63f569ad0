"""position.sincos and position.sincos_2d: positions that are computed, not learned."""

from __future__ import annotations

from typing import Any

from pydantic import Field, model_validator

from .position import Position


class SinCos(Position, name="position.sincos"):
    """Sines and cosines of a token's place, added to the tokens (arXiv 1706.03762), all sines first (fairseq).

    Padding takes no place and gets zeros.
    """

    width: int | None = Field(None, ge=1, description="width of the tokens; the stack's")
    offset: int = Field(0, ge=0, description="what position 0 counts as")
    theta: float = Field(10000.0, gt=0, description="largest wavelength, in units of the smallest")
    fills = "position"
    module = "vlmgraph.nn.sincos:SinusoidalPositions"


class SinCos2D(Position, name="position.sincos_2d"):
    """Sines and cosines of a patch's column and row, added to the patches of images of any size and aspect ratio (MAE, arXiv 2111.06377;
    AIMv2, arXiv 2411.14402, section 3.3)."""

    width: int | None = Field(None, ge=1, description="width of the tokens; the stack's")
    theta: float = Field(10000.0, gt=0, description="largest wavelength, in units of the smallest")
    fills = "position"
    module = "vlmgraph.nn.sincos:ImageSinCos"

    @model_validator(mode="after")
    def _quarters(self) -> SinCos2D:
        if self.width is not None and self.width % 4:
            raise ValueError(f"a width of {self.width} cannot be dealt out to sines and cosines of rows and columns: it must divide by 4")
        return self

    def arguments(self) -> dict[str, Any]:
        return {"width": self.width, "theta": self.theta}
