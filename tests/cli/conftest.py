"""The command as a function: its exit code and what it printed."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from vlmgraph.cli import main

BROKEN = Path(__file__).parents[1] / "diagnostics/cases/VG0204-unknown-field.toml"


@dataclass(frozen=True)
class Said:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Command = Callable[..., Said]


@pytest.fixture
def vlmgraph(capsys: pytest.CaptureFixture[str]) -> Command:
    def run(*arguments: object) -> Said:
        capsys.readouterr()
        code = main([str(a) for a in arguments])
        return Said(code, *capsys.readouterr())

    return run


@pytest.fixture
def broken() -> Path:
    """A spec with one finding."""
    return BROKEN
