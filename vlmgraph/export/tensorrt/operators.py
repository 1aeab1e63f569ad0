"""Which nodes of a graph the ONNX parser of TensorRT takes, by the list that its authors publish (`operators.toml`)."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

if TYPE_CHECKING:
    import onnx_ir as ir

DATA_INPUT = {"Where": 1, "OneHot": 2}
"""The input whose type the list speaks of, where it is not the first."""
BY_OUTPUT = ("Constant", "ConstantOfShape", "RandomNormal", "RandomUniform")
UNTYPED = ("If", "Loop", "Scan")
CONSTANT_INPUTS = {
    "CumSum": (1,), "Pad": (3,), "OneHot": (1,), "TopK": (1,), "Unsqueeze": (1,), "Squeeze": (1,), "Slice": (3,),
    **{f"Reduce{r}": (1,) for r in ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare")},
}  # fmt: skip
"""Inputs that have to be known when the engine is built."""
FIRST_OUTPUT_ONLY = ("LayerNormalization", "MaxPool")


@dataclass(frozen=True)
class Gap:
    """Nodes of one kind that the list does not have."""

    op: str
    why: str
    nodes: int

    def json(self) -> dict[str, Any]:
        return asdict(self)


@cache
def published() -> dict[str, Any]:
    return tomllib.loads((Path(__file__).parent / "operators.toml").read_text(encoding="utf-8"))


def gaps(model: ir.Model) -> list[Gap]:
    """What stands in the way, the same reason once; empty where the list covers the graph."""
    found = Counter((node.op_type, why) for node in nodes_of(model) for why in faults(node))
    low, high = published()["opset"]
    opset = model.opset_imports.get("", high)
    outside = [] if low <= opset <= high else [Gap("", f"opset {opset} is not within {low} to {high}", 0)]
    return outside + [Gap(op, why, count) for (op, why), count in sorted(found.items())]


def nodes_of(model: ir.Model) -> Iterator[ir.Node]:
    """All nodes, those of branches and loops too."""
    import onnx_ir as ir

    yield from ir.traversal.RecursiveGraphIterator(model.graph)
    for function in model.functions.values():
        yield from ir.traversal.RecursiveGraphIterator(function)


def faults(node: ir.Node) -> Iterator[str]:
    """Why the list does not cover a node."""
    if node.domain not in ("", "ai.onnx"):
        yield f"domain {node.domain} is not of ONNX itself"
        return
    known = published()["operators"].get(node.op_type)
    if known is None:
        later = node.op_type in published()["later"]
        yield f"only since TensorRT {published()['later_version']}" if later else "not in the list"
        return
    dtype = data_type(node)
    if dtype is not None and node.op_type not in UNTYPED and dtype not in known:
        yield f"not for {dtype}"
    for index in CONSTANT_INPUTS.get(node.op_type, ()):
        given = node.inputs[index] if len(node.inputs) > index else None
        if given is not None and not constant(given):
            yield f"input {index} is computed, where the builder needs a constant"
    if node.op_type in FIRST_OUTPUT_ONLY and sum(bool(o.uses()) or o.is_graph_output() for o in node.outputs) > 1:
        yield "more than its first output is read"
    yield from (f"{name} {text}" for name, text in restricted(node))


RESIZES = {
    "coordinate_transformation_mode": ("half_pixel", "pytorch_half_pixel", "tf_half_pixel_for_nn", "asymmetric", "align_corners"),
    "mode": ("nearest", "linear"), "nearest_mode": ("floor", "ceil", "round_prefer_floor", "round_prefer_ceil"),
    "keep_aspect_ratio_policy": ("stretch",),
}  # fmt: skip
MOST_CHOSEN = 3839


def restricted(node: ir.Node) -> Iterator[tuple[str, str]]:
    """What the list takes of an operator only in some forms: an attribute or input, and the form in which it stands here."""
    if node.op_type == "ScatterND" and text_attribute(node, "reduction") not in ("", "none"):
        yield "reduction", text_attribute(node, "reduction")
    if node.op_type == "Resize":
        yield from ((name, found) for name, known in RESIZES.items() if (found := text_attribute(node, name)) and found not in known)
        if number_attribute(node, "antialias", 0):
            yield "antialias", "1"
    if node.op_type == "TopK":
        if not number_attribute(node, "sorted", 1):
            yield "sorted", "0"
        count = node.inputs[1].const_value if node.inputs[1] is not None else None
        if count is not None and int(count.numpy().max()) > MOST_CHOSEN:
            yield "K", f"over {MOST_CHOSEN}"
    first = node.inputs[0] if node.inputs else None
    shape = None if first is None else first.shape
    if node.op_type == "EyeLike" and (shape is None or not shape.is_static()):
        yield "input", "of open dims"
    if node.op_type == "GridSample" and shape is not None and len(shape) != 4:
        yield "input", f"of rank {len(shape)}"
    if node.op_type in ("AveragePool", "MaxPool", "LpPool"):
        dilations = node.attributes.get("dilations")
        if dilations is not None and any(d != 1 for d in dilations.as_ints()):
            yield "dilations", "beside 1"


def constant(value: ir.Value) -> bool:
    if value.const_value is not None:
        return True
    maker = value.producer()
    return maker is not None and maker.op_type == "Constant"


def data_type(node: ir.Node) -> str | None:
    """The element type that the list speaks of."""
    index = DATA_INPUT.get(node.op_type, 0)
    by_output = node.op_type in BY_OUTPUT or len(node.inputs) <= index
    value = node.outputs[0] if by_output else node.inputs[index]
    dtype = value.dtype if value is not None else None
    return NAMES.get(dtype.name, dtype.name.lower()) if dtype is not None else None


NAMES = {"FLOAT": "float32", "DOUBLE": "float64"}


def number_attribute(node: ir.Node, name: str, default: int) -> int:
    found = node.attributes.get(name)
    return default if found is None else found.as_int()


def text_attribute(node: ir.Node, name: str) -> str:
    found = node.attributes.get(name)
    return found.as_string() if found is not None else ""
