"""Pages of `explain/`: one for each code, and their examples do what the page says."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path

import pytest

import vlmgraph.diagnostics
from vlmgraph.diagnostics import codes

PAGES = Path(vlmgraph.diagnostics.__file__).parent / "explain"
EXAMPLE = re.compile(r"(Wrong|Right):\n\n```toml\n(.*?)```", re.DOTALL)
SPEC = importlib.util.spec_from_file_location("diagnostics_reading", Path(__file__).parent / "reading.py")
assert SPEC and SPEC.loader
reading = sys.modules.setdefault(SPEC.name, importlib.util.module_from_spec(SPEC))
SPEC.loader.exec_module(reading)


def text_of(code):
    return (PAGES / f"{code}.md").read_text(encoding="utf-8")


def test_every_code_has_a_page_and_every_page_a_code():
    assert {path.stem for path in PAGES.glob("*.md")} == set(codes.TITLES)


def test_codes_are_unique_and_all_have_titles():
    named = {name: value for name, value in vars(codes).items() if isinstance(value, str) and re.fullmatch(r"VG\d{4}", value)}
    assert len(set(named.values())) == len(named)
    assert set(named.values()) == set(codes.TITLES)


@pytest.mark.parametrize("code", sorted(codes.TITLES))
def test_a_page_says_what_it_is_about_and_shows_it(code):
    text = text_of(code)
    assert text.startswith(f"# {code}: {codes.TITLES[code]}\n")
    assert "```" in text
    assert len(text.splitlines()) >= 6


@pytest.mark.parametrize("code", [c for c in sorted(codes.TITLES) if "Wrong:" in text_of(c)])
def test_the_examples_of_a_page(code, tmp_path):
    examples = dict(EXAMPLE.findall(text_of(code)))
    assert set(examples) == {"Wrong", "Right"}
    if code == codes.EXTENDS_CYCLE:
        name = f"{code}-extends-itself"
    else:
        name = "wrong"
    wrong = reading.found_in(reading.as_file(examples["Wrong"], tmp_path / f"{name}.toml"))
    assert code in {d.code for d in wrong}
    assert reading.found_in(reading.as_file(examples["Right"], tmp_path / "right.toml")) == []
