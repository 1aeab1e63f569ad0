"""Boxes out of text and text out of boxes, by one declared format."""

from __future__ import annotations

import re
from typing import NamedTuple

import numpy as np

from . import problems
from .config import Boxes
from .problems import problem
from .template import FIELD, fill


class Found(NamedTuple):
    """What a text boxed: `boxes` is float64 `[K, 4]` as x0, y0, x1, y1 in pixels."""

    phrase: str
    boxes: np.ndarray


class BoxCodec:
    def __init__(self, config: Boxes) -> None:
        self.config = config
        box = _pattern(config.box, r"\d{1,7}")
        several = f"{box}(?:{re.escape(config.join)}{box})*"
        opening = FIELD.split(config.phrase, maxsplit=1)[0]
        letter = f"(?!{re.escape(opening)})." if opening else "."  # a phrase without boxes does not run on into the next
        phrase = _pattern(config.phrase, f"(?:{letter}){{0,256}}?", capture=True)
        before, _, after = config.format.partition("{boxes}")
        optional = f"(?:{phrase})?" if phrase else ""
        self.one = re.compile(_pattern(config.box, r"\d{1,7}", capture=True))
        self.all = re.compile(f"{optional}{_pattern(before)}(?P<boxes>{several}){_pattern(after)}", re.DOTALL)

    def text(self, boxes: np.ndarray, size: tuple[int, int], phrase: str = "") -> str:
        """Text of `[K, 4]` pixel boxes in a picture of (width, height). Raises VG0714 for what is no box."""
        array = self.checked(boxes)
        sides = np.array([*size, *size], dtype=np.float64)
        # multiplied first: 3 / 10 * 1000 is 299.99… but 3 * 1000 / 10 is 300
        binned = np.clip(array * self.config.scale // sides, 0, self.config.scale - 1).astype(int)
        parts = [fill(self.config.box, dict(zip(("x0", "y0", "x1", "y1"), row))) for row in binned.tolist()]
        name = fill(self.config.phrase, {"phrase": phrase}) if phrase else ""
        return name + fill(self.config.format, {"boxes": self.config.join.join(parts)})

    @staticmethod
    def checked(boxes: np.ndarray) -> np.ndarray:
        """Boxes as float64 `[K, 4]`. Raises VG0714 for what is no box."""
        array = np.atleast_2d(np.asarray(boxes, dtype=np.float64))
        if array.ndim != 2 or array.shape[1] != 4 or not len(array) or not np.isfinite(array).all():
            raise problem(problems.BOXES, f"{np.shape(boxes)} values are not boxes", "give [K, 4] finite numbers: x0, y0, x1, y1")
        if (array[:, 2:] < array[:, :2]).any():
            raise problem(problems.BOXES, "a box ends before it starts", "give the upper left corner first: x0, y0, x1, y1")
        return array

    def parse(self, text: str, size: tuple[int, int]) -> list[Found]:
        """Every group of boxes in `text`, in pixels of a picture of (width, height); boxes outside of the scale are left out."""
        width, height = size
        found = []
        for match in self.all.finditer(text):
            rows = [[int(one[k]) for k in ("x0", "y0", "x1", "y1")] for one in self.one.finditer(match["boxes"])]
            kept = [r for r in rows if max(r) < self.config.scale and r[2] >= r[0] and r[3] >= r[1]]
            if kept:
                pixels = np.array(kept, dtype=np.float64) * [width, height, width, height] / self.config.scale
                found.append(Found(match.groupdict().get("phrase") or "", pixels))
        return found


def _pattern(template: str, field: str = "", capture: bool = False) -> str:
    """A regular expression for a template: literals escaped, every field matched by `field`."""
    parts, at = [], 0
    for match in FIELD.finditer(template):
        parts.append(re.escape(template[at : match.start()]))
        parts.append((f"(?P<{match[1]}>{field})" if capture else field) if match[1] else re.escape(match[0][0]))
        at = match.end()
    return "".join([*parts, re.escape(template[at:])])
