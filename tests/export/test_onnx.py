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
from tests.export.saved import assert_saved
from tests.levels.models import SPECS, inputs, tiny
from vlmgraph.cli import main
from vlmgraph.components.inference import SampleImage
from vlmgraph.diagnostics import DiagnosticError
from vlmgraph.export.onnx import Report, export
from vlmgraph.export.onnx.draw import draw, pixels
from vlmgraph.export.onnx.run import Exported
from vlmgraph.lower.example import Amount, example_inputs
from vlmgraph.lower.sample_image import draw as eager_draw
from vlmgraph.lower.sample_image import pixels as eager_pixels

LINE = {
    "inputs": {"x": "tokens[B, N, 8]"},
    "components": {"part": {"type": "connector.linear", "out": 8}},
    "graph": {"edges": ["x -> part -> y"]},
    "outputs": {"y": "tokens[B, N, 8]"},
    "programs": {"forward": {"outputs": ["y"]}},
}
TWO_MAPS = """
vlmgraph = 1

[inputs]
x = "tokens[B, N, 8]"

[components]
part = { type = "connector.mlp", depth = 2, hidden = 8, out = 8 }

[graph]
edges = ["x -> part -> y"]

[outputs]
y = "tokens[B, N, 8]"

[programs]
forward = { outputs = ["y"] }
"""
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
        assert (taken["inputs_embeds"][:2], taken["attention_mask"]) == (["B", "T"], ["B", "total"]), "the mask is of past and new tokens"
        assert {i["dtype"] for g in manifest(llava[0])["graphs"].values() for i in g["inputs"] if i["name"] == "attention_mask"} == {
            "int64"
        }
        assert taken["past_key_values.0.key"][::2] == ["B", "past"] and taken["past_key_values.1.value"][1] == heads
        assert given["present.1.key"][2] == "total" and given["logits"][1] == 1, "logits of the last position alone"

    def test_dims_of_the_files_are_symbols_of_the_spec(self, llava: tuple[Path, Report]) -> None:
        model = onnx.load(llava[0] / "merge.onnx", load_external_data=False)
        dims = {i.name: [d.dim_param or d.dim_value for d in i.type.tensor_type.shape.dim] for i in model.graph.input}
        assert dims["input_ids"] == ["B", "T"] and dims["projector"][0] == "N"

    def test_roles(self, llava: tuple[Path, Report]) -> None:
        roles = manifest(llava[0])["dims"]
        assert (roles["B"], roles["T"], roles["N"]) == ("batch", "sequence", "image count")

    def test_what_is_saved(self, llava: tuple[Path, Report]) -> None:
        assert_saved(llava[0])

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
        said = alone(llava[0], "--image", str(photo), "--prompt", "What is this?", "--max-new-tokens", "5")
        model, processor = tiny("llava-1.5")
        asked = {k: torch.from_numpy(v) for k, v in processor.ask("What is this?", images=[str(photo)]).items()}
        before = asked["input_ids"].shape[1]
        wanted = model.generate(**asked, max_new_tokens=5, eos_token_id=processor.stop)[0, before:]
        assert said["ids"] == wanted.tolist()


def test_the_command_writes_a_folder_whole(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
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

    def test_a_node_that_departs_is_named(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """A graph with two maps, whose second bias is changed behind its capture: the command fails and says where."""
        from vlmgraph.export.onnx.store import Store

        write = Store.write

        def tampered(self: Store, model: Any, path: Path) -> None:
            import onnx_ir as ir

            bias = max((v for v in model.graph.initializers.values() if v.name.endswith(".bias")), key=lambda v: v.name)
            bias.const_value = ir.tensor(bias.const_value.numpy() + 1, name=bias.name)
            write(self, model, path)

        monkeypatch.setattr(Store, "write", tampered)
        (tmp_path / "line.toml").write_text(TWO_MAPS)
        assert main(["export", str(tmp_path / "line.toml"), "--to", "onnx", "-o", str(tmp_path / "out")]) == 1
        said = capsys.readouterr().err
        assert "VG0804" in said and "the first value that departs: y (Add, in linear_1)" in said, said
        assert not (tmp_path / "out").exists(), "what is not proved is not left behind"


QUICK = ("clip",)
REFUSED: dict[tuple[str, str], str] = {}
"""Programs that cannot be written, with what the refusal says."""


@pytest.mark.parametrize("name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in SPECS])
def test_every_spec(name: str, tmp_path: Path) -> None:
    """Every program is written and agrees with eager, what is saved holds, and what is decoded from it are eager's tokens."""
    model, folder = tiny(name)[0], tmp_path / "out"
    refused = export(model, folder).refused
    expected = {program: text for (spec, program), text in REFUSED.items() if spec == name}
    assert refused.keys() == expected.keys(), refused
    assert all(expected[program] in d.message for program, d in refused.items()), refused
    assert set(manifest(folder)["programs"]) == set(model.graph.programs) - set(expected)
    assert_saved(folder)
    for program, made in manifest(folder)["programs"].items():
        if made.get("logits"):
            assert_decodes(name, program, folder)
    for procedure in model.graph.procedures.values():
        if isinstance(procedure, SampleImage):
            assert_draws(name, procedure, folder)


def assert_decodes(name: str, program: str, folder: Path) -> None:
    """The tokens of eager: for pictures beside texts of several lengths, several pictures a sample, one sample, and texts alone."""
    model, processor = tiny(name)
    source, tried = model.programs[program].source, 0
    one = Amount(batch=1)
    for media, amount in ((True, Amount()), (True, Amount(batch=3, pictures=2, words=2)), (True, one), (False, Amount()), (False, one)):
        try:
            given = example_inputs(source, processor, program, media=media, amount=amount)
            wanted = model.generate(**{k: torch.from_numpy(np.ascontiguousarray(v)) for k, v in given.items()}, max_new_tokens=5)
        except DiagnosticError:  # eager does not take it either
            continue
        ours = Exported(folder).generate(**given, program=program, max_new_tokens=5)
        assert ours.tolist() == wanted.tolist(), (media, amount)
        tried += 1
    assert tried


def assert_draws(name: str, procedure: SampleImage, folder: Path) -> None:
    """The codes of eager, with guidance and without, for prompts of two lengths; and their pixels."""
    model, processor = tiny(name)
    count = model.graph.types()[model.graph.resolve(procedure.codes)].dims[-1].constant
    prompts = [
        processor(processor.prompt("generate_image", prompt=text))["input_ids"] for text in ("a red bird", "a ship, a cat and a tree")
    ]
    length = max(p.shape[1] for p in prompts)
    ids = np.concatenate([np.pad(p, ((0, 0), (length - p.shape[1], 0))) for p in prompts])
    mask = np.concatenate([np.pad(np.ones_like(p), ((0, 0), (length - p.shape[1], 0))) for p in prompts])
    for guidance in (1.0, procedure.guidance + 1):
        ours = draw(Exported(folder), procedure, count, ids, mask, guidance)
        options = {"do_sample": False, "guidance_scale": guidance}
        _, wanted = eager_draw(model, torch.from_numpy(ids), torch.from_numpy(mask), **options)
        assert ours.tolist() == wanted.tolist(), guidance
    theirs = eager_pixels(model, procedure, wanted).numpy()
    assert np.linalg.norm(pixels(Exported(folder), procedure, ours) - theirs) < 1e-4 * np.linalg.norm(theirs)


KINDS = ("flamingo", "florence-2", "janus", "llama-3.2-vision", "minimax-vl-01", "qwen2-vl")
"""Media in inserted blocks; encoder and decoder; pictures that are drawn; cross-attention layers; states of linear attention; M-RoPE."""


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_the_command_answers_of_every_kind_without_torch(name: str, tmp_path: Path) -> None:
    model, processor = tiny(name)
    folder, photo = tmp_path / "out", tmp_path / "photo.png"
    drawing = next((p for p in model.graph.procedures.values() if isinstance(p, SampleImage)), None)
    export(model, folder, programs=["generate", *([] if drawing is None else drawing.programs().values())])
    PIL.Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)).save(photo)
    asked = {k: torch.from_numpy(v) for k, v in processor.ask("What is this?", images=[str(photo)]).items()}
    before = 1 if "decoder_input_ids" in model.graph.inputs else asked["input_ids"].shape[1]
    wanted = model.generate(**asked, max_new_tokens=5, eos_token_id=processor.stop)[0, before:]
    assert alone(folder, "--image", str(photo), "--prompt", "What is this?", "--max-new-tokens", "5")["ids"] == wanted.tolist()
    if drawing is not None:
        codes = alone(folder, "--prompt", "a red bird", "-o", str(tmp_path / "drawn.png"), "--no-sample")["codes"]
        given = {k: torch.from_numpy(v) for k, v in processor(processor.prompt("generate_image", prompt="a red bird")).items()}
        assert codes == eager_draw(model, **given, do_sample=False)[1][0].tolist()
        assert PIL.Image.open(tmp_path / "drawn.png").size


def alone(folder: Path, *arguments: str) -> dict[str, Any]:
    """What `run` says of a folder in a process that cannot import torch."""
    line = [sys.executable, "-c", WITHOUT_TORCH, "run", str(folder), *arguments, "--json"]
    said = subprocess.run(line, capture_output=True, text=True)
    assert said.returncode == 0, said.stderr
    return json.loads(said.stdout)["results"][0]


def test_linear_attention_as_one_block_is_that_of_many() -> None:
    """What a graph computes of any number of tokens, beside blocks of eight, behind a state."""
    from vlmgraph.nn.lightning import LightningAttention

    torch.manual_seed(0)
    layer = LightningAttention(32, 4, 8, torch.nn.SiLU(), torch.nn.LayerNorm(32), depth=0.5, block=8)
    q, k, v = torch.randn(3, 2, 4, 21, 8)
    state = torch.randn(2, 4, 8, 8)
    for ours, theirs in zip(layer.whole(q, k, v, state), layer.blocks(q, k, v, state)):
        assert float((ours - theirs).norm() / theirs.norm()) < 1e-5
