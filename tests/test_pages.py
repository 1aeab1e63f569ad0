"""Huge pages: what is asked for, and that it is given."""

from __future__ import annotations

import ctypes
import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from vlmgraph import pages
from vlmgraph.export.onnx.run import Exported

given = pytest.mark.skipif(not pages.size(), reason="this kernel gives no huge pages")


def test_what_is_new_in_the_memory() -> None:
    before = [(10, 20), (30, 40)]
    assert pages.beyond([(10, 20), (30, 40)], before) == []
    assert pages.beyond([(5, 45)], before) == [(5, 10), (20, 30), (40, 45)]
    assert pages.beyond([(10, 15), (50, 60)], before) == [(50, 60)]
    assert pages.beyond([(20, 30)], before) == [(20, 30)]


def test_nothing_is_done_where_it_is_turned_off_or_unknown(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(pages, "madvise", lambda: pytest.fail("asked the kernel"))
    monkeypatch.setenv("VLMGRAPH_HUGE_PAGES", "0")
    pages.collapse((0, 1 << 30))
    with pages.collapsing():
        pass
    monkeypatch.delenv("VLMGRAPH_HUGE_PAGES")
    monkeypatch.setattr(pages, "SETTINGS", tmp_path / "of another kernel")
    pages.supported.cache_clear()
    try:
        assert pages.size() == 0
        pages.ask((0, 1 << 30))
    finally:
        pages.supported.cache_clear()


def in_huge() -> int:
    """KB of this process."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("AnonHugePages"))


@pytest.fixture
def free() -> None:
    """A kernel whose memory is in pieces may have none to give."""
    before = in_huge()
    held = pages.fresh(64 << 20)
    held.write(b"x" * (64 << 20))
    first = ctypes.addressof(ctypes.c_char.from_buffer(held))
    pages.collapse((first, first + (64 << 20)))
    if in_huge() - before < 60 << 10:
        pytest.skip("the kernel has no huge pages left")


@given
@pytest.mark.usefixtures("free")
def test_memory_that_is_allocated_meanwhile_is_collapsed() -> None:
    before = in_huge()
    with pages.collapsing():
        held = pages.fresh(16 << 20)
        held.write(b"x" * (16 << 20))
        assert in_huge() - before < 2 << 10
    assert in_huge() - before >= 12 << 10
    assert held[5 << 20] == ord("x")


@given
def test_the_ranges_of_a_process() -> None:
    mapped, heap = pages.anonymous()
    held = pages.fresh(8 << 20)
    first = ctypes.addressof(ctypes.c_char.from_buffer(held))
    found = pages.beyond(pages.anonymous()[0], mapped)
    assert any(a <= first and first + (8 << 20) <= b for a, b in found)
    assert heap and all(a < b for a, b in (*mapped, *heap)) and not set(mapped) & set(heap)


@given
@pytest.mark.usefixtures("free")
def test_a_graph_that_decodes_has_its_weights_in_huge_pages(tmp_path: Path) -> None:
    weight = numpy_helper.from_array(np.ones((2048, 2048), dtype=np.float32), "w")  # onnxruntime packs it anew
    x, y = (helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, ["B", 2048]) for n in "xy")
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "g", [x], [y], [weight])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), tmp_path / "g.onnx")
    graphs = {"vision": {"file": "g.onnx"}, "decoder": {"file": "g.onnx", "cache": []}}
    (tmp_path / "manifest.json").write_text(json.dumps({"graphs": graphs}))
    folder = Exported(tmp_path, threads=1)
    before = in_huge()
    folder.session("vision")
    between = in_huge()
    folder.session("decoder")
    assert in_huge() - between > (between - before) + (8 << 10), "16 MB of weights"
