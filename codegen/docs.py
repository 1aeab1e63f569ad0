"""Docstrings of the source, less what they say of options that this model does not have."""

from __future__ import annotations

import re
from collections.abc import Iterable

WORD = re.compile(r"[A-Za-z_]\w*")


def told(text: str, gone: Iterable[str], keep_first: bool) -> str:
    """The text without sentences about names that are gone.

    A sentence (or a part of one up to a semicolon) is about a name that it begins with, that it has in backticks, or that cannot be
    an English word; with `keep_first` the first one stays, without it every mention counts.
    """
    names = set(gone)
    paragraphs = re.split(r"\n\s*\n", text.strip())
    made = []
    for index, paragraph in enumerate(paragraphs):
        joined = " ".join(line.strip() for line in paragraph.split("\n"))
        kept = []
        for number, sentence in enumerate(re.split(r"(?<=[^.]\.)\s+(?=\S)", joined)):
            if keep_first and index == number == 0:
                kept.append(sentence)
                continue
            first, *rest = sentence.split("; ")
            if not sentence or about(first, names, strict=not keep_first):
                continue
            left = "; ".join([first, *(p for p in rest if not about(p, names, strict=not keep_first))])
            if left.count("(") == left.count(")"):
                kept.append(left if left == sentence or left.endswith(".") else left + ".")
        if kept:
            made.append(" ".join(kept))
    return "\n\n".join(made)


def about(part: str, names: set[str], strict: bool) -> bool:
    """Whether a part of a sentence is about one of the names."""
    words = WORD.findall(part)
    if not words:
        return False
    if strict and any(w in names for w in words):
        return True
    if words[0] in names and not part[:1].isupper():
        return True
    ticked = {w for quoted in re.findall(r"`([^`]*)`", part) for w in WORD.findall(quoted)}
    return bool(ticked & names) or any("_" in w and w in names for w in words)
