"""processor.locations: boxes, quadrilaterals and polygons as runs of location tokens."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field, model_validator

from .config import Boxes
from .template import fields, fill


class Locations(Boxes, name="processor.locations"):
    """Regions as runs of location tokens behind what they show, both ways (Florence-2, arXiv 2311.06242, section 3).

    A coordinate is one of `scale` tokens, `floor(x / side * scale)`, and comes back as the middle of its bin. Four make a box, eight a
    quadrilateral, any even number a polygon.
    """

    codec: ClassVar[str] = "vlmgraph.processor.locations:LocationCodec"

    format: str = "{boxes}"
    box: str = "{x0}{y0}{x1}{y1}"
    join: str = ""
    phrase: str = "{phrase}"
    token: str = "<loc_{bin}>"
    """Of one bin."""
    separator: str = "<sep>"
    """Between polygons of one object."""
    group: tuple[str, str] = ("<poly>", "</poly>")
    """Around the polygons of one object, where there are several objects."""
    ends: tuple[str, ...] = ("<s>", "</s>", "<pad>")
    """Left out of what is read."""
    ids: Annotated[int, Field(ge=0)] | None = None
    """The id of bin 0, those of the others follow. None: the tokenizer's file says them."""

    @model_validator(mode="after")
    def _fields(self) -> Locations:
        for name, wanted in (
            ("format", ["boxes"]), ("box", ["x0", "x1", "y0", "y1"]), ("phrase", ["phrase"]), ("token", ["bin"]),
        ):  # fmt: skip
            if sorted(field for field, _ in fields(getattr(self, name))) != wanted:
                raise ValueError(f"{name} must hold {' and '.join(f'{{{field}}}' for field in wanted)} once")
        if not self.separator or not all(self.group):
            raise ValueError("the separator and both ends of a group are texts that are not empty")
        return self

    def tokens(self) -> dict[str, int]:
        """The location tokens with their ids, where the entry says them."""
        return {} if self.ids is None else {fill(self.token, {"bin": k}): self.ids + k for k in range(self.scale)}
