"""Optimized and quantized graphs: what is fused, that it computes what eager does, and that keys and values are written in place."""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch

import vlmgraph
from tests.levels.models import enliven, tiny
from vlmgraph.diagnostics import DiagnosticError
from vlmgraph.export.onnx import Report, export
from vlmgraph.export.onnx.bound import Bound
from vlmgraph.export.onnx.optimize import optimize
from vlmgraph.export.onnx.optimize.blocks import quantized, restored
from vlmgraph.export.onnx.optimize.kinds import parse
from vlmgraph.export.onnx.optimize.masks import CAUSAL, OTHER, WITHIN, allows
from vlmgraph.export.onnx.optimize.quantize import Kind, Plan, quantize
from vlmgraph.export.onnx.run import Exported
from vlmgraph.lower.model import CompiledModel

LIMIT = 5e-6
"""Relative error in float32: sums of at most some hundred values in another order."""
DECODER = "decoder_model_merged"
WRITER: dict[str, Any] = {
    "vlmgraph": 1,
    "inputs": {"input_ids": "ids[B, T]", "attention_mask": "mask[B, T]?"},
    "outputs": {"logits": "logits[B, T, vocab]"},
    "tokens": {"<pad>": 0},
    "components": {
        "embed": {"type": "text.embedding", "of": "llm"},
        "llm": {
            "type": "decoder.transformer", "preset": "llama-2-7b",
            "layers": 2, "width": 64, "heads": 4, "kv_heads": 2, "mlp": 96, "vocab": 112, "tie": True,
        },
        "head": {"type": "head.lm", "of": "llm"},
    },
    "graph": {"edges": ["input_ids -> embed -> llm -> head -> logits", "attention_mask -> llm.mask"]},
    "processor": {"input_ids": {"type": "processor.text", "pad": "<pad>", "pad_side": "left", "also": {"attention_mask": "mask"}}},
    "programs": {"forward": {"outputs": ["logits"]}, "generate": {"from": "forward", "cache": ["llm"]}},
}  # fmt: skip


@pytest.fixture(scope="module")
def model() -> CompiledModel:
    return enliven(vlmgraph.compile(WRITER))


@pytest.fixture(scope="module")
def plain(model: CompiledModel, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Report]:
    folder = tmp_path_factory.mktemp("plain") / "out"
    return folder, export(model, folder, programs=["generate"])


@pytest.fixture(scope="module")
def fast(model: CompiledModel, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Report]:
    folder = tmp_path_factory.mktemp("fast") / "out"
    return folder, export(model, folder, programs=["generate"], optimize=True)


@pytest.fixture(scope="module")
def small(model: CompiledModel, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Report]:
    folder = tmp_path_factory.mktemp("small") / "out"
    return folder, export(model, folder, programs=["generate"], optimize=True, quantize=["int4"])


def graph(folder: Path, name: str = DECODER) -> ir.Model:
    return ir.load(folder / f"{name}.onnx")


def entry(folder: Path, name: str = DECODER) -> dict[str, Any]:
    return json.loads((folder / "manifest.json").read_text())["graphs"][name]


def count(model: ir.Model) -> Counter[str]:
    return Counter(node.op_type for node in model.graph)


def padded() -> dict[str, np.ndarray]:
    """Three prompts of 7, the first with three paddings on the left."""
    ids = np.random.default_rng(0).integers(1, 112, (3, 7))
    mask = np.ones((3, 7), dtype=np.int64)
    ids[0, :3], mask[0, :3] = 0, 0
    return {"input_ids": ids, "attention_mask": mask}


class TestFused:
    def test_operators(self, fast: tuple[Path, Report]) -> None:
        made = count(graph(fast[0]))
        assert made["GroupQueryAttention"] == 2 and made["SkipSimplifiedLayerNormalization"] == 4
        assert made["SimplifiedLayerNormalization"] == 1, "the first norm follows no sum"
        assert not made["Softmax"] and not made["ReduceMean"]
        assert made["MatMul"] == 2 * 5 + 1, "queries, keys and values are one product"
        fused = entry(fast[0])["fused"]
        assert fused["rotation inside"] == 2 and fused["packed queries, keys and values"] == 2

    def test_proved_like_the_plain_graphs(self, fast: tuple[Path, Report], plain: tuple[Path, Report]) -> None:
        assert [(r.graph, r.output, r.sizes) for r in fast[1].rows] == [(r.graph, r.output, r.sizes) for r in plain[1].rows]
        assert max(r.error for r in fast[1].rows) < LIMIT

    def test_names_stay(self, fast: tuple[Path, Report], plain: tuple[Path, Report]) -> None:
        for side in ("inputs", "outputs"):
            assert entry(fast[0])[side] == entry(plain[0])[side]

    @pytest.mark.parametrize("fault", [False, True])
    def test_padding_in_a_step_of_several(self, plain: tuple[Path, Report], monkeypatch: pytest.MonkeyPatch, fault: bool) -> None:
        """A bias keeps padding apart, also where it stands between tokens; left out, the graph departs."""
        if fault:
            monkeypatch.setattr(sys.modules["vlmgraph.export.onnx.optimize.grouped"], "bound", lambda *args: (True, None))
        made = graph(plain[0])
        optimize(made)
        for name, tensor in ((v.name, v.const_value) for v in made.graph.initializers.values()):
            made.graph.initializers[name].const_value = ir.tensor(tensor.numpy(), name=name)
        rng = np.random.default_rng(0)
        feed = {i["name"]: rng.standard_normal((2, 2, 5, 16)).astype(np.float32) for i in entry(plain[0])["inputs"] if i.get("cache")}
        feed["inputs_embeds"] = rng.standard_normal((2, 3, 64)).astype(np.float32)
        mask = np.ones((2, 8), dtype=bool)
        mask[0, :2] = mask[1, 4] = mask[1, 6] = False
        feed["attention_mask"] = mask.astype(np.int64)
        wanted = onnxruntime.InferenceSession(plain[0] / f"{DECODER}.onnx").run(None, feed)
        got = onnxruntime.InferenceSession(ir.to_proto(made).SerializeToString()).run(None, feed)
        worst = max(float(np.linalg.norm(a - b) / np.linalg.norm(b)) for a, b in zip(got, wanted))
        assert worst > 1e-3 if fault else worst < LIMIT

    def test_only_masks_up_to_the_query_fit(self) -> None:
        past = ir.Value(name="past_key_values.0.key", shape=ir.Shape(["B", 2, "past", 16]), type=ir.TensorType(ir.DataType.FLOAT))
        new, other = (ir.Value(name=n, type=ir.TensorType(ir.DataType.BOOL)) for n in ("new", "other"))
        made = ir.Graph([past, new, other], [], nodes=[], opset_imports={"": 20})

        def op(kind: str, *inputs: ir.Value, **attributes: Any) -> ir.Value:
            node = ir.node(kind, inputs, attributes)
            made.append(node)
            return node.outputs[0]

        def constant(*n: int) -> ir.Value:
            return ir.Value(name=f"c{n}", const_value=ir.tensor(np.array(n if len(n) > 1 else n[0])))

        held = op("Squeeze", op("Shape", past, start=2, end=3))
        total = op("Add", held, new)
        keys, queries = op("Range", constant(0), total, constant(1)), op("Range", held, total, constant(1))
        column = op("Unsqueeze", queries, constant(1))
        causal = op("LessOrEqual", op("Unsqueeze", keys, constant(0)), column)
        own = op("Equal", column, keys)
        assert allows(causal) == CAUSAL and allows(own) == WITHIN and allows(other) == OTHER
        assert allows(op("Or", op("And", causal, other), op("And", own, other))) == WITHIN
        assert allows(op("Or", causal, op("And", own, other))) == CAUSAL
        assert allows(op("Or", causal, other)) == OTHER, "a prefix that is seen whole"
        assert allows(op("GreaterOrEqual", op("Unsqueeze", keys, constant(0)), column)) == OTHER
        assert allows(op("LessOrEqual", op("Range", constant(1), total, constant(1)), column)) == OTHER


class TestMask:
    """The mask is what transformers.js, Optimum and onnxruntime-genai feed: int64, of past and new tokens."""

    @pytest.mark.parametrize("which", ["plain", "fast"])
    def test_type_and_dims(self, which: str, request: pytest.FixtureRequest) -> None:
        folder = request.getfixturevalue(which)[0]
        taken = {str(v.name): v for v in graph(folder).graph.inputs}
        dims = {name: [d if isinstance(d, int) else d.value for d in v.shape or ()] for name, v in taken.items()}
        assert taken["attention_mask"].dtype == ir.DataType.INT64
        assert dims["attention_mask"] == ["B", "total"] and dims["inputs_embeds"][:2] == ["B", "T"]
        assert entry(folder).get("shared") == ("attention_mask" if which == "fast" else None)
        assert entry(folder).get("fused", {}).get("buffers of keys and values shared") == (4 if which == "fast" else None)

    @pytest.mark.parametrize("which", ["plain", "fast"])
    def test_zeros_are_padding(self, which: str, request: pytest.FixtureRequest, model: CompiledModel) -> None:
        folder, given = request.getfixturevalue(which)[0], padded()
        embeds = onnxruntime.InferenceSession(folder / "embed_tokens.onnx").run(None, {"input_ids": given["input_ids"]})[0]
        session = onnxruntime.InferenceSession(folder / f"{DECODER}.onnx")
        past = {i["name"]: np.zeros((3, 2, 0, 16), dtype=np.float32) for i in entry(folder)["inputs"] if i.get("cache")}
        made = {}
        for mask in (given["attention_mask"], np.ones_like(given["attention_mask"])):
            ours = session.run(["logits"], {"inputs_embeds": embeds, "attention_mask": mask, **past})[0][:, -1]
            theirs = model(input_ids=torch.from_numpy(given["input_ids"]), attention_mask=torch.from_numpy(mask))["logits"][:, -1]
            wanted = theirs.detach().numpy()
            assert np.linalg.norm(ours - wanted) < LIMIT * np.linalg.norm(wanted)
            made[int(mask.sum())] = ours
        padding, all_real = made[18], made[21]
        assert np.abs(padding[0] - all_real[0]).max() > 1e-2 and np.allclose(padding[1:], all_real[1:], atol=1e-5), (
            "the first row is padded"
        )


class TestInPlace:
    def test_buffers_are_bound_as_past_and_present(self, fast: tuple[Path, Report], monkeypatch: pytest.MonkeyPatch) -> None:
        """New keys are written behind the past ones in memory that stays the same, and no output is made for them."""
        seen: list[tuple[int, int]] = []
        call = Bound.__call__

        def watched(self: Bound, *args: Any) -> None:
            call(self, *args)
            if self.held:
                outputs = self.call.get_outputs()
                assert [o.data_ptr() for o in outputs[: len(self.buffers)]] == [b.data_ptr() for b in self.buffers]
                filled = self.buffers[0].numpy()[:, :, :, 0] != 0
                seen.append((self.buffers[0].data_ptr(), int(filled.all((0, 1)).sum())))

        monkeypatch.setattr(Bound, "__call__", watched)
        Exported(fast[0]).generate(**padded(), max_new_tokens=4)
        assert len({pointer for pointer, _ in seen}) == 1
        assert [tokens for _, tokens in seen] == [7, 8, 9, 10]

    def test_same_tokens_as_eager_with_padding(self, fast: tuple[Path, Report], plain: tuple[Path, Report], model: CompiledModel) -> None:
        given = padded()
        wanted = model.generate(**{k: torch.from_numpy(v) for k, v in given.items()}, max_new_tokens=8).tolist()
        for folder in (fast[0], plain[0]):
            assert Exported(folder).generate(**given, max_new_tokens=8).tolist() == wanted
        assert len({tuple(row[7:]) for row in wanted}) > 1

    def test_no_more_than_the_buffers_hold(self, fast: tuple[Path, Report]) -> None:
        for count in (1, 2):
            assert Exported(fast[0]).generate(**padded(), max_new_tokens=count).shape == (3, 7 + count)

    def test_without_a_mask_nothing_is_shared(self, plain: tuple[Path, Report]) -> None:
        grows = [(s["past"], s["present"]) for s in entry(plain[0])["cache"]]
        past = {name: (2, 2, 4, 16) for name, _ in grows}
        assert optimize(graph(plain[0]), [past | {"inputs_embeds": (2, 3, 64)}], grows).counts is None
        assert optimize(graph(plain[0]), [past | {"inputs_embeds": (2, 3, 64), "attention_mask": (2, 3)}], grows).counts is None
        made = optimize(graph(plain[0]), [past | {"inputs_embeds": (2, 3, 64), "attention_mask": (2, 7)}], grows).counts
        assert made is not None and made.name == "attention_mask"


class TestBlocks:
    @pytest.mark.parametrize("bits", [4, 8])
    @pytest.mark.parametrize(("width", "block"), [(64, 32), (48, 32), (256, 128)])
    def test_as_near_as_the_steps_allow(self, bits: int, width: int, block: int) -> None:
        """Half a step, or one at the end of the range that has one level less."""
        weight = np.random.default_rng(0).standard_normal((5, width)).astype(np.float32)
        weight[2] = 0
        made = quantized(weight, bits, block)
        gap = np.abs(restored(made, width) - weight)
        step = np.repeat(np.abs(made.scales), block, 1)[:, :width]
        assert (gap <= step * 1.001).all() and np.median(gap / np.maximum(step, 1e-9)) < 0.3
        assert made.error == pytest.approx(float(np.linalg.norm(gap) / np.linalg.norm(weight)), rel=1e-3)
        assert made.data.shape == (5, -(-width // block), block * bits // 8)

    @pytest.mark.parametrize("bits", [4, 8])
    def test_operators_read_them_so(self, bits: int) -> None:
        """A product and a lookup over the same bytes give what `restored` says; products round their input to 8 bits."""
        table = np.random.default_rng(1).standard_normal((40, 64)).astype(np.float32)
        x, bias = np.random.default_rng(2).standard_normal((2, 3, 64)).astype(np.float32), np.arange(40, dtype=np.float32)
        values = {n: ir.Value(name=n, const_value=ir.tensor(a), shape=ir.Shape(a.shape), type=ir.TensorType(ir.DataType.FLOAT))
                  for n, a in (("table", table), ("turned", np.ascontiguousarray(table.T)), ("bias", bias))}  # fmt: skip
        ids = ir.Value(name="ids", shape=ir.Shape([3]), type=ir.TensorType(ir.DataType.INT64))
        enters = ir.Value(name="x", shape=ir.Shape([2, 3, 64]), type=ir.TensorType(ir.DataType.FLOAT))
        looked = ir.node("Gather", [values["table"], ids])
        product = ir.node("MatMul", [enters, values["turned"]])
        total = ir.node("Add", [product.outputs[0], values["bias"]])
        for node, name in ((looked, "rows"), (total, "y")):
            node.outputs[0].name, node.outputs[0].type = name, ir.TensorType(ir.DataType.FLOAT)
        made = ir.Model(ir.Graph([ids, enters], [looked.outputs[0], total.outputs[0]], nodes=[looked, product, total],
                        initializers=list(values.values()), opset_imports={"": 20}), ir_version=10)  # fmt: skip
        held = quantize(made, Plan({"op": Kind(bits)}, lambda path: "op"))
        assert held["op"].weights == 2 and count(made) == {"GatherBlockQuantized": 1, "MatMulNBits": 1}
        session = onnxruntime.InferenceSession(ir.to_proto(made).SerializeToString())
        rows, y = session.run(None, {"ids": np.array([5, 0, 39]), "x": x})
        there = restored(quantized(table, bits, 32), 64)
        assert np.array_equal(rows, there[[5, 0, 39]])
        wanted = x @ there.T + bias
        assert np.linalg.norm(y - wanted) / np.linalg.norm(wanted) < 0.01


class TestQuantized:
    def test_roles_and_errors_are_said(self, small: tuple[Path, Report]) -> None:
        decoder = entry(small[0])
        assert set(decoder["quantized"]) == {"decoder", "head"} and decoder["limit"] == 0.6
        assert decoder["quantized"]["decoder"]["weights"] == 2 * 5 and decoder["quantized"]["head"]["type"] == "int4:32"
        assert 0.05 < decoder["quantized"]["decoder"]["error"] < 0.15
        logits = [r for r in decoder["errors"] if r["output"] == "logits"]
        assert all(0.01 < r["error"] < 0.6 and r["cosine"] > 0.8 and r["top1"] is not None for r in logits)
        assert "top-1" in str(small[1])

    def test_each_role_by_itself(self, small: tuple[Path, Report]) -> None:
        """Integers of the head leave keys and values alone; those of both are further away than those of one."""
        of = {role: held["outputs"] for role, held in entry(small[0])["quantized"].items()}
        assert of["head"]["present.1.key"] < LIMIT < 0.01 < of["decoder"]["present.1.key"]
        both = max(r["error"] for r in entry(small[0])["errors"] if r["output"] == "logits")
        assert 0.01 < of["head"]["logits"] < both and of["decoder"]["logits"] > 0.01
        assert f"{DECODER}, head alone" in str(small[1])

    def test_a_tied_table_is_written_once(self, small: tuple[Path, Report]) -> None:
        places = []
        for name, op in (("embed_tokens", "GatherBlockQuantized"), (DECODER, "MatMulNBits")):
            nodes = [n for n in graph(small[0], name).graph if n.op_type == op]
            tensor: Any = next(i.const_value for n in nodes for i in n.inputs if i is not None and i.const_value is not None
                               and i.const_value.nbytes == 112 * 64 // 2 and i.const_value.shape[0] == 112)  # fmt: skip
            places.append((tensor.offset, tensor.length))
        assert places[0] == places[1]

    def test_it_writes(self, small: tuple[Path, Report]) -> None:
        assert Exported(small[0]).generate(**padded(), max_new_tokens=5).shape == (3, 12)

    def test_vision_stays_as_it_is(self) -> None:
        assert parse(["int8"]) == {"decoder": Kind(8), "head": Kind(8)}
        assert parse(["int4:128", "head=int8", "encoder=int8", "decoder=none"]) == {
            "decoder": None, "head": Kind(8), "encoder": Kind(8),
        }  # fmt: skip

    @pytest.mark.parametrize("text", ["int5", "int4:33", "none:32", "tail=int4", "head=", ""])
    def test_what_there_is_not(self, text: str) -> None:
        with pytest.raises(DiagnosticError) as caught:
            parse([text])
        [found] = caught.value.diagnostics
        assert found.code == "VG0727" and f"--quantize {text}" in found.message

    def test_scales_that_are_wrong_are_found(self, model: CompiledModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        from vlmgraph.export.onnx.optimize import blocks

        leveled = blocks.leveled
        monkeypatch.setattr(blocks, "leveled", lambda *args: (leveled(*args)[0], leveled(*args)[1] * 1.2))
        with pytest.raises(DiagnosticError) as caught:
            export(model, tmp_path / "out", programs=["generate"], quantize=["int8"])
        assert caught.value.diagnostics[0].code == "VG0804" and "allowed are 1e-01" in caught.value.diagnostics[0].message


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("qwen2-vl", {"llm.heads": 3, "llm.kv_heads": 1, "llm.position.sections": [4, 2, 2]}),
        ("llava-1.5", {}),
        ("paligemma", {}),
        ("cogvlm", {}),
        ("llama-3.2-vision", {}),
    ],
)
def test_specs(name: str, changes: dict[str, Any], tmp_path: Path) -> None:
    """Rotation by rows of their own, prefixes, experts and media: fused where it fits, right everywhere."""
    from vlmgraph.lower.example import example_inputs
    from vlmgraph.processor.model import model_processor

    model, processor = tiny(name)
    if changes:
        model = enliven(vlmgraph.compile(vlmgraph.read_spec(name, size="tiny", overrides=changes)))
        processor = model_processor(model.spec, model.graph)
    report = export(model, tmp_path / "out", programs=["generate"], optimize=True)
    assert max(r.error for r in report.rows) < LIMIT
    given = {k: np.ascontiguousarray(v) for k, v in example_inputs(model.programs["generate"].source, processor, "generate").items()}
    wanted = model.generate(**{k: torch.from_numpy(v) for k, v in given.items()}, max_new_tokens=6)
    assert Exported(tmp_path / "out").generate(**given, max_new_tokens=6).tolist() == wanted.tolist()
    if changes:
        assert entry(tmp_path / "out")["fused"]["rotation inside"] == 2
