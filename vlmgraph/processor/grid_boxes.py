"""Boxes as pairs of location tokens, text with such boxes, and both back."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from . import problems
from .boxes import BoxCodec, Found
from .grid_boxes_config import GridBoxes
from .problems import problem
from .template import FIELD, fill

TAG = re.compile(r"<.*?>")


class Entity(NamedTuple):
    """A phrase of a caption, where it stands there, and its boxes, float64 `[K, 4]` in pixels."""

    phrase: str
    start: int
    end: int
    boxes: np.ndarray


class GridBoxCodec(BoxCodec):
    config: GridBoxes

    def __init__(self, config: GridBoxes) -> None:
        self.config = config
        one = _literal(config.token, {"bin": r"\d+"})
        pair = _literal(config.box, {"first": one, "last": one})
        before, _, after = config.format.partition("{boxes}")
        several = f"{pair}(?:{re.escape(config.join)}{pair})*"
        self.phrase = re.compile(_literal(config.phrase, {"phrase": r"(?P<phrase>[^<]+)"}))
        self.one = re.compile(
            _literal(config.box, {name: _literal(config.token, {"bin": rf"(?P<{name}>\d+)"}) for name in ("first", "last")})
        )
        self.all = re.compile(f"(?:{self.phrase.pattern})?{re.escape(before)}(?P<boxes>{several}){re.escape(after)}")

    def text(self, boxes: np.ndarray, size: tuple[int, int], phrase: str = "") -> str:
        """Text of `[K, 4]` pixel boxes in a picture of (width, height). Raises VG0714 for what is no box."""
        count = self.config.scale
        array = self.checked(boxes) * count / np.array([*size, *size], dtype=np.float64)
        first = np.clip(np.floor(array[:, :2]), 0, count - 1)
        last = np.clip(np.ceil(array[:, 2:] - 1), first, count - 1)  # a side on a line of the grid belongs to the bin in front of it
        bins = np.stack([first[:, 1] * count + first[:, 0], last[:, 1] * count + last[:, 0]], 1).astype(int)
        parts = [fill(self.config.box, dict(zip(("first", "last"), map(self.bin, row)))) for row in bins.tolist()]
        name = fill(self.config.phrase, {"phrase": phrase}) if phrase else ""
        return name + fill(self.config.format, {"boxes": self.config.join.join(parts)})

    def bin(self, k: int) -> str:
        return fill(self.config.token, {"bin": k})

    def marked(self, text: str, groups: Sequence[np.ndarray | None], size: tuple[int, int]) -> str:
        """A text with the boxes of each of its marked phrases behind it; None or an empty list for a phrase without any.

        Raises VG0714 where there are not as many groups as phrases.
        """
        found = list(self.phrase.finditer(text))
        if len(found) != len(groups):
            said = f"the text has {len(found)} phrases, but there are boxes for {len(groups)}"
            raise problem(
                problems.BOXES, said, f"mark every phrase, {fill(self.config.phrase, {'phrase': '...'})}, and give None for one without"
            )
        made, at = [], 0
        for match, boxes in zip(found, groups):
            made += [text[at : match.end()], "" if boxes is None or not len(boxes) else self.text(boxes, size)]
            at = match.end()
        return "".join([*made, text[at:]])

    def parse(self, text: str, size: tuple[int, int]) -> list[Found]:
        """Every group of boxes in `text`, in pixels of a picture of (width, height); what is no box of the grid is left out."""
        return [Found(entity.phrase, entity.boxes) for entity in self.entities(text, size)[1]]

    def entities(self, text: str, size: tuple[int, int] = (1, 1)) -> tuple[str, list[Entity]]:
        """The caption without its tags, and what is boxed in it, with the places in the caption. Without a phrase it is an empty text."""
        caption = TAG.sub("", text)
        lead = len(caption) - len(caption.lstrip())
        found = []
        for match in self.all.finditer(text):
            boxes = [
                box for one in self.one.finditer(match["boxes"]) if (box := self.area(int(one["first"]), int(one["last"]))) is not None
            ]
            if not boxes:
                continue
            pixels = np.array(boxes) * [*size, *size]
            phrase = match["phrase"] or ""
            start, end = match.span("phrase") if phrase else (match.start(), match.start())
            start, end = (len(TAG.sub("", text[:place])) - lead for place in (start, end))
            blank = len(phrase) - len(phrase.lstrip())
            found.append(Entity(phrase.strip(), start + blank, end - (len(phrase) - len(phrase.rstrip())), pixels))
        return caption.strip(), found

    def area(self, first: int, last: int) -> tuple[float, float, float, float] | None:
        """Two bins as x0, y0, x1, y1 of a picture with sides of length one; None where they are no box of the grid."""
        count = self.config.scale
        (y0, x0), (y1, x1) = divmod(first, count), divmod(last, count)
        if max(y0, y1) >= count or x1 < x0 or y1 < y0:
            return None
        low, high = (0.0, 1.0) if x0 == x1 or y0 == y1 else (0.5, 0.5)
        return (x0 + low) / count, (y0 + low) / count, (x1 + high) / count, (y1 + high) / count


def _literal(template: str, patterns: dict[str, str]) -> str:
    """A regular expression for a template: literals escaped, each field by its pattern."""
    parts, at = [], 0
    for match in FIELD.finditer(template):
        parts += [re.escape(template[at : match.start()]), patterns[match[1]] if match[1] else re.escape(match[0][0])]
        at = match.end()
    return "".join([*parts, re.escape(template[at:])])
