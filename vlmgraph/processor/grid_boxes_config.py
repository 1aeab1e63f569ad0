"""processor.grid_boxes: boxes as pairs of location tokens."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field, model_validator

from .config import Boxes
from .template import fields, fill


class GridBoxes(Boxes, name="processor.grid_boxes"):
    """Boxes as two tokens of a grid of `scale` x `scale` bins, row by row: that of the upper left corner and that of the lower right one
    (KOSMOS-2, arXiv 2306.14824, section 2). Both ways.

    Two different bins, no two of a row or column, stand for their centres; others for all of their area.
    """

    codec: ClassVar[str] = "vlmgraph.processor.grid_boxes:GridBoxCodec"

    format: str = "<object>{boxes}</object>"
    box: str = "{first}{last}"
    join: str = "</delimiter_of_multi_objects/>"
    phrase: str = "<phrase>{phrase}</phrase>"
    scale: Annotated[int, Field(gt=0, le=256)] = 32
    token: str = "<patch_index_{bin:04}>"
    """Of one bin."""
    ids: Annotated[int, Field(ge=0)] | None = None
    """The id of bin 0, those of the others follow. None: the tokenizer's file says them."""

    @model_validator(mode="after")
    def _fields(self) -> GridBoxes:
        for name, wanted in (("format", ["boxes"]), ("box", ["first", "last"]), ("phrase", ["phrase"]), ("token", ["bin"])):
            if sorted(field for field, _ in fields(getattr(self, name))) != wanted:
                raise ValueError(f"{name} must hold {' and '.join(f'{{{field}}}' for field in wanted)} once")
        return self

    def tokens(self) -> dict[str, int]:
        """The location tokens with their ids, where the entry says them."""
        return {} if self.ids is None else {fill(self.token, {"bin": k}): self.ids + k for k in range(self.scale**2)}
