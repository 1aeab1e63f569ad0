"""`vlmgraph run` as a function, and photos as files."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import PIL.Image
import pytest

from vlmgraph.cli import main


@dataclass(frozen=True)
class Said:
    code: int
    out: str
    err: str

    @property
    def results(self) -> list[dict[str, Any]]:
        assert self.code == 0, self.err
        return json.loads(self.out)["results"]


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Callable[..., Said]:
    def called(*arguments: object) -> Said:
        capfd.readouterr()
        code = main(["run", *map(str, arguments)])
        return Said(code, *capfd.readouterr())

    return called


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two real photographs and a part of one, made small."""
    found = find_spec("sklearn")
    if found is None or not found.submodule_search_locations:
        pytest.skip("scikit-learn, which ships the photos, is not installed")
    source, folder = Path(found.submodule_search_locations[0], "datasets/images"), tmp_path_factory.mktemp("photos")
    china, flower = (PIL.Image.open(source / f"{name}.jpg").resize((200, 134)) for name in ("china", "flower"))
    for name, image in (("china", china), ("flower", flower), ("part", china.crop((0, 0, 90, 130)))):
        image.save(folder / f"{name}.png")
    return [folder / f"{name}.png" for name in ("china", "flower", "part")]
