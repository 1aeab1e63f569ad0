"""The one type every user-facing failure is made of."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Severity = Literal["error", "warning"]
MAX_TEXT = 1000


@dataclass(frozen=True, order=True)
class Span:
    """A place in a file. Lines and columns count from 1; the end column is exclusive."""

    file: str
    line: int
    column: int
    end_line: int
    end_column: int


@dataclass(frozen=True)
class Label:
    """A span and what is to be said about it."""

    span: Span
    text: str = ""


@dataclass(frozen=True)
class Diagnostic:
    """One finding: a stable code, what is wrong, where, the other party, and the way out.

    `primary` is None only when the fault has no place (an option on the command line, say).
    """

    code: str
    message: str
    primary: Label | None = None
    secondary: tuple[Label, ...] = ()
    notes: tuple[str, ...] = ()
    fix: str | None = None
    severity: Severity = "error"

    def __post_init__(self) -> None:
        # a message may quote a name of any length, and is for reading
        for name in ("message", "fix"):
            text = getattr(self, name)
            if text is not None and len(text) > MAX_TEXT:
                object.__setattr__(self, name, f"{text[: MAX_TEXT - 200]} ... {text[-200:]}")

    def __str__(self) -> str:
        where = ""
        if self.primary is not None:
            span = self.primary.span
            where = f"{span.file}:{span.line}:{span.column}: "
        return f"{where}{self.severity}[{self.code}]: {self.message}"


class DiagnosticError(Exception):
    """Raised where a caller must stop; carries every finding collected so far."""

    def __init__(self, *diagnostics: Diagnostic) -> None:
        self.diagnostics = diagnostics
        super().__init__("\n".join(str(d) for d in diagnostics))


@dataclass
class Collector:
    """Collects findings so that one run reports them all."""

    found: list[Diagnostic] = field(default_factory=list)

    def add(self, diagnostic: Diagnostic) -> None:
        if diagnostic not in self.found:
            self.found.append(diagnostic)

    @property
    def failed(self) -> bool:
        return any(d.severity == "error" for d in self.found)

    def stop(self) -> None:
        """Raise when an error has been collected."""
        if self.failed:
            raise DiagnosticError(*self.found)
