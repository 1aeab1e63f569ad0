"""Findings as text: for people in rustc's manner, one line each, and for programs as JSON, SARIF or GitHub annotations."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from .codes import TITLES
from .core import Diagnostic, Label, Span
from .source import Sources, cells, safe, shown, width

FORMATS = ("human", "concise", "json", "sarif", "github")
MAX_WIDTH = 160
_COLORS = {"error": "1;31", "warning": "1;33", "secondary": "1;34", "bar": "1;34", "bold": "1", "help": "1;32"}


def render(diagnostics: Iterable[Diagnostic], format: str = "human", *, color: bool = False) -> str:
    """All findings in one of FORMATS. Raises ValueError for another format."""
    found = list(diagnostics)
    if format == "human":
        return human(found, color=color)
    if format == "concise":
        return "".join(f"{concise(d)}\n" for d in found)
    if format == "json":
        return dumped([as_json(d) for d in found])
    if format == "sarif":
        return dumped(sarif(found))
    if format == "github":
        return "".join(f"{github(d)}\n" for d in found)
    raise ValueError(f"format is one of {', '.join(FORMATS)}, not {format!r}")


# ---- people


def human(found: Sequence[Diagnostic], *, color: bool = False) -> str:
    """Code and message, the source lines with carets, notes and the way out; a count at the end."""
    if not found:
        return ""
    paint = _Paint(color)
    sources = Sources()
    blocks = [_Block(d, sources, paint).text() for d in found]
    return "\n".join([*blocks, summary(found, paint), ""])


def summary(found: Sequence[Diagnostic], paint: _Paint) -> str:
    counts = {kind: sum(d.severity == kind for d in found) for kind in ("error", "warning")}
    parts = [f"{n} {kind}{'s' if n > 1 else ''}" for kind, n in counts.items() if n]
    codes = sorted({d.code for d in found if d.code in TITLES})
    hint = f"; `vlmgraph explain {codes[0]}` tells more" if codes else ""
    return paint("error" if counts["error"] else "warning", ", ".join(parts)) + hint


class _Paint:
    def __init__(self, on: bool) -> None:
        self.on = on

    def __call__(self, style: str, text: str) -> str:
        return f"\x1b[{_COLORS[style]}m{text}\x1b[0m" if self.on and text else text


class _Block:
    """One finding. The margin is as wide as the largest line number."""

    def __init__(self, diagnostic: Diagnostic, sources: Sources, paint: _Paint) -> None:
        self.diagnostic, self.sources, self.paint = diagnostic, sources, paint
        labels = [label for label in (diagnostic.primary, *diagnostic.secondary) if label is not None]
        self.margin = max((len(str(label.span.line)) for label in labels), default=1)

    def text(self) -> str:
        d = self.diagnostic
        lines = [f"{self.paint(d.severity, f'{d.severity}[{d.code}]')}{self.paint('bold', f': {safe(d.message)}')}"]
        if d.primary is not None:
            own = d.primary.span.file
            lines += self.file(own, d.primary, [s for s in d.secondary if s.span.file == own], "-->")
            others = [s for s in d.secondary if s.span.file != own]
        else:
            others = list(d.secondary)
        for file in dict.fromkeys(label.span.file for label in others):
            lines += self.file(file, None, [s for s in others if s.span.file == file], ":::")
        lines += [self.remark("note", note) for note in d.notes]
        if d.fix:
            lines.append(self.remark("help", d.fix))
        return "\n".join(lines) + "\n"

    def remark(self, kind: str, text: str) -> str:
        return f"{' ' * self.margin} {self.paint('bar', '=')} {self.paint('help' if kind == 'help' else 'bold', kind)}: {safe(text)}"

    def file(self, file: str, primary: Label | None, secondary: list[Label], arrow: str) -> list[str]:
        """The head of a file and its labelled lines in order."""
        at = (primary or secondary[0]).span
        lines = [f"{' ' * self.margin}{self.paint('bar', arrow)} {shown(file)}:{at.line}:{at.column}"]
        labels = sorted([*([primary] if primary else []), *secondary], key=lambda label: label.span)
        rows = [(number, [x for x in labels if x.span.line == number]) for number in dict.fromkeys(x.span.line for x in labels)]
        body: list[str] = []
        previous = 0
        for number, here in rows:
            source = self.sources.line(file, number)
            if source is None:
                continue
            if previous and number > previous + 1:
                body.append(self.paint("bar", "..."))
            body += self.snippet(number, source, here, primary)
            previous = number
        bar = f"{' ' * self.margin} {self.paint('bar', '|')}"
        return [*lines, bar, *body, bar] if body else lines

    def snippet(self, number: int, source: str, labels: list[Label], primary: Label | None) -> list[str]:
        text, starts = cells(source)
        spots = [self.spot(label.span, starts) for label in labels]
        text, cut = shortened(text, min(start for start, _ in spots))
        lines = [f"{self.paint('bar', f'{number:>{self.margin}} |')} {text}".rstrip()]
        for label, (start, end) in zip(labels, spots):
            main = label is primary
            style = self.diagnostic.severity if main else "secondary"
            start, end = start - cut, min(end - cut, width(text) + 1)
            marks = ("^" if main else "-") * max(1, end - start)
            said = f"{marks} {safe(label.text)}".rstrip()
            lines.append(f"{' ' * self.margin} {self.paint('bar', '|')} {' ' * start}{self.paint(style, said)}")
        return lines

    @staticmethod
    def spot(span: Span, starts: list[int]) -> tuple[int, int]:
        """Columns of a span on its first line."""
        last = len(starts) - 1
        start = min(max(span.column - 1, 0), last)
        end = min(span.end_column - 1, last) if span.end_line == span.line else last
        return starts[start], max(starts[max(end, start)], starts[start] + 1)


def shortened(text: str, start: int) -> tuple[str, int]:
    """A window of a very long line around a column, and how many columns were cut from its front."""
    if len(text) <= MAX_WIDTH:
        return text, 0
    if not text.isascii():  # columns are not characters: cut the end only
        return text[: max(MAX_WIDTH, start + MAX_WIDTH // 2)], 0
    front = max(0, start - MAX_WIDTH // 3)
    window = text[front : front + MAX_WIDTH]
    if front:
        window = "..." + window[3:]
    return (window[:-3] + "..." if front + MAX_WIDTH < len(text) else window), front


# ---- one line


def concise(d: Diagnostic) -> str:
    place = ""
    if d.primary is not None:
        span = d.primary.span
        place = f"{shown(span.file)}:{span.line}:{span.column}: "
    return f"{place}{d.severity}[{d.code}]: {safe(d.message)}"


def github(d: Diagnostic) -> str:
    """A workflow command: GitHub shows it beside the line."""
    fields = []
    if d.primary is not None:
        span = d.primary.span
        fields = [f"file={_property(shown(span.file))}", f"line={span.line}", f"col={span.column}"]
        fields += [f"endLine={span.end_line}", f"endColumn={span.end_column}"]
    fields.append(f"title={_property(d.code)}")
    body = "\n".join([d.message, *(f"note: {note}" for note in d.notes), *([f"help: {d.fix}"] if d.fix else [])])
    return f"::{d.severity} {','.join(fields)}::{_data(body)}"


def _data(text: str) -> str:
    return "%0A".join(safe(line).replace("%", "%25") for line in text.replace("\r\n", "\n").split("\n"))


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")


# ---- programs


def dumped(value: Any) -> str:
    """JSON that shows letters as they are and nothing that a terminal would obey."""
    text = json.dumps(value, indent=2, ensure_ascii=False)
    lines = (
        line if line.isprintable() else "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in line) for line in text.split("\n")
    )
    return "\n".join(lines) + "\n"


def as_json(d: Diagnostic) -> dict[str, Any]:
    return {
        "code": d.code,
        "title": TITLES.get(d.code, ""),
        "severity": d.severity,
        "message": d.message,
        "primary": _label(d.primary),
        "secondary": [_label(label) for label in d.secondary],
        "notes": list(d.notes),
        "fix": d.fix,
    }


def _label(label: Label | None) -> dict[str, Any] | None:
    if label is None:
        return None
    span = label.span
    start, end = {"line": span.line, "column": span.column}, {"line": span.end_line, "column": span.end_column}
    return {"file": span.file, "start": start, "end": end, "text": label.text}


def sarif(found: Sequence[Diagnostic]) -> dict[str, Any]:
    """SARIF 2.1.0, for code scanning."""
    from .. import __version__

    codes = sorted({d.code for d in found})
    rules = [{"id": code, "shortDescription": {"text": TITLES.get(code, code)}} for code in codes]
    driver = {"name": "vlmgraph", "version": __version__, "rules": rules}
    return {
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{"tool": {"driver": driver}, "columnKind": "unicodeCodePoints", "results": [_result(d, codes) for d in found]}],
    }


def _result(d: Diagnostic, codes: list[str]) -> dict[str, Any]:
    text = " ".join([d.message, *(f"({note})" for note in d.notes), *([f"Help: {d.fix}"] if d.fix else [])])
    result: dict[str, Any] = {"ruleId": d.code, "ruleIndex": codes.index(d.code), "level": d.severity, "message": {"text": text}}
    if d.primary is not None:
        result["locations"] = [_location(d.primary)]
    if d.secondary:
        result["relatedLocations"] = [{"id": i, **_location(label)} for i, label in enumerate(d.secondary)]
    return result


def _location(label: Label) -> dict[str, Any]:
    from urllib.parse import quote

    span = label.span
    region = {"startLine": span.line, "startColumn": span.column, "endLine": span.end_line, "endColumn": span.end_column}
    place: dict[str, Any] = {"physicalLocation": {"artifactLocation": {"uri": quote(shown(span.file))}, "region": region}}
    if label.text:
        place["message"] = {"text": label.text}
    return place
