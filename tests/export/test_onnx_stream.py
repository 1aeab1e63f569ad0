"""Export with weights that stay in their files: the same folder, and few of them in memory at any time."""

from __future__ import annotations

import contextlib
import json
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from safetensors.torch import load_file, save_file

import vlmgraph
from tests.export.test_onnx_capture import DECODER
from tests.parity.models import CASES
from vlmgraph.diagnostics import DiagnosticError
from vlmgraph.export.onnx import export, segments
from vlmgraph.export.onnx.segments import Segmented, read_by, size_of
from vlmgraph.export.onnx.store import Store
from vlmgraph.export.onnx.verify import opened
from vlmgraph.weights.stream import Streamed, stream_model

DEEP: dict[str, Any] = {
    **DECODER,
    "components": {**DECODER["components"], "llm": {**DECODER["components"]["llm"], "layers": 8, "width": 64}},
}  # type: ignore[dict-item]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = vlmgraph.compile(DEEP)
    for parameter in model.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    return model.save(tmp_path_factory.mktemp("stream") / "model")


def computed(path: Path) -> list[Any]:
    """A graph without its remarks, which say from which line of the source a node came."""
    graph = onnx.load(str(path), load_external_data=False).graph
    for part in (*graph.node, *graph.initializer, *graph.input, *graph.output):
        del part.metadata_props[:]
    return [*graph.node, *graph.initializer, *graph.input, *graph.output]


def assert_same(one: Path, other: Path) -> None:
    """The graphs, every byte of the weights, and what the manifest says but for errors, which are of another order of sums."""
    assert {p.name for p in one.iterdir()} == {p.name for p in other.iterdir()}
    for path in one.iterdir():
        if path.suffix == ".onnx":
            assert computed(path) == computed(other / path.name), path.name
        elif path.name != "manifest.json":
            assert path.read_bytes() == (other / path.name).read_bytes(), path.name
    for name, graph in graphs(one).items():
        for key in ("inputs", "outputs", "fused", "shared", "limit"):
            assert graph.get(key) == graphs(other)[name].get(key), (name, key)


def graphs(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "manifest.json").read_text())["graphs"]
    return found


@contextlib.contextmanager
def weighed() -> Iterator[list[int]]:
    """The most bytes of streamed weights that were alive at once."""
    alive: dict[int, int] = {}
    most = [0]
    read = Streamed.read

    def counted(self: Streamed, name: str) -> torch.Tensor:
        value = read(self, name)
        storage = value.untyped_storage()
        alive[id(storage)] = storage.nbytes()
        weakref.finalize(storage, alive.pop, id(storage), None)
        most[0] = max(most[0], sum(alive.values()))
        return value

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Streamed, "read", counted)
        yield most


class TestExport:
    @pytest.fixture(scope="class")
    @classmethod
    def written(cls, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any, int]:
        """The folder of graphs, its report, and the most bytes of weights that were alive at once."""
        with weighed() as most:
            model = stream_model(folder)
            report = export(model, tmp_path_factory.mktemp("out") / "streamed")
        assert all(p.is_meta for p in model.parameters())
        return report.folder, report, most[0]

    def test_agrees_with_eager(self, written: tuple[Path, Any, int]) -> None:
        assert max(row.error for row in written[1].rows) < 1e-5

    def test_few_weights_are_in_memory_at_once(self, written: tuple[Path, Any, int], folder: Path) -> None:
        """A block of eight and what stands beside the blocks: an eighth, not all."""
        total = sum(t.nbytes for t in load_file(folder / "model.safetensors").values())
        assert 0 < written[2] < total / 3

    def test_the_same_folder_as_of_a_loaded_model(self, written: tuple[Path, Any, int], folder: Path, tmp_path: Path) -> None:
        export(vlmgraph.load(folder), tmp_path / "loaded")
        assert_same(tmp_path / "loaded", written[0])

    def test_a_graph_in_parts_gives_what_the_whole_gives(self, written: tuple[Path, Any, int]) -> None:
        path = written[0] / "decoder_model_merged.onnx"
        whole, parts = opened(path), Segmented(path, most=40_000)
        assert len(parts.parts) > 3
        for nodes in parts.parts:
            sizes = [size_of(parts.weights[n]) for n in {n for node in nodes for n in read_by(node)} if n in parts.weights]
            assert sum(sizes) <= 40_000 or len([s for s in sizes if s]) == 1
        random, kinds = np.random.default_rng(0), {"tensor(float)": np.float32, "tensor(int64)": np.int64}
        sizes = {"B": 2, "T": 3, "past": 4, "total": 7}
        feed = {
            i.name: (
                random.standard_normal([sizes.get(d, d) for d in i.shape])
                if "float" in i.type
                else np.ones([sizes.get(d, d) for d in i.shape])
            ).astype(kinds[i.type])
            for i in whole.get_inputs()
        }
        for a, b in zip(whole.run(None, feed), parts.run(None, feed), strict=True):
            assert np.linalg.norm(a - b) <= 1e-5 * np.linalg.norm(a)


@pytest.mark.slow
def test_integers_and_fused_operators(folder: Path, tmp_path: Path) -> None:
    """int4 weights, a head that shares its table, and products put together of several weights: of streamed ones the same bytes."""
    with weighed() as most:
        export(stream_model(folder), tmp_path / "streamed", optimize=True, quantize=["int4"])
    export(vlmgraph.load(folder), tmp_path / "loaded", optimize=True, quantize=["int4"])
    assert_same(tmp_path / "loaded", tmp_path / "streamed")
    decoder = graphs(tmp_path / "streamed")["decoder_model_merged"]
    assert decoder["fused"]["packed queries, keys and values"] == 8 and set(decoder["quantized"]) == {"decoder", "head"}
    assert 0 < most[0] < sum(t.nbytes for t in load_file(folder / "model.safetensors").values()) / 3


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"optimize": True, "quantize": ["int8"]}], ids=["plain", "int8"])
def test_a_checkpoint_whose_rows_are_moved(options: dict[str, Any], tmp_path: Path) -> None:
    """Fuyu's queries, keys and values are one tensor in its files, head by head."""
    CASES["fuyu_two_sizes_left_padding"]()[0].save_pretrained(tmp_path / "model")
    assert any("query_key_value" in name for name in load_file(tmp_path / "model" / "model.safetensors"))
    export(stream_model(tmp_path / "model"), tmp_path / "streamed", programs=["generate"], **options)
    export(vlmgraph.load(tmp_path / "model"), tmp_path / "loaded", programs=["generate"], **options)
    assert_same(tmp_path / "loaded", tmp_path / "streamed")


@pytest.mark.parametrize("streaming", [pytest.param(False, marks=pytest.mark.slow), True])
def test_a_graph_that_departs_names_its_first_node(streaming: bool, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bias of the sixth block is another one behind the capture: the fifth is still right, and few weights are in memory."""
    write = Store.write

    def tampered(self: Store, model: Any, path: Path) -> None:
        for value in model.graph.initializers.values():
            if value.name == "module.llm.layers.5.attention.v.bias":
                value.const_value = ir.tensor(value.const_value.numpy() + 1, name=value.name)
        write(self, model, path)

    monkeypatch.setattr(Store, "write", tampered)
    monkeypatch.setattr(segments, "BYTES", 40_000)
    with pytest.raises(DiagnosticError) as caught, weighed() as most:
        export(stream_model(folder) if streaming else vlmgraph.load(folder), tmp_path / "out")
    [found] = caught.value.diagnostics
    assert found.code == "VG0804" and found.notes[0].startswith("the first value that departs: present.5.value (Concat"), found.notes[0]
    total = sum(t.nbytes for t in load_file(folder / "model.safetensors").values())
    assert not streaming or 0 < most[0] < total / 3


class TestFolders:
    def changed(self, folder: Path, tmp_path: Path, change: Any) -> Path:
        made = tmp_path / "model"
        made.mkdir()
        tensors = load_file(folder / "model.safetensors")
        change(tensors)
        save_file(tensors, made / "model.safetensors")
        (made / "spec.lock.toml").write_bytes((folder / "spec.lock.toml").read_bytes())
        return made

    def test_a_tensor_that_is_missing(self, folder: Path, tmp_path: Path) -> None:
        with pytest.raises(DiagnosticError) as caught:
            stream_model(self.changed(folder, tmp_path, lambda tensors: tensors.pop("llm.layers.1.mlp.up.weight")))
        assert "llm.layers.1.mlp.up.weight" in caught.value.diagnostics[0].message

    def test_a_folder_without_weights(self, tmp_path: Path) -> None:
        with pytest.raises(DiagnosticError) as caught:
            stream_model(tmp_path)
        assert "is no model" in caught.value.diagnostics[0].message

    def test_tied_tensors_that_differ(self, folder: Path, tmp_path: Path) -> None:
        def untie(tensors: dict[str, torch.Tensor]) -> None:
            held = next(n for n in ("embed.tokens.weight", "head.proj.weight") if n in tensors)
            other = "head.proj.weight" if held.startswith("embed") else "embed.tokens.weight"
            tensors[other] = tensors[held] + 1

        model = stream_model(self.changed(folder, tmp_path, untie))
        with pytest.raises(DiagnosticError) as caught:
            model.embed.tokens.weight.vlmgraph_source()
        assert "values differ" in caught.value.diagnostics[0].message
