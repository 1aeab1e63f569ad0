"""The page of measurements is written by the benchmarks, from their results."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import common
from benchmarks.common import Table, page, process, save


def test_the_page_is_made_of_the_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(common, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(common, "__file__", str(tmp_path / "common.py"))
    goals = {"fast": True, "small": False}
    save(Table("one", "First", ["what", "n"], [["`a`", "1.0"]], {"a": {"seconds": 1.0}}, goals, "A note.", 3), (0.5, 9.0))
    page(["one", "two"])
    text = (tmp_path / "README.md").read_text()
    assert "## First\n\n| what | n |\n| --- | ---: |\n| `a` | 1.0 |\n\nMedians of 3 interleaved runs. A note.\n" in text
    assert "- met: fast\n- **not met**: small\n" in text and "load average 0.5 and 9.0" in text and "torch" in text


def test_a_process_that_fails_is_no_measurement() -> None:
    done = process([common.PYTHON, "-c", 'print("x"); print(\'{"n": 3}\')'])
    assert done["n"] == 3 and done["seconds"] > 0 and done["peak_mb"] > 1 and done["cpu_seconds"] > 0
    with pytest.raises(RuntimeError, match="boom"):
        process([common.PYTHON, "-c", "raise SystemExit('boom')"])
