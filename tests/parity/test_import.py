"""`vlmgraph import` of each family: the short spec checks without a finding and is the same model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from vlmgraph import api
from vlmgraph.weights.import_config import families, import_config
from vlmgraph.weights.tidy import meaning, tidied

pytest.importorskip("transformers", minversion="5.0", reason="the reference implementations are those of transformers 5")

from tests.parity.models import CASES


def one_of_each() -> list[str]:
    """The first case of every family."""
    chosen: dict[str, str] = {}
    for name in CASES:
        kind = max((family for family in families() if name.startswith(family)), key=len, default=name)
        chosen.setdefault(kind, name)
    return list(chosen.values())


def said(spec: Any) -> dict[str, Any]:
    """All but the processor: without a tokenizer's file there are no ids for its prompts."""
    found = meaning(spec)
    assert found is not None
    return {k: v for k, v in found.items() if k != "processor"}


@pytest.mark.parametrize("name", one_of_each())
def test_short_and_the_same(name: str, tmp_path: Path) -> None:
    CASES[name]()[0].config.save_pretrained(tmp_path)
    long = import_config(tmp_path / "config.json").spec
    short = tidied(long)
    assert api.check(short) == []
    assert said(short) == said(long)
    assert len(str(short)) < len(str(long))
