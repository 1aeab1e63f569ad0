"""Weights of products as integers: MatMul by MatMulNBits, the rows of an embedding that a head shares by GatherBlockQuantized."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir

from .blocks import Blocks, quantized
from .edit import MICROSOFT, Edit, by, dim, is_weight, number, operands, shapes, user

ACCURACY = 4
"""Inputs of products may be 8-bit integers inside, as onnxruntime-genai asks for."""


@dataclass(frozen=True)
class Kind:
    """How weights are held: `bits` 8 or 4, a scale for each `block` inputs."""

    bits: int
    block: int = 32

    def __str__(self) -> str:
        return f"int{self.bits}:{self.block}"


@dataclass
class Held:
    """What was quantized of a role in a graph, and the worst relative error of a weight."""

    kind: str
    weights: int = 0
    before: int = 0
    after: int = 0
    error: float = 0.0

    def add(self, made: Blocks, before: int) -> None:
        self.weights += 1
        self.before += before
        self.after += made.data.nbytes + made.scales.nbytes
        self.error = max(self.error, made.error)

    def json(self) -> dict[str, Any]:
        return {"type": self.kind, "weights": self.weights, "bytes": self.after, "bytes_before": self.before, "error": self.error}


@dataclass(frozen=True)
class Plan:
    """The kind for each role, and the role of a node by the component that it stands in."""

    kinds: Mapping[str, Kind]
    role_of: Callable[[str], str]

    def role(self, node: ir.Node) -> str:
        return self.role_of(place(node))


def place(node: ir.Node) -> str:
    """The path of the module that a node was traced in, as the exporter noted it."""
    scopes = str(node.metadata_props.get("pkg.torch.onnx.name_scopes", ""))
    paths = [part.strip(" '\"[]") for part in scopes.split(",")]
    return max((p.removeprefix("module.") for p in paths if p.startswith("module.")), key=len, default="")


def quantize(model: ir.Model, plan: Plan) -> dict[str, Held]:
    """Rewrite a graph in place; what was quantized, by role."""
    edit = Edit(model)
    held: dict[str, Held] = {}
    for node in list(edit.graph):
        role = plan.role(node)
        kind = plan.kinds.get(role)
        if kind is None or not candidate(node):
            continue
        made = product(edit, node, kind) if node.op_type == "MatMul" else lookup(edit, node, kind)
        if made is not None:
            blocks, before = made
            held.setdefault(role, Held(str(kind))).add(blocks, before)
    edit.clean()
    return held


def candidate(node: ir.Node) -> bool:
    """Whether a node is a product with a weight or a lookup in one."""
    weight = {"MatMul": 1, "Gather": 0}.get(node.op_type)
    return weight is not None and not node.domain and is_weight(node.inputs[weight])


def product(edit: Edit, node: ir.Node, kind: Kind) -> tuple[Blocks, int] | None:
    """x [.., K] weight [K, N] by MatMulNBits. Weights of fewer inputs than half a block stay as they are."""
    x, weight = node.inputs
    if x is None or not is_weight(weight) or weight is None or len(weight.shape or ()) != 2 or weight.dtype not in FLOATS:
        return None
    width, rows = dim(weight, 0), dim(weight, 1)
    if 2 * width < kind.block:
        return None
    tensor: Any = weight.const_value
    made = quantized(tensor.numpy().T, kind.bits, kind.block)
    data, scales = edit.weight(ir.tensor(made.data)), edit.weight(ir.tensor(made.scales))
    last, bias = shifted(node, rows)
    out = edit.one(
        last, "MatMulNBits", x, data, scales, *([None, None, bias] if bias is not None else []), domain=MICROSOFT,
        K=width, N=rows, bits=kind.bits, block_size=kind.block, accuracy_level=ACCURACY,
    )  # fmt: skip
    edit.replace(last.outputs[0], out)
    return made, tensor.nbytes


def shifted(node: ir.Node, rows: int) -> tuple[ir.Node, ir.Value | None]:
    """The sum behind a product and its bias [N], or the product and None."""
    total = user(node.outputs[0], "Add")
    for product, bias in operands(total) if total is not None else ():
        if total is not None and product is node.outputs[0] and is_weight(bias) and shapes(bias) == [rows]:
            return total, bias
    return node, None


def lookup(edit: Edit, node: ir.Node, kind: Kind) -> tuple[Blocks, int] | None:
    """Rows of a weight [V, d] by GatherBlockQuantized: the bytes are those of a product with it, so a tied head shares them."""
    weight, ids = node.inputs
    if weight is None or not is_weight(weight) or len(weight.shape or ()) != 2 or weight.dtype not in FLOATS:
        return None
    axis = node.attributes.get("axis")
    if dim(weight, 1) % kind.block or (axis is not None and axis.value != 0) or number(ids) is not None or by(ids, "Constant"):
        return None
    tensor: Any = weight.const_value
    made = quantized(tensor.numpy(), kind.bits, kind.block)
    data = edit.weight(ir.tensor(made.data.reshape(len(made.data), -1)))
    out = edit.one(
        node, "GatherBlockQuantized", data, ids, edit.weight(ir.tensor(made.scales)), domain=MICROSOFT,
        bits=kind.bits, block_size=kind.block, gather_axis=0, quantize_axis=1,
    )  # fmt: skip
    edit.replace(node.outputs[0], out)
    return made, tensor.nbytes


FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16)
