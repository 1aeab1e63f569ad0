"""`--update` writes the expected texts of golden tests anew instead of comparing them."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:  # each worker has a core; their threads would only wait for each other
    os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault(
    "VLMGRAPH_VERIFY", "1"
)  # every pipeline of the tests, of their subprocesses too, looks at the graph between its passes


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update", action="store_true", help="write expected texts of golden tests anew")
    parser.addoption("--status", action="store_true", help="note in docs/status.json what the tests of this run prove of each spec")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--status"):
        from tests.status import DOCS, Recorder

        config.pluginmanager.register(Recorder(DOCS / "status.json"))


@pytest.fixture
def update(request: pytest.FixtureRequest) -> bool:
    return bool(request.config.getoption("--update"))


Install = Callable[..., Path]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Install a plugin made for the test as pip leaves one: its files and a dist-info with entry points, in a folder on the path."""
    from vlmgraph import plugins

    def forget() -> None:
        importlib.invalidate_caches()
        for name in ("registry", "installed"):
            getattr(plugins, name).cache_clear()

    before = set(sys.modules)
    made: list[str] = []

    def install(name: str, points: Mapping[str, Mapping[str, str]], files: Mapping[str, str] | None = None) -> Path:
        folder = tmp_path / f"site-{name}"
        for path, text in (files or {}).items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(text, encoding="utf-8")
            made.append(path.partition("/")[0].removesuffix(".py"))
        info = folder / f"{name.replace('-', '_')}-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n", encoding="utf-8")
        lines = [line for group, own in points.items() for line in (f"[{group}]", *(f"{k} = {v}" for k, v in own.items()))]
        (info / "entry_points.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
        monkeypatch.syspath_prepend(str(folder))
        forget()
        return folder

    yield install
    monkeypatch.undo()
    for name in set(sys.modules) - before:
        if name.partition(".")[0] in made:
            del sys.modules[name]
    forget()
