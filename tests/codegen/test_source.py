"""The generated file computes what the compiled model computes, to the bit, where vlmgraph does not exist."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

import vlmgraph


def helper(name: str):
    spec = importlib.util.spec_from_file_location(f"codegen_{name}", Path(__file__).parent / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


common, inputs = helper("conftest"), helper("inputs")


@pytest.fixture(scope="module")
def results(tmp_path_factory, plugin):
    root = tmp_path_factory.mktemp("generated")
    folders = []
    for name, cases in inputs.CASES.items():
        common.recorded(vlmgraph.read_spec(name, size="tiny"), root / name, cases())
        folders.append(root / name)
    return dict(zip(inputs.CASES, common.isolated(folders), strict=True))


@pytest.mark.parametrize("name", inputs.CASES)
def test_keys_and_outputs_are_the_same(name, results):
    assert results[name] == []
