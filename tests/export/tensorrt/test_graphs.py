"""Exported graphs made ready for TensorRT: covered by the parser's list, the same values, and calls that can happen at every profile."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

import vlmgraph
from tests.export.tensorrt.recorded import Api
from tests.levels.models import SPECS, tiny
from vlmgraph.diagnostics import DiagnosticError
from vlmgraph.export.onnx import writer
from vlmgraph.export.tensorrt import Limits, Report, export
from vlmgraph.export.tensorrt import missing as needs
from vlmgraph.export.tensorrt.agree import disagreements
from vlmgraph.export.tensorrt.build import build
from vlmgraph.export.tensorrt.operators import gaps, published
from vlmgraph.export.tensorrt.prepare import conform
from vlmgraph.ir.roles import Choice

LIMITS = Limits(batch=(1, 2, 3), text=(1, 4, 9))


@pytest.fixture(scope="module")
def llava(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Report]:
    """In float16, but for the head."""
    folder = tmp_path_factory.mktemp("llava") / "trt"
    kinds = {"encoder": "float16", "connector": "float16", "decoder": "float16"}
    model = vlmgraph.compile(vlmgraph.read_spec("llava-1.5", size="tiny", overrides={"llm.layers": 1, "vision.layers": 2}))
    return folder, export(model, folder, plan_only=True, limits=LIMITS, precision=kinds, programs=["generate"])


def plan_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "plan.json").read_text())
    return found


def made(shapes: dict[str, Any], point: str, graph: dict[str, Any]) -> dict[str, np.ndarray]:
    """Values of the shapes of a profile."""
    random = np.random.default_rng(0)
    kinds = {i["name"]: i["dtype"] for i in graph["inputs"]}
    found = {}
    for name, rows in shapes.items():
        kind = kinds[name]
        if kind == "bool":
            found[name] = np.ones(rows[point], dtype=bool)
        elif kind == "int64":
            found[name] = random.integers(0, 2, rows[point])
        else:
            found[name] = random.standard_normal(rows[point]).astype(kind)
    return found


def session(path: Path) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def calls(folder: Path) -> Iterator[tuple[str, dict[str, Any], dict[str, np.ndarray]]]:
    plan = plan_of(folder)
    for name, graph in plan["graphs"].items():
        for profile in graph["profiles"]:
            for point in ("min", "opt", "max"):
                yield name, graph, made(profile["inputs"], point, graph)


def test_the_folder(llava: tuple[Path, Report]) -> None:
    names = {p.name for p in llava[0].iterdir()}
    assert {"plan.json", "trtexec.sh", "build_engines.py", "onnx", "decoder_model_merged.onnx", "merge.onnx"} <= names
    script = (llava[0] / "trtexec.sh").read_text()
    assert all(graph["trtexec"] in script for graph in plan_of(llava[0])["graphs"].values())


def test_every_profile_is_a_call_that_can_happen_and_the_values_are_those_of_the_proved_graph(llava: tuple[Path, Report]) -> None:
    """At the smallest, usual and largest shapes; half precision has 11 bits; what products of a few layers add up is below 1 %."""
    seen = 0
    for name, _, given in calls(llava[0]):
        ready, proved = session(llava[0] / f"{name}.onnx"), session(llava[0] / "onnx" / f"{name}.onnx")
        ours = ready.run(None, given)
        theirs = proved.run(None, {k: v.astype(np.float32) if v.dtype == np.float16 else v for k, v in given.items()})
        assert [o.name for o in ready.get_outputs()] == [o.name for o in proved.get_outputs()]
        for a, b in zip(ours, theirs):
            assert a.shape == b.shape
            wide, near = np.asarray(b, np.float64), np.asarray(a, np.float64)
            assert np.linalg.norm(near - wide) <= 1e-2 * max(np.linalg.norm(wide), 1e-6)
        seen += 1
    assert seen == 3 * 6


def test_precision_follows_the_role(llava: tuple[Path, Report]) -> None:
    """Products are half where their role is, the head's is not; keys and values are kept as the decoder computes."""
    decoder = ir.load(llava[0] / "decoder_model_merged.onnx")
    kinds = {}
    for node in decoder.graph:
        if node.op_type == "MatMul":
            kinds.setdefault(node.inputs[0].dtype, []).append(node.metadata_props["pkg.torch.onnx.name_scopes"])  # type: ignore[union-attr]
    assert set(kinds) == {ir.DataType.FLOAT16, ir.DataType.FLOAT}
    assert all("module.head" in scopes for scopes in kinds[ir.DataType.FLOAT])
    assert all("module.llm" in scopes for scopes in kinds[ir.DataType.FLOAT16])
    held = {v.name: v.dtype for v in (*decoder.graph.inputs, *decoder.graph.outputs)}
    assert held["past_key_values.0.key"] == held["present.0.value"] == ir.DataType.FLOAT16
    assert held["inputs_embeds"] == held["logits"] == ir.DataType.FLOAT
    roles = plan_of(llava[0])["graphs"]["decoder_model_merged"]["roles"]
    assert roles == {"decoder": "float16", "head": "float32"}


def test_the_builder_takes_the_graphs_and_the_plan(llava: tuple[Path, Report]) -> None:
    """Every open dim has a shape that fits, and the mask of a step does not share a name with its new tokens."""
    api = Api()
    built = build(llava[0], trt=api)
    assert [p.name for p in built] == [f"{name}.engine" for name in plan_of(llava[0])["graphs"]]
    decoder = next(n for n, _ in api.built if any(t.name.startswith("past_key_values") for t in n.inputs))
    mask = next(t for t in decoder.inputs if t.name == "attention_mask")
    assert mask.dims == ("B", "total")
    for path in built:
        path.unlink()


def test_a_plan_of_other_graphs_is_found(llava: tuple[Path, Report]) -> None:
    manifest = json.loads((llava[0] / "onnx" / "manifest.json").read_text())
    assert not disagreements(llava[1].plan, manifest)
    manifest["graphs"]["merge"]["inputs"][0]["dims"][1] = 10
    [found] = disagreements(llava[1].plan, manifest)
    assert "merge: projector has the dims ['N', 10, 48]; the plan has ['N', 9, 48]" in found.message


def test_what_the_list_lacks_is_computed_by_other_nodes(llava: tuple[Path, Report]) -> None:
    """The proved graph counts tokens in int64, which the list has not for CumSum and Clip."""
    before = gaps(ir.load(llava[0] / "onnx" / "merge.onnx"))
    assert ("CumSum", "not for int64") in {(g.op, g.why) for g in before}
    assert not any(llava[1].operators["not_covered"].values())


def test_the_list() -> None:
    known = published()
    assert known["version"] == "10.0"
    assert len(known["operators"]) == 150
    assert len(known["refused"]) == 46
    assert not set(known["operators"]) & (set(known["refused"]) | set(known["later"]))
    assert known["operators"]["CumSum"] == ["float32", "float16", "bfloat16"]


def graph_with(
    op: str, dtype: ir.DataType = ir.DataType.FLOAT, domain: str = "", inputs: int = 1, opset: int = 20, **attributes: Any
) -> ir.Model:
    values = [ir.Value(name=f"x{i}", type=ir.TensorType(dtype), shape=ir.Shape([2, 3])) for i in range(inputs)]
    node = ir.node(op, values, attributes=attributes, domain=domain)
    node.outputs[0].name, node.outputs[0].dtype = "y", dtype
    return ir.Model(ir.Graph(values, node.outputs, nodes=[node], opset_imports={"": opset}), ir_version=10)


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (graph_with("Abs"), None),
        (graph_with("Unique"), "not in the list"),
        (graph_with("Attention"), "only since TensorRT 10.15"),
        (graph_with("GroupQueryAttention", domain="com.microsoft"), "domain com.microsoft is not of ONNX itself"),
        (graph_with("Sin", ir.DataType.INT64), "not for int64"),
        (graph_with("CumSum", inputs=2), "input 1 is computed, where the builder needs a constant"),
        (graph_with("Abs", opset=21), "opset 21 is not within 9 to 20"),
        (graph_with("Resize", mode="cubic"), "mode cubic"),
        (
            graph_with("Resize", mode="linear", coordinate_transformation_mode="half_pixel_symmetric"),
            "coordinate_transformation_mode half_pixel_symmetric",
        ),
        (graph_with("Resize", mode="linear", antialias=1), "antialias 1"),
        (graph_with("Resize", mode="linear", coordinate_transformation_mode="half_pixel"), None),
        (graph_with("MaxPool", dilations=[1, 2]), "dilations beside 1"),
        (graph_with("GridSample"), "input of rank 2"),
        (graph_with("ScatterND", reduction="add"), "reduction add"),
    ],
)
def test_what_is_not_covered(model: ir.Model, said: str | None) -> None:
    assert [g.why for g in gaps(model)] == ([said] if said else [])


@pytest.mark.parametrize(
    ("op", "dtype"),
    [
        ("CumSum", ir.DataType.INT64),
        ("Clip", ir.DataType.INT64),
        ("ReduceMax", ir.DataType.BOOL),
        ("Equal", ir.DataType.BOOL),
        ("Pad", ir.DataType.BOOL),
        ("Pow", ir.DataType.INT64),
    ],
)
def test_other_nodes_give_the_same_values(op: str, dtype: ir.DataType, tmp_path: Path) -> None:
    rows = np.array([[5, -3, 7], [0, 9, -2]])
    constants = {"CumSum": [np.array(1)], "Clip": [np.array(-1), np.array(6)], "ReduceMax": [np.array([1])], "Equal": [rows > 0]}
    constants["Pad"] = [np.array([0, 1, 0, 1]), np.array(True)]
    constants["Pow"] = [np.array(3)]
    extra = constants[op]
    x = ir.Value(name="x", type=ir.TensorType(dtype), shape=ir.Shape(["B", 3]))
    tensors = [ir.tensor(c, name=f"c{i}") for i, c in enumerate(extra)]
    held = [ir.Value(name=t.name, const_value=t, type=ir.TensorType(t.dtype), shape=t.shape) for t in tensors]
    node = ir.node(op, [x, *held], name="n")
    node.outputs[0].name, node.outputs[0].dtype = "y", dtype
    model = ir.Model(ir.Graph([x], node.outputs, nodes=[node], initializers=held, opset_imports={"": 20}), ir_version=10)
    given = {"x": rows > 4 if dtype == ir.DataType.BOOL else rows}
    results = []
    for step in (lambda m: None, conform):
        step(model)
        ir.save(model, tmp_path / "m.onnx")
        results.append(session(tmp_path / "m.onnx").run(["y"], given)[0])
    assert not gaps(model)
    assert results[0].dtype == results[1].dtype
    assert np.array_equal(*results)


@pytest.mark.parametrize(
    ("precision", "said"), [({"eyes": "float16"}, "no role 'eyes'"), (["float16", "decoder=int3"], "decoder=int3: there is no type 'int3'")]
)
def test_precision_that_cannot_be_meant(precision: Choice, said: str, tmp_path: Path) -> None:
    with pytest.raises(DiagnosticError, match=said):
        export(tiny("clip")[0], tmp_path, plan_only=True, precision=precision)


def test_engines_cannot_be_built_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(needs, "missing", lambda: ["no NVIDIA driver", "no tensorrt"])
    with pytest.raises(DiagnosticError, match="cannot be built here: no NVIDIA driver"):
        export(tiny("clip")[0], tmp_path / "out")
    assert not (tmp_path / "out").exists()


DOUBLE = {"Cast", "Div", "Min", "Mul"}
UNCOVERED = {"llava-next": DOUBLE, "minimax-vl-01": DOUBLE}
"""Operators of a spec's graphs that the parser's list does not cover. The best canvas of a picture is worked out in float64, as it is
published: in float32 another one may come out, and other tokens than the processor counts."""
REFUSED: dict[str, set[str]] = {}
"""Programs of a spec that the target `onnx` refuses: they have no graph."""


@pytest.mark.slow
@pytest.mark.parametrize("name", SPECS)
def test_every_exported_graph_is_covered(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Plan and graphs have the same files, inputs, types and open dims (else the export refuses); what is left out stands in the lists.

    That a graph computes what eager does is held by the tests of the target `onnx`, and not again.
    """
    monkeypatch.setattr(writer, "verify", lambda *_: [])
    report = export(tiny(name)[0], tmp_path, plan_only=True, limits=LIMITS)
    assert set(report.refused) == REFUSED.get(name, set()), {k: d.message for k, d in report.refused.items()}
    left = {g["op"] for found in report.operators["not_covered"].values() for g in found}
    assert left == UNCOVERED.get(name, set())
    assert set(report.operators["not_covered"]) == set(report.plan.graphs) == {p.stem for p in tmp_path.glob("*.onnx")}
