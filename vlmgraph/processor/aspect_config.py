"""The declaration `processor.aspect`: pictures that keep their aspect ratio."""

from __future__ import annotations

from typing import ClassVar

from pydantic import model_validator

from .config import Pixels, Side


class Aspect(Pixels, name="processor.aspect"):
    """Pictures that keep their aspect ratio, padded at the right and at the bottom: `[B, M, 3, H, W]` (Idefics2, arXiv 2405.02246).

    A long side above `longest` is brought there, then a side below `shortest` is stretched to it. Zeros stand behind the last picture of
    a sample. `gives`: `mask`, which pixels are real `[B, M, H, W]`.
    """

    module: ClassVar[str] = "vlmgraph.processor.aspect:aspect"
    gives: ClassVar[tuple[str, ...]] = ("mask",)

    shortest: Side = 378
    longest: Side = 980
    quarters: bool = False
    """Each picture is cut into its four quarters, row by row, and the whole of it is the fifth; all five come to their size afterwards."""

    @model_validator(mode="after")
    def _order(self) -> Aspect:
        if self.shortest > self.longest:
            raise ValueError(f"shortest {self.shortest} is above longest {self.longest}")
        return self
