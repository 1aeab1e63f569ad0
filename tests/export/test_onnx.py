"""ONNX: what is written runs in onnxruntime and computes what eager does, at sizes it was not traced with; what does not is found."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import PIL.Image
import pytest
import torch

import vlmgraph
from tests.levels.models import SPECS, inputs, tiny
from vlmgraph.diagnostics import DiagnosticError
from vlmgraph.export.onnx import Report, export
from vlmgraph.export.onnx.run import Exported

LINE = {
    "inputs": {"x": "tokens[B, N, 8]"},
    "components": {"part": {"type": "connector.linear", "out": 8}},
    "graph": {"edges": ["x -> part -> y"]},
    "outputs": {"y": "tokens[B, N, 8]"},
    "programs": {"forward": {"outputs": ["y"]}},
}
WITHOUT_TORCH = """
import sys

class Barred:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "torch":
            raise ImportError(name)

sys.meta_path.insert(0, Barred())
from vlmgraph.cli import main

code = main(sys.argv[1:])
assert "torch" not in sys.modules
sys.exit(code)
"""


@pytest.fixture(scope="module")
def llava(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Report]:
    """The pieces that decode, of a spec that splices."""
    folder = tmp_path_factory.mktemp("llava") / "onnx"
    return folder, export(tiny("llava-1.5")[0], folder, programs=["generate"])


def tensors(found: list[dict[str, Any]]) -> dict[str, list[Any]]:
    return {t["name"]: t["dims"] for t in found}


def manifest(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "manifest.json").read_text())


class TestNames:
    def test_files(self, llava: tuple[Path, Report]) -> None:
        names = {p.name for p in llava[0].iterdir()}
        assert names >= {"vision_encoder.onnx", "embed_tokens.onnx", "merge.onnx", "decoder_model_merged.onnx", "manifest.json"}
        assert not [n for n in names if n.startswith(".")]

    def test_tensors_of_the_decoder(self, llava: tuple[Path, Report]) -> None:
        graph = manifest(llava[0])["graphs"]["decoder_model_merged"]
        heads = tiny("llava-1.5")[0].graph.components["llm"].heads
        taken, given = tensors(graph["inputs"]), tensors(graph["outputs"])
        assert list(taken)[:2] == ["inputs_embeds", "attention_mask"]
        assert taken["past_key_values.0.key"][::2] == ["B", "past"] and taken["past_key_values.1.value"][1] == heads
        assert given["present.1.key"][2] == "total" and given["logits"][1] == 1, "logits of the last position alone"

    def test_dims_of_the_files_are_symbols_of_the_spec(self, llava: tuple[Path, Report]) -> None:
        model = onnx.load(llava[0] / "merge.onnx", load_external_data=False)
        dims = {i.name: [d.dim_param or d.dim_value for d in i.type.tensor_type.shape.dim] for i in model.graph.input}
        assert dims["input_ids"] == ["B", "T"] and dims["projector"][0] == "N"

    def test_roles(self, llava: tuple[Path, Report]) -> None:
        roles = manifest(llava[0])["dims"]
        assert (roles["B"], roles["T"], roles["N"]) == ("batch", "sequence", "image count")

    def test_sizes_of_the_proof(self, llava: tuple[Path, Report]) -> None:
        for graph in manifest(llava[0])["graphs"].values():
            assert {r["output"] for r in graph["errors"]} == {o["name"] for o in graph["outputs"]}
            for dim in ("B", "N", "T"):
                sizes = {r["sizes"][dim] for r in graph["errors"] if dim in r["sizes"]}
                assert not sizes or len(sizes - {0, 1}) >= 3, (graph["file"], dim, sizes)

    def test_equal_weights_are_written_once(self, tmp_path: Path) -> None:
        """`embed_image` and `contrast` of a model hold the same tower."""
        model = tiny("clip")[0]
        one = export(model, tmp_path / "one", programs=["encode_image"])
        two = export(model, tmp_path / "two", programs=["encode_image", "encode_image"])
        assert one.graphs == two.graphs
        data = [(tmp_path / n / "weights.onnx_data").stat().st_size for n in ("one", "two")]
        assert data[0] == data[1]


class TestDecoding:
    def test_same_tokens_as_eager(self, llava: tuple[Path, Report]) -> None:
        given = inputs("llava-1.5", "generate")
        ours = Exported(llava[0]).generate(**{k: v.numpy() for k, v in given.items()}, max_new_tokens=6)
        theirs = tiny("llava-1.5")[0].generate(**given, max_new_tokens=6)
        assert ours.tolist() == theirs.tolist()
        assert ours.shape[1] == given["input_ids"].shape[1] + 6

    def test_a_text_alone(self, llava: tuple[Path, Report]) -> None:
        given = torch.randint(5, 60, (3, 7), generator=torch.Generator().manual_seed(0))
        ours = Exported(llava[0]).generate(given.numpy(), attention_mask=np.ones((3, 7), dtype=np.int64), max_new_tokens=4)
        assert ours.tolist() == tiny("llava-1.5")[0].generate(given, max_new_tokens=4).tolist()

    def test_another_picture_gives_other_logits(self, llava: tuple[Path, Report]) -> None:
        given = {k: v.numpy() for k, v in inputs("llava-1.5", "generate").items()}
        seen: list[np.ndarray] = []
        for factor in (1.0, -2.0):
            changed = {**given, "pixel_values": given["pixel_values"] * np.float32(factor)}
            Exported(llava[0]).generate(**changed, max_new_tokens=1, choose=lambda x: (seen.append(x), x.argmax(-1))[1])
        assert np.abs(seen[0] - seen[1]).max() > 1e-3

    def test_the_command_runs_without_torch(self, llava: tuple[Path, Report], tmp_path: Path) -> None:
        photo = tmp_path / "photo.png"
        PIL.Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)).save(photo)
        line = ["run", str(llava[0]), "--image", str(photo), "--prompt", "What is this?", "--max-new-tokens", "5", "--json"]
        said = subprocess.run([sys.executable, "-c", WITHOUT_TORCH, *line], capture_output=True, text=True)
        assert said.returncode == 0, said.stderr
        model, processor = tiny("llava-1.5")
        asked = {k: torch.from_numpy(v) for k, v in processor.ask("What is this?", images=[str(photo)]).items()}
        before = asked["input_ids"].shape[1]
        wanted = model.generate(**asked, max_new_tokens=5, eos_token_id=processor.stop)[0, before:]
        assert json.loads(said.stdout)["results"][0]["ids"] == wanted.tolist()


def test_the_command_writes_a_folder_whole(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from vlmgraph.cli import main

    line = ["export", "clip", "--size", "tiny", "--to", "onnx", "--program", "encode_image", "-o", str(tmp_path / "out")]
    assert main(line) == 0
    assert "image_embeds" in capsys.readouterr().out
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"encode_image.onnx", "manifest.json", "spec.lock.toml", "weights.onnx_data"}


class TestFaults:
    """Graphs that are wrong are found, and where."""

    @pytest.fixture
    def faulty(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> Callable[[Callable[[Any, torch.Tensor], torch.Tensor]], DiagnosticError]:
        def tried(forward: Callable[[Any, torch.Tensor], torch.Tensor]) -> DiagnosticError:
            model = vlmgraph.compile({"vlmgraph": 1, **LINE})
            monkeypatch.setattr(type(model.part), "forward", forward)
            with pytest.raises(DiagnosticError) as caught:
                export(model, tmp_path / "out")
            return caught.value

        return tried

    def test_a_size_that_became_a_number(self, faulty: Any) -> None:
        def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
            return x.reshape(int(x.shape[0]), -1, 8) * 2

        [found] = faulty(forward).diagnostics
        assert found.code == "VG0803" and "y has 2 in dim 0, but is declared B" in found.message

    def test_what_decides_by_values(self, faulty: Any) -> None:
        def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
            return x + 1 if bool(x.sum() > 0) else x

        [found] = faulty(forward).diagnostics
        assert found.code == "VG0803" and "at node 'part'" in found.message

    def test_what_draws(self, faulty: Any) -> None:
        [found] = faulty(lambda self, x: x + torch.rand_like(x)).diagnostics
        assert found.code == "VG0803" and "draws random numbers" in found.message

    def test_a_trace_that_is_not_eager(self, faulty: Any) -> None:
        def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
            return x * (1.001 if torch.compiler.is_compiling() else 1.0)

        [found] = faulty(forward).diagnostics
        assert found.code == "VG0804" and "y is 1.0e-03 away" in found.message and "capture" in found.notes[0]

    def test_a_node_that_departs_is_named(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        """A graph with two maps, whose second bias is changed behind its capture."""
        from vlmgraph.export.onnx.store import Store

        write = Store.write

        def tampered(self: Store, model: Any, path: Path) -> None:
            import onnx_ir as ir

            bias = max((v for v in model.graph.initializers.values() if v.name.endswith(".bias")), key=lambda v: v.name)
            bias.const_value = ir.tensor(bias.const_value.numpy() + 1, name=bias.name)
            write(self, model, path)

        monkeypatch.setattr(Store, "write", tampered)
        source = {"vlmgraph": 1, **LINE, "components": {"part": {"type": "connector.mlp", "depth": 2, "hidden": 8, "out": 8}}}
        with pytest.raises(DiagnosticError) as caught:
            export(vlmgraph.compile(source), tmp_path / "out")
        [found] = caught.value.diagnostics
        assert found.code == "VG0804" and found.notes[0] == "the first value that departs: y (Add, in linear_1)", found.notes


QUICK = ("clip",)
PROVED = ("blip", "clip", "cogvlm", "deepseek-vl", "flamingo", "llava-1.5", "paligemma")
"""Specs of which every program is written and agrees."""


@pytest.mark.parametrize("name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in SPECS])
def test_every_spec(name: str, tmp_path: Path) -> None:
    """Every program is written and agrees with eager, and decodes the same tokens, or is refused by name: that counts as not yet done."""
    try:
        refused = export(tiny(name)[0], tmp_path / "out").refused
    except DiagnosticError as error:
        refused = {str(i): d for i, d in enumerate(error.diagnostics)}
    assert {d.code for d in refused.values()} <= {"VG0803"}, refused
    assert not (refused and name in PROVED), refused
    programs = tiny(name)[0].graph.programs
    if not refused and "generate" in programs and programs["generate"].cache:
        given = inputs(name, "generate")
        ours = Exported(tmp_path / "out").generate(**{k: v.numpy() for k, v in given.items()}, program="generate", max_new_tokens=5)
        assert ours.tolist() == tiny(name)[0].generate(**given, max_new_tokens=5).tolist()
    if refused:
        pytest.xfail("; ".join(d.message for d in refused.values()))


def test_linear_attention_as_one_block_is_that_of_many() -> None:
    """What a graph computes of any number of tokens, beside blocks of eight, behind a state."""
    from vlmgraph.nn.lightning import LightningAttention

    torch.manual_seed(0)
    layer = LightningAttention(32, 4, 8, torch.nn.SiLU(), torch.nn.LayerNorm(32), depth=0.5, block=8)
    q, k, v = torch.randn(3, 2, 4, 21, 8)
    state = torch.randn(2, 4, 8, 8)
    for ours, theirs in zip(layer.whole(q, k, v, state), layer.blocks(q, k, v, state)):
        assert float((ours - theirs).norm() / theirs.norm()) < 1e-5
