"""`make demo`: what it prints, and that it fails when a step does."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import vlmgraph

ROOT = Path(__file__).parents[2]


@pytest.fixture
def demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("demo", ROOT / "scripts/demo.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.chdir(tmp_path)
    return module


def test_the_whole_way(demo: ModuleType, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert demo.main([str(ROOT / "specs/clip.toml")]) == 0
    said = capfd.readouterr()
    commands = [line for line in said.out.splitlines() if line.startswith("$ ")]
    assert [c.split()[2] for c in commands if c.startswith("$ vlmgraph")] == ["check", "compile", "compile", "run", "report"]
    assert "151,277,313" in said.out  # the published count
    assert "all equal to those of the model that was saved" in said.out
    assert "warning" not in (said.out + said.err).lower()
    for line in said.out.partition("build/demo/clip holds\n")[2].splitlines()[:-2]:
        assert (tmp_path / "build/demo/clip" / line.split()[0]).is_file()
    assert (tmp_path / "build/demo/clip-tiny/model.safetensors").is_file()


def test_a_step_that_fails_fails_the_demo(demo: ModuleType, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert demo.main(["nothing-of-that-name"]) == 1
    assert "the demo failed: `vlmgraph check nothing-of-that-name` ended with 1" in capfd.readouterr().err
    monkeypatch.setattr(demo, "vlmgraph", lambda *arguments: None)
    monkeypatch.setattr(vlmgraph, "load", lambda folder: vlmgraph.compile(vlmgraph.read_spec("clip", size="tiny"), seed=1))
    assert demo.main(["clip"]) == 1
    assert "does not hold the weights that were saved" in capfd.readouterr().err


def test_a_model_that_does_not_look_fails_the_demo(demo: ModuleType, monkeypatch: pytest.MonkeyPatch, photos: list[Path]) -> None:
    model: Any = vlmgraph.compile(vlmgraph.read_spec("clip", size="tiny"))
    monkeypatch.setattr(vlmgraph, "load", lambda folder: model)
    demo.seen("built", *photos[:2])
    with pytest.raises(demo.Failed, match="depends on the photo"):
        demo.seen("built", photos[0], photos[0])
