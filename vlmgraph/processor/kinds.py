"""The kinds of entries of `[processor]` that are built in."""

from __future__ import annotations

from ..components.base import Config
from .aspect_config import Aspect
from .canvas_config import Canvas
from .config import AnyResolution, Boxes, Chat, Image, Native, Padded, Patches, Text, Tiles
from .corner_config import Corner
from .crops_config import Crops
from .frames_config import Frames
from .grid_boxes_config import GridBoxes
from .locations_config import Locations
from .padded_tiles_config import PaddedTiles
from .split_config import Split

KINDS: dict[str, type[Config]] = {
    c.kind: c
    for c in (
        Image,
        Native,
        Frames,
        Patches,
        Padded,
        Tiles,
        Split,
        Canvas,
        AnyResolution,
        Aspect,
        Corner,
        PaddedTiles,
        Crops,
        Text,
        Chat,
        Boxes,
        GridBoxes,
        Locations,
    )
}
