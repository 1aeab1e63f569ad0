"""Broken specs and what people read about them: `cases/CODE-slug.toml` beside `cases/CODE-slug.txt`."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

from vlmgraph.diagnostics.render import render

HERE = Path(__file__).parent
CASES = sorted(path.stem for path in (HERE / "cases").glob("VG*.toml"))


def load(name: str):
    """A helper module beside this file: tests are imported without a package."""
    spec = importlib.util.spec_from_file_location(f"diagnostics_{name}", HERE / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


reading = load("reading")


@pytest.mark.parametrize("name", CASES)
def test_what_people_read(name, monkeypatch, update):
    monkeypatch.chdir(reading.CASES)
    found = reading.found_in(Path(f"{name}.toml"))
    assert {d.code for d in found} == {name[:6]}
    text = render(found)
    golden = reading.CASES / f"{name}.txt"
    if update:
        golden.write_text(text, encoding="utf-8")
    assert text == golden.read_text(encoding="utf-8")


def test_the_spec_that_they_break_is_clean():
    assert reading.found_in(reading.CASES / "small.toml") == []


def test_there_are_enough_of_them_and_none_is_left_over():
    assert len({name[:6] for name in CASES}) >= 40
    assert {path.stem for path in reading.CASES.glob("*.txt")} == set(CASES)
