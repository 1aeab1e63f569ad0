"""Pictures numbered in their text, and placeholders for those that have none (MANTIS, arXiv 2405.01483, section 3)."""

from __future__ import annotations

import re
from typing import NamedTuple

from .chat import Written
from .config import Place
from .template import fill


class Edit(NamedTuple):
    """A stretch of a text that becomes another one."""

    start: int
    end: int
    text: str


def tagged(written: Written, token: str, place: Place, pictures: int) -> Written:
    """The text with a placeholder for each of its pictures where `place.complete` says so, each written as `place.tag`."""
    spans = [match.span() for match in re.finditer(re.escape(token), written.text)]
    if place.complete is not None:
        mark = next((mark for mark in place.complete if mark in written.text), None)
        at = 0 if mark is None else written.text.index(mark) + len(mark)
        spans = sorted(spans + [(at, at)] * (pictures - len(spans)))
    edits = []
    for number, (start, end) in enumerate(spans, 1):
        kept = number <= pictures or place.complete is None
        shown = token if place.tag is None else fill(place.tag, {"number": number, "image": token})
        edits.append(Edit(start, end, shown if kept else ""))
    return edited(written, edits)


def edited(written: Written, edits: list[Edit]) -> Written:
    """The text with its edits, in order, made; answers are still the same words."""
    text, at = "", 0
    for edit in edits:
        text += written.text[at : edit.start] + edit.text
        at = edit.end

    def moved(place: int) -> int:
        return place + sum(len(edit.text) - (edit.end - edit.start) for edit in edits if edit.end <= place)

    return Written(text + written.text[at:], tuple((moved(start), moved(end)) for start, end in written.answers))
