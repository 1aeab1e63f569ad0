"""Two generated files under review: a change of the modules or of the generator shows in what people read."""

from __future__ import annotations

from pathlib import Path

import pytest

import vlmgraph
from vlmgraph import codegen

GOLDEN = Path(__file__).parent / "golden"


@pytest.mark.parametrize("name", ["llava-1.5", "qwen2-vl"])
def test_the_file_is_as_reviewed(name, update):
    text = codegen.source(vlmgraph.compile(vlmgraph.read_spec(name, size="tiny"), device="meta"))
    path = GOLDEN / f"{name}-tiny.py"
    if update:
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8"), f"{path.name} has changed; read it, then run this test with --update"
