"""How much of everything an engine has to take: smallest, usual and largest amounts, from which all sizes of its inputs follow."""

from __future__ import annotations

from dataclasses import dataclass, fields

from ...diagnostics import Diagnostic, DiagnosticError
from ...diagnostics import codes as C

Range = tuple[int, int, int]
MIN, OPT, MAX = range(3)


@dataclass(frozen=True)
class Limits:
    """Each a triple: smallest, the one to tune for, largest.

    `text` is what a sample has beside the tokens of its pictures, the answer included; `count` stands for dims that neither pictures nor
    text decide, such as boxes of a sample.
    """

    batch: Range = (1, 1, 4)
    pictures: Range = (1, 1, 1)
    """Of one sample."""
    text: Range = (1, 64, 1024)
    count: Range = (1, 4, 16)
    picture: tuple[tuple[int, int], tuple[int, int], tuple[int, int]] = ((56, 56), (640, 480), (1024, 1024))
    """Width and height before the processor; only where its output depends on them."""

    def __post_init__(self) -> None:
        for f in fields(self):
            value = getattr(self, f.name)
            rows = list(zip(*value)) if f.name == "picture" else [value]
            if any(len(r) != 3 or min(r) < 1 or r[MIN] > r[MAX] for r in rows):
                raise wrong(f.name, value, "the smallest must be 1 or more and not over the largest")
            if f.name != "picture" and not value[MIN] <= value[OPT] <= value[MAX]:
                raise wrong(f.name, value, "the middle one must lie between the others")

    def json(self) -> dict[str, object]:
        return {f.name: [list(x) if isinstance(x, tuple) else x for x in getattr(self, f.name)] for f in fields(self)}


def wrong(name: str, value: object, why: str) -> DiagnosticError:
    return DiagnosticError(Diagnostic(C.BAD_OPTION, f"limit {name!r} is {value}: {why}", fix="for example " + EXAMPLES[name]))


EXAMPLES = {
    "batch": "batch=1,1,8",
    "pictures": "pictures=1,1,4",
    "text": "text=1,64,2048",
    "count": "count=1,4,16",
    "picture": "picture=56x56,640x480,1024x1024",
}


def parse_limits(texts: list[str]) -> Limits:
    """Read `batch=1,1,8`, `picture=56x56,640x480,1024x1024`; one number stands for all three. Raises DiagnosticError."""
    given: dict[str, object] = {}
    for text in texts:
        name, _, value = text.partition("=")
        if name not in EXAMPLES:
            fix = f"limits: {', '.join(EXAMPLES)}"
            raise DiagnosticError(Diagnostic(C.BAD_OPTION, f"there is no limit {name!r}", fix=fix))
        parts = value.split(",")
        parts = parts * 3 if len(parts) == 1 else parts
        try:
            if name == "picture":
                sizes = [tuple(int(n) for n in part.split("x")) for part in parts]
                if any(len(s) != 2 for s in sizes):
                    raise ValueError
                given[name] = tuple(sizes)
            else:
                given[name] = tuple(int(part) for part in parts)
        except ValueError:
            raise wrong(name, value, "it is no list of whole numbers") from None
    return Limits(**given)  # type: ignore[arg-type]
