"""Blocks captured once: every layer has its own weights, in order, and what comes of it is what the whole capture gives."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch

import vlmgraph
from tests.levels.models import tiny
from vlmgraph.diagnostics import DiagnosticError
from vlmgraph.export.onnx import Report, export, repeat, trace
from vlmgraph.lower.model import CompiledModel

LAYERS = 3
DECODER = {
    "vlmgraph": 1,
    "model": {"name": "decoder"},
    "inputs": {"input_ids": "ids[B, T]", "attention_mask": "mask[B, T]?"},
    "outputs": {"logits": "logits[B, T, vocab]"},
    "components": {
        "embed": {"type": "text.embedding", "of": "llm"},
        "llm": {
            "type": "decoder.transformer", "preset": "qwen2-1.5b", "layers": LAYERS, "width": 32, "heads": 4, "kv_heads": 2, "mlp": 48,
            "vocab": 97,
        },
        "head": {"type": "head.lm", "of": "llm"},
    },
    "graph": {"edges": ["input_ids -> embed -> llm -> head -> logits", "attention_mask -> llm.mask"]},
    "programs": {"generate": {"outputs": ["logits"], "cache": ["llm"]}},
}  # fmt: skip


def decoder() -> CompiledModel:
    """A stack whose layers differ: all parameters are drawn, norms and biases too."""
    model = vlmgraph.compile(DECODER)
    torch.manual_seed(3)
    for parameter in model.parameters():
        parameter.data.add_(0.2 * torch.randn_like(parameter))
    return model


def watched(patch: pytest.MonkeyPatch) -> list[str]:
    """What is traced from now on: the types of modules, in order."""
    seen: list[str] = []
    exported = trace.exported
    patch.setattr(trace, "exported", lambda module, *a: (seen.append(type(module).__name__), exported(module, *a))[1])
    return seen


@pytest.fixture
def captures(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    return watched(monkeypatch)


def initializers(path: Path) -> dict[str, np.ndarray]:
    model = onnx.load(path)
    return {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}


class TestDecoder:
    @pytest.fixture(scope="class")
    @classmethod
    def written(cls, tmp_path_factory: pytest.TempPathFactory) -> tuple[CompiledModel, Path, list[str]]:
        model, folder = decoder(), tmp_path_factory.mktemp("decoder") / "onnx"
        with pytest.MonkeyPatch.context() as patch:
            seen = watched(patch)
            export(model, folder)
        return model, folder / "decoder_model_merged.onnx", seen

    def test_one_capture_serves_all_layers(self, written: tuple[CompiledModel, Path, list[str]]) -> None:
        assert Counter(written[2]) == {"Flat": 2, "Alone": 1}, "the embedding, the decoder, and one block"

    def test_blocks_are_as_they_were(self, written: tuple[CompiledModel, Path, list[str]]) -> None:
        """The model's blocks run by themselves afterwards, though they were opaque for a time."""
        assert all("forward" not in vars(module) for module in written[0].modules())

    def test_weights_are_those_of_their_layer(self, written: tuple[CompiledModel, Path, list[str]]) -> None:
        model, path, _ = written
        found = initializers(path)
        state = model.state_dict()
        for layer in range(LAYERS):
            for name in ("attention.q.weight", "mlp.down.weight", "norms.mlp.weight", "attention.k.bias"):
                mine = state[f"llm.layers.{layer}.{name}"].numpy()
                theirs = [
                    k
                    for k, v in found.items()
                    if v.shape in (mine.shape, mine.T.shape) and (np.array_equal(v, mine) or np.array_equal(v, mine.T))
                ]
                assert theirs in ([f"module.llm.layers.{layer}.{name}"], [f"module.llm.layers.{layer}.{name}.T"])

    def test_layers_stand_in_their_order(self, written: tuple[CompiledModel, Path, list[str]]) -> None:
        model = onnx.load(written[1], load_external_data=False)
        used = [i for node in model.graph.node for i in node.input if i.endswith("attention.q.weight.T")]
        assert used == [f"module.llm.layers.{layer}.attention.q.weight.T" for layer in range(LAYERS)]

    def test_a_tied_table_is_written_once(self, written: tuple[CompiledModel, Path, list[str]]) -> None:
        """The embedding reads its rows and the head its columns; the data file holds it once, beside every other weight."""
        model, path, _ = written
        assert model.head.proj.weight is model.embed.tokens.weight
        large = [p.numel() * 4 for p in model.parameters() if p.numel() * 4 > 1024]
        size = (path.parent / "weights.onnx_data").stat().st_size
        assert sum(large) <= size < sum(large) + 64 * len(large)

    def test_nothing_opaque_is_left(self, written: tuple[CompiledModel, Path, list[str]]) -> None:
        model = onnx.load(written[1], load_external_data=False)
        assert {node.domain for node in model.graph.node} <= {"", "ai.onnx"}
        onnx.checker.check_model(str(written[1]), full_check=True)

    def test_names_are_of_one_value_each(self, written: tuple[CompiledModel, Path, list[str]]) -> None:
        model = onnx.load(written[1], load_external_data=False)
        made = Counter(o for node in model.graph.node for o in node.output if o)
        assert max(made.values()) == 1


def tampered(monkeypatch: pytest.MonkeyPatch, change: Callable[[list[Any]], None]) -> None:
    """Let `change` rearrange the calls of blocks before they are written into the graph."""
    place = trace.place

    def placed(graph: ir.Graph, forms: Any) -> None:
        calls = [repeat.NAMED[n.attributes["name"].as_string()] for n in graph if n.domain == repeat.DOMAIN]
        change(calls)
        place(graph, forms)

    monkeypatch.setattr(trace, "place", placed)


class TestFaults:
    def test_layers_in_another_order(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        def swap(calls: list[Any]) -> None:
            if len(calls) > 1:
                calls[0].path, calls[1].path = calls[1].path, calls[0].path

        tampered(monkeypatch, swap)
        with pytest.raises(DiagnosticError) as caught:
            export(decoder(), tmp_path / "out")
        [found] = caught.value.diagnostics
        assert found.code == "VG0804" and found.message.startswith("decoder_model_merged")
        assert found.notes[0].startswith("the first value that departs: present.0."), "what the first block gives"

    @pytest.mark.slow
    def test_one_layer_for_all(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        def same(calls: list[Any]) -> None:
            for call in calls:
                call.path = calls[0].path

        tampered(monkeypatch, same)
        with pytest.raises(DiagnosticError) as caught:
            export(decoder(), tmp_path / "out")
        assert {d.code for d in caught.value.diagnostics} == {"VG0804"}


def test_a_block_that_cannot_be_captured_alone_is_captured_with_all(
    monkeypatch: pytest.MonkeyPatch, captures: list[str], tmp_path: Path
) -> None:
    """Report and manifest say which graph and why."""

    def fails(form: repeat.Form, opset: int) -> Any:
        raise trace.NotUniform(f"{form.call.path} takes [2, 3] alone")

    monkeypatch.setattr(trace, "alone", fails)
    report = export(decoder(), tmp_path / "out")
    assert Counter(captures) == {"Flat": 3}, "the embedding, the decoder with blocks, the decoder whole"
    assert max(row.error for row in report.rows) < 1e-5
    assert report.layers == {"decoder_model_merged": "llm.layers.0 and 2 more: module.llm.layers.0 takes [2, 3] alone"}
    said(report)


class Adding(torch.nn.Module):
    """Adds what it gives to a list, where there is one."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = torch.nn.Linear(4, 8), torch.nn.Linear(8, 4)

    def forward(self, x: torch.Tensor, seen: list[torch.Tensor] | None) -> torch.Tensor:
        y = self.down(self.up(x))
        if seen is not None:
            seen.append(y)
        return y


class Several(torch.nn.Module):
    def __init__(self, listed: bool) -> None:
        super().__init__()
        self.layers, self.listed = torch.nn.ModuleList([Adding(), Adding(), Adding()]), listed

    def forward(self, *values: torch.Tensor) -> tuple[torch.Tensor, ...]:
        (x,) = values
        seen = [x] if self.listed else None
        for layer in self.layers:
            x = layer(x, seen)
        return (x if seen is None else torch.stack(seen),)


@pytest.mark.parametrize("listed", [False, True])
def test_blocks_that_are_given_a_list_are_captured_where_they_stand(listed: bool) -> None:
    given = (torch.randn(2, 4),)
    _, _, layers = trace.trace(Several(listed), given, [{0: torch.export.Dim.AUTO}], (["x"], ["y"]), 20)
    assert layers == ("layers.0 and 2 more: a list enters, which a block may add to" if listed else "")


class Kept(Several):
    """How many rows there are follows from values, as where pictures that are padding are left out."""

    def forward(self, *values: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return super().forward(values[0][values[0][:, 0] > 0])


def test_blocks_of_rows_whose_number_is_a_value_are_captured_once(tmp_path: Path) -> None:
    import onnxruntime

    module, given = Kept(False), (torch.eye(5, 4) + 1,)
    model, _, layers = trace.trace(module, given, [{0: torch.export.Dim.AUTO, 1: None}], (["x"], ["y"]), 20)
    assert layers == ""
    ir.save(model, tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    for rows in (7, 4):
        x = torch.randn(rows, 4)
        x[:3, 0] = torch.tensor([1.0, -1.0, 2.0])
        np.testing.assert_allclose(session.run(None, {"x": x.numpy()})[0], module(x)[0].detach().numpy(), atol=1e-6)


def said(report: Report) -> None:
    """In the table and the manifest, too."""
    for name, why in report.layers.items():
        assert f"{name} was captured layer by layer, {why}" in str(report)
    graphs = json.loads((report.folder / "manifest.json").read_text())["graphs"]
    assert {n: g["layer_by_layer"] for n, g in graphs.items() if "layer_by_layer" in g} == report.layers


def test_layers_of_two_kinds(captures: list[str], tmp_path: Path) -> None:
    model = tiny("clip")[0]
    report = export(model, tmp_path / "out", programs=["forward"])
    assert not report.layers and "layer by layer" not in str(report)
    assert Counter(captures) == {"Flat": 1, "Alone": 2}, "the towers of image and text"


@pytest.mark.slow
def test_half_precision(tmp_path: Path) -> None:
    """float16 weights and caches, within 2e-2 of eager in float16, which is what a rounding of 2 ** -11 adds up to over some layers."""
    report = export(vlmgraph.compile(DECODER, dtype="float16"), tmp_path / "out")
    assert 0 < max(row.error for row in report.rows) < 2e-2
    model = onnx.load(str(tmp_path / "out" / "decoder_model_merged.onnx"), load_external_data=False)
    assert {i.type.tensor_type.elem_type for i in model.graph.input if i.name != "attention_mask"} == {onnx.TensorProto.FLOAT16}


@pytest.mark.slow
def test_the_whole_gives_the_same(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Captured by blocks and captured whole: the same outputs from onnxruntime to the last bits of float32."""
    import onnxruntime

    model = tiny("clip")[0]
    export(model, tmp_path / "blocks", programs=["encode_image"])
    monkeypatch.setattr(trace.Tracing, "__init__", lambda self, flat: setattr(self, "blocks", {}))
    export(model, tmp_path / "whole", programs=["encode_image"])
    sessions = [onnxruntime.InferenceSession(str(tmp_path / way / "encode_image.onnx")) for way in ("blocks", "whole")]
    shape = tuple(d if isinstance(d, int) else 3 for d in sessions[0].get_inputs()[0].shape)
    given = {"pixel_values": np.random.default_rng(0).standard_normal(shape, dtype=np.float32)}
    one, two = (session.run(None, given)[0] for session in sessions)
    assert np.linalg.norm(one - two) <= 1e-6 * np.linalg.norm(two)
