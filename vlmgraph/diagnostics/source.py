"""Source lines for people: loaded once, made safe for terminals, measured in columns."""

from __future__ import annotations

import contextlib
import unicodedata
from pathlib import Path

TAB = 4


class Sources:
    """Lines of files by name. A file that cannot be read has none: then only its place is shown."""

    def __init__(self) -> None:
        self._lines: dict[str, list[str]] = {}

    def line(self, file: str, number: int) -> str | None:
        if file not in self._lines:
            try:
                text = Path(file).read_bytes().decode("utf-8", errors="replace").removeprefix("\ufeff")
            except (OSError, ValueError):
                text = ""
            self._lines[file] = text.split("\n")
        lines = self._lines[file]
        return lines[number - 1].removesuffix("\r") if 0 < number <= len(lines) and any(lines) else None


def shown(file: str) -> str:
    """A path relative to the working directory where that is shorter, on one line."""
    with contextlib.suppress(ValueError, OSError):
        file = str(Path(file).relative_to(Path.cwd()))
    return safe(file)


def safe(text: str) -> str:
    """Text without control and direction characters, which could forge what a terminal shows."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else _escaped(c) for c in text)


def _escaped(char: str) -> str:
    code = ord(char)
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}" if code < 65_536 else f"\\U{code:08x}"


def cells(line: str) -> tuple[str, list[int]]:
    """The line as printed, and the column in which each of its characters starts (one more entry for the end)."""
    text, starts, at = [], [], 0
    for char in line:
        starts.append(at)
        piece = " " * (TAB - at % TAB) if char == "\t" else safe(char)
        text.append(piece)
        at += width(piece)
    return "".join(text), [*starts, at]


def width(text: str) -> int:
    """Terminal columns: East Asian wide characters take two, combining ones none."""
    if text.isascii():
        return len(text)
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)
