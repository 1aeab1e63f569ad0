"""Regions as runs of location tokens: out of pixels, and back."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from . import problems
from .boxes import BoxCodec, Found
from .locations_config import Locations
from .problems import problem
from .template import fill


class Outlined(NamedTuple):
    """What a text outlined: `outlines` are float64 `[n, 2]` in pixels, one for each polygon."""

    phrase: str
    outlines: list[np.ndarray]


class LocationCodec(BoxCodec):
    config: Locations

    def __init__(self, config: Locations) -> None:
        self.config = config
        before, _, after = config.token.partition("{bin}")
        one = re.escape(before) + r"\d{1,7}" + re.escape(after)
        marks = "|".join(re.escape(mark) for mark in (config.separator, *config.group))
        self.bin = re.compile(re.escape(before) + r"(\d{1,7})" + re.escape(after))
        self.run = re.compile(rf"(?:{one}){{4,}}")
        self.eight = re.compile(rf"(?:{one}){{8}}")
        self.drawn = re.compile(rf"(?:{one}|{marks}){{4,}}")

    # ---- out of pixels

    def text(self, boxes: np.ndarray, size: tuple[int, int], phrase: str = "") -> str:
        """Text of `[K, 4]` pixel boxes in a picture of (width, height). Raises VG0714 for what is no box."""
        corners = np.atleast_2d(np.asarray(boxes, dtype=np.float64))
        if corners.ndim != 2 or corners.shape[1] != 4 or not len(corners) or (corners[:, 2:] < corners[:, :2]).any():
            raise problem(
                problems.BOXES, f"{np.shape(boxes)} values are no boxes", "give [K, 4] numbers: x0, y0, x1, y1, the upper left first"
            )
        rows = ([self.token(k) for k in self.bins(box.reshape(2, 2), size)] for box in corners)
        written = [fill(self.config.box, dict(zip(("x0", "y0", "x1", "y1"), row))) for row in rows]
        return self.named(phrase) + fill(self.config.format, {"boxes": self.config.join.join(written)})

    def outlined(self, polygons: Sequence[np.ndarray], size: tuple[int, int], phrase: str = "", group: bool = False) -> str:
        """Text of one object's polygons `[n, 2]`, between the ends of a group where there are several objects. Raises VG0714."""
        if not polygons:
            raise problem(problems.BOXES, "there is no polygon", "give a list of [n, 2] pixels")
        runs = ["".join(self.token(k) for k in self.bins(np.asarray(p, dtype=np.float64), size)) for p in polygons]
        start, end = self.config.group if group else ("", "")
        return self.named(phrase) + start + self.config.separator.join(runs) + end

    def bins(self, points: np.ndarray, size: tuple[int, int]) -> list[int]:
        """The bins of points `[n, 2]`, one after the other. Raises VG0714."""
        if points.ndim != 2 or points.shape[1] != 2 or not len(points) or not np.isfinite(points).all():
            raise problem(problems.BOXES, f"{np.shape(points)} values are no points", "give [n, 2] finite numbers: x, y")
        scale = self.config.scale
        return [int(k) for k in np.clip(points * scale // np.array(size, dtype=np.float64), 0, scale - 1).ravel()]

    def token(self, k: int) -> str:
        return fill(self.config.token, {"bin": k})

    def named(self, phrase: str) -> str:
        return fill(self.config.phrase, {"phrase": phrase}) if phrase else ""

    # ---- and back

    def parse(self, text: str, size: tuple[int, int]) -> list[Found]:
        """A phrase and the boxes behind it, four tokens each; what is left over is none. Without a phrase it is an empty text."""
        found = []
        for phrase, run in self.runs(self.run, text):
            points = self.points(run, size)
            boxes = points[: len(points) // 2 * 2].reshape(-1, 4)
            kept = boxes[np.isfinite(boxes).all(1)]
            if len(kept):
                found.append(Found(phrase, kept))
        return found

    def quadrilaterals(self, text: str, size: tuple[int, int]) -> list[Outlined]:
        """A phrase (a line of writing) and the quadrilateral `[4, 2]` behind it, from the upper left, clockwise."""
        found = [(phrase, self.points(run, size)) for phrase, run in self.runs(self.eight, text)]
        return [Outlined(phrase, [points]) for phrase, points in found if phrase and np.isfinite(points).all()]

    def polygons(self, text: str, size: tuple[int, int]) -> list[Outlined]:
        """A phrase and the polygons of each object behind it; an odd token at the end of a run is left out."""
        found = []
        start, end = self.config.group
        for phrase, whole in self.runs(self.drawn, text):
            objects = [part.partition(start)[2] for part in whole.split(end)[:-1] if start in part]
            for run in objects or [whole]:
                outlines = [self.points(part, size) for part in run.split(self.config.separator)]
                kept = [points for points in outlines if len(points) and np.isfinite(points).all()]
                if kept:
                    found.append(Outlined(phrase, kept))
        return found

    def runs(self, pattern: re.Pattern[str], text: str) -> Iterator[tuple[str, str]]:
        """Every run of tokens with the words in front of it, back to the run or tag before them."""
        for end in self.config.ends:
            text = text.replace(end, "")
        at = 0
        for match in pattern.finditer(text):
            words = text[at : match.start()]
            tag = words.rfind("<")
            if tag >= 0:
                closed = words.find(">", tag)
                words = words[(closed if closed >= 0 else tag) + 1 :]
            yield words.strip(), match[0]
            at = match.end()

    def points(self, run: str, size: tuple[int, int]) -> np.ndarray:
        """A run of tokens as points `[n, 2]`, the middles of their bins; a bin that there is not makes no number (nan)."""
        values = np.array([float(k) if int(k) < self.config.scale else np.nan for k in self.bin.findall(run)])
        return (values[: len(values) // 2 * 2].reshape(-1, 2) + 0.5) * np.array(size, dtype=np.float64) / self.config.scale
