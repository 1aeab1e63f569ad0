"""Broken specs with their reading options in a comment: `# read with: size = wide`."""

from __future__ import annotations

import re
from pathlib import Path

import vlmgraph
from vlmgraph.diagnostics import Diagnostic

CASES = Path(__file__).parent / "cases"


def options(text: str) -> dict[str, str]:
    line = re.match(r"# read with: (.+)", text)
    return dict(re.findall(r"(\w+) = (\S+)", line[1])) if line else {}


def found_in(path: Path) -> list[Diagnostic]:
    text = path.read_text(encoding="utf-8")
    return vlmgraph.check(vlmgraph.read_spec(path, search=[CASES], **options(text)))


def as_file(fragment: str, path: Path) -> Path:
    """A fragment of a page as a spec of its own, over `small` unless it says what it is."""
    if "vlmgraph =" not in fragment:
        first, _, rest = fragment.partition("\n") if fragment.startswith("# read with") else ("", "", fragment)
        fragment = f'{first}\nvlmgraph = 1\nextends = "small"\n{rest}'.lstrip("\n")
    path.write_text(fragment, encoding="utf-8")
    return path
