"""torch's library of ONNX functions is read once, and what one export adds to it is not in the next."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from vlmgraph.export.onnx import library
from vlmgraph.export.onnx.library import read_once

registration: Any = pytest.importorskip("torch.onnx._internal.exporter._registration")


class Registry:
    """In the place of torch's, counting what it reads."""

    read: list[int] = []

    def __init__(self) -> None:
        self.functions: dict[str, list[str]] = {}
        self.opset = 0

    @classmethod
    def from_torchlib(cls, opset_version: int) -> Registry:
        cls.read.append(opset_version)
        made = cls()
        made.opset, made.functions = opset_version, {"aten::add": ["Add"]}
        return made


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Registry]]:
    monkeypatch.setattr(registration, "ONNXRegistry", Registry)
    monkeypatch.setattr(library, "KNOWN", {})
    Registry.read.clear()
    yield Registry


def test_once_an_opset(registry: type[Registry]) -> None:
    for opset in (18, 20, 18, 18):
        with read_once():
            made = registration.ONNXRegistry.from_torchlib(opset_version=opset)
        assert (made.opset, made.functions) == (opset, {"aten::add": ["Add"]})
        made.functions["aten::add"].insert(0, "mine")
        made.functions["mine"] = []
    assert registry.read == [18, 20]
    registration.ONNXRegistry.from_torchlib(opset_version=20)
    assert registry.read == [18, 20, 20]  # as torch left it


def test_it_is_what_torch_reads_for_an_export(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the exports would go on as torch does, slower."""
    kind = registration.ONNXRegistry
    monkeypatch.setattr(library, "KNOWN", {})
    with read_once():
        made = kind().from_torchlib(opset_version=18)  # as `torch.onnx.export` calls it
    assert made.functions and len(library.KNOWN) == 1
