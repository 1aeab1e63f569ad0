"""connector.any_resolution: a base view and tiles of each picture, as one sequence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import Field, model_validator

from ...ir import types as T
from ..base import Connector, Ports, load_symbol

Canvas = tuple[int, int]


class AnyResolution(Connector, name="connector.any_resolution"):
    """Views of images, the base first, to one packed sequence: tokens[I, M, side^2, d], index[I, 2] → tokens[V, d] (LLaVA-NeXT).

    Tiles are put together, margins that the picture does not fill are dropped, a learned newline ends each row.
    """

    canvases: tuple[Canvas, ...] = Field(min_length=1, description="(height, width) of the canvases in pixels, whole tiles")
    tile: int = Field(ge=1, description="side of a tile in pixels")
    patch: int = Field(ge=1, description="side of a patch in pixels")
    d: int | None = Field(None, ge=1, description="width of the tokens; inferred")
    multiplies = False
    module = "vlmgraph.nn.any_resolution:AnyResolution"

    @model_validator(mode="after")
    def _whole(self) -> AnyResolution:
        for canvas in self.canvases:
            if any(side < 1 or side % self.tile for side in canvas):
                raise ValueError(f"canvases: {list(canvas)} is not made of tiles of {self.tile}")
        return self

    @property
    def side(self) -> int:
        """Patches along a side of a tile."""
        return self.tile // self.patch

    def signature(self, facet: str = "") -> Ports:
        return Ports(T.tokens["V", "d"], x=T.tokens["I", "M", self.side**2, "d"], sizes=T.index["I", 2])

    def arguments(self) -> dict[str, Any]:
        return {"canvases": self.canvases, "tile": self.tile, "side": self.side, "width": self.d}

    def parameters(self) -> dict[str, int]:
        return {"newline": self.d or 0}

    def lengths(self, inputs: Mapping[str, Any]) -> Sequence[int] | None:
        return [self.length(int(h), int(w)) for h, w in inputs["sizes"]] if "sizes" in inputs else None

    def length(self, height: int, width: int) -> int:
        """Tokens of a picture: the base view, and rows of the map with their newlines."""
        canvas, margins = load_symbol("vlmgraph.nn.canvas:best_canvas"), load_symbol("vlmgraph.nn.canvas:margins")
        rows, columns = (side // self.tile * self.side for side in canvas(height, width, self.canvases))
        top, left = margins(height, width, rows, columns)
        return self.side**2 + (rows - 2 * top) * (columns - 2 * left + 1)
