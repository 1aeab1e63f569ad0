"""The page of measurements is written by the benchmarks, from their results."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks import common, generate
from benchmarks.common import Table, page, process, save
from vlmgraph.lower.generate import recorded
from vlmgraph.nn.embedding import TextEmbedding


def test_the_page_is_made_of_the_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(common, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(common, "__file__", str(tmp_path / "common.py"))
    goals = {"fast": True, "small": False}
    table = Table("one", "First", ["what", "n"], [["`a`", "1.0"]], {"a": {"seconds": 1.0}}, goals, "A note.", 3)
    save(table, (0.5, 9.0), "python -m benchmarks one")
    page(["one", "two"])
    text = (tmp_path / "README.md").read_text()
    assert "## First\n\n| what | n |\n| --- | ---: |\n| `a` | 1.0 |\n\nMedians of 3 interleaved runs. A note.\n" in text
    assert "- met: fast\n- **not met**: small\n" in text and "load average 0.5 and 9.0" in text and "torch" in text
    assert "`python -m benchmarks one`; Python" in text


def test_a_process_that_fails_is_no_measurement() -> None:
    done = process([common.PYTHON, "-c", 'print("x"); print(\'{"n": 3}\')'])
    assert done["n"] == 3 and done["seconds"] > 0 and done["peak_mb"] > 1 and done["cpu_seconds"] > 0
    with pytest.raises(RuntimeError, match="boom"):
        process([common.PYTHON, "-c", "raise SystemExit('boom')"])


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
@pytest.mark.parametrize("name", ["generate", "encode"])
def test_a_device_that_is_not_there_is_said_to_be_missing(name: str) -> None:
    with pytest.raises(RuntimeError, match="no CUDA device here that torch"):
        process([common.PYTHON, "-m", "benchmarks", name, "--device", "cuda"])


@pytest.mark.slow
def test_what_is_measured_on_a_device_runs_at_a_small_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All variants, here; steps are replayed by being run again, and nothing looks at ids, as on a device."""
    monkeypatch.setitem(recorded.RECORDERS, "cpu", lambda step: step)
    monkeypatch.setattr(TextEmbedding, "check", lambda self, ids: None)
    torch.save(generate.checkpoint("test", str(tmp_path), "bfloat16")[1], tmp_path / "prompt.pt")
    found = generate.run("test", str(tmp_path), "bfloat16", "cpu", 1)
    assert set(found["rows"]) == set(generate.NAMES) and max(found["parity"]) < 0.05
    assert all(row["tokens_per_second"] > 0 and row["share_of_bandwidth"] > 0 for row in found["rows"].values())
    assert found["recorded"][0]["replays"] > 0
    for row in found["rows"].values():
        row |= {"compile_seconds": 1.0, "peak_mb": 9.0, "device_mb": 2.0}
    monkeypatch.setattr(generate, "measured", lambda *given: found | {"device": "GPU X, CUDA 13"})
    table = generate.measure("test", 1, "cuda")
    assert "on GPU X, CUDA 13" in table.note and table.goals["every step of vlmgraph compiled is the replay of one CUDA graph"]
    found["recorded"][0]["step by step"] = "a reason"
    assert not generate.measure("test", 1, "cuda").goals["every step of vlmgraph compiled is the replay of one CUDA graph"]
