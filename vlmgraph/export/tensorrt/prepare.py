"""A proved ONNX graph made ready for the parser of TensorRT: other nodes where its list lacks a type, and the precision of each role.

TensorRT takes dims of one name as equal and checks it when the engine runs; those of the graph had one size at every sample of its proof.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import onnx_ir as ir

from .operators import data_type

PRODUCTS = ("MatMul", "Gemm", "Conv", "ConvTranspose", "Einsum")
"""What runs in the precision of its role. All else, sums and exponentials above all, stays as it is."""
LOW = {"float16": ir.DataType.FLOAT16, "bfloat16": ir.DataType.BFLOAT16}
FLOAT = ir.DataType.FLOAT
PASTS, PRESENTS = "past_key_values.", "present."


def prepare(source: Path, target: Path, precision: Mapping[str, str], role_of: Callable[[str], str]) -> ir.Model:
    """Read a graph, rewrite it, and write it into another folder, where it refers to the weights of the first.

    `precision` is the type of products by role, `role_of` gives the role of a component.
    """
    model = ir.load(source)
    conform(model)
    lower(model, precision, role_of)
    model.graph.sort()
    relocate(model, source.parent, target.parent)
    target.parent.mkdir(parents=True, exist_ok=True)
    ir.save(model, target)
    return model


def conform(model: ir.Model) -> None:
    """The same values by nodes that the list has."""
    for node in list(model.graph):
        kind = data_type(node)
        if node.op_type == "CumSum" and kind in ("int32", "int64"):
            through(node, FLOAT)  # counts of tokens, exact up to 2^24
        elif node.op_type == "NonZero" and kind not in ("float32", "float16"):
            cast_input(node, 0, FLOAT)
        elif node.op_type in ("ReduceMax", "ReduceMin") and kind == "bool":
            through(node, ir.DataType.INT32)
        elif node.op_type == "Clip" and kind in ("int32", "int64"):
            clipped(model, node)
        elif node.op_type == "Pad" and kind == "bool":
            if len(node.inputs) > 2 and node.inputs[2] is not None:
                cast_input(node, 2, ir.DataType.INT32)
            through(node, ir.DataType.INT32)
        elif node.op_type == "Equal" and kind == "bool":
            same(node)
        elif node.op_type == "Pow" and kind in ("int32", "int64"):
            powered(node)


def through(node: ir.Node, dtype: ir.DataType) -> None:
    """The node computes in `dtype`; what enters and leaves keeps its type."""
    own = node.inputs[0].dtype  # type: ignore[union-attr]
    assert own is not None
    cast_input(node, 0, dtype)
    cast_output(node, dtype, own)


def cast_input(node: ir.Node, index: int, dtype: ir.DataType) -> None:
    value = node.inputs[index]
    made = ir.node("Cast", [value], attributes={"to": dtype.value}, name=f"{node.name}_in{index}_{dtype.name.lower()}")
    made.outputs[0].name, made.outputs[0].dtype = f"{node.name}.in{index}.{dtype.name.lower()}", dtype
    made.outputs[0].shape = value.shape if value is not None else None
    graph_of(node).insert_before(node, made)
    node.replace_input_with(index, made.outputs[0])


def cast_output(node: ir.Node, dtype: ir.DataType, back: ir.DataType) -> None:
    """What reads the output of a node that now gives `dtype` reads it as `back`, under its old name."""
    old = node.outputs[0]
    made = ir.node("Cast", [old], attributes={"to": back.value}, name=f"{node.name}_out_{back.name.lower()}")
    new = made.outputs[0]
    new.dtype, new.shape, new.name = back, old.shape, old.name
    old.dtype, old.name = dtype, f"{old.name}.{dtype.name.lower()}"
    graph = graph_of(node)
    graph.insert_after(node, made)
    readers = [(user, index) for user, index in old.uses() if user is not made]
    for user, index in readers:
        user.replace_input_with(index, new)
    replace_outputs(graph, old, new)


def replace_outputs(graph: Any, old: ir.Value, new: ir.Value) -> None:
    for i, value in enumerate(graph.outputs):
        if value is old:
            graph.outputs[i] = new


def graph_of(node: ir.Node) -> Any:
    assert node.graph is not None
    return node.graph


def same(node: ir.Node) -> None:
    """Equality of truth values as what is not one of both alone."""
    out = node.outputs[0]
    apart = ir.node("Xor", list(node.inputs), name=f"{node.name}_xor")
    apart.outputs[0].dtype, apart.outputs[0].shape, apart.outputs[0].name = ir.DataType.BOOL, out.shape, f"{out.name}.apart"
    graph_of(node).insert_before(node, apart)
    taken_over(node, ir.node("Not", [apart.outputs[0]], name=f"{node.name}_not"))


def powered(node: ir.Node) -> None:
    """A power of whole numbers as products, where its exponent is a known one of 2 to 4."""
    value, exponent = node.inputs
    known = exponent.const_value if exponent is not None else None
    if value is None or known is None or known.size != 1 or len(known.shape) > len(value.shape or ()):
        return
    count = known.numpy().item()
    if count not in (2, 3, 4):
        return
    made = ir.node("Mul", [value, value], name=f"{node.name}_2")
    for further in range(3, int(count) + 1):
        made.outputs[0].type, made.outputs[0].shape, made.outputs[0].name = value.type, value.shape, f"{node.outputs[0].name}.{further - 1}"
        graph_of(node).insert_before(node, made)
        made = ir.node("Mul", [made.outputs[0], value], name=f"{node.name}_{further}")
    taken_over(node, made)


def taken_over(node: ir.Node, other: ir.Node) -> None:
    """`other` in the place of `node`, its output under the old name."""
    graph, out, new = graph_of(node), node.outputs[0], other.outputs[0]
    new.type, new.shape = out.type, out.shape
    graph.insert_before(node, other)
    for user, index in list(out.uses()):
        user.replace_input_with(index, new)
    replace_outputs(graph, out, new)
    graph.remove(node)
    new.name = out.name


def clipped(model: ir.Model, node: ir.Node) -> None:
    """Clip as the larger of one bound and the smaller of the other."""
    low, high = (node.inputs[i] if len(node.inputs) > i else None for i in (1, 2))
    graph, value, out = graph_of(node), node.inputs[0], node.outputs[0]
    for op, bound in (("Max", low), ("Min", high)):
        if bound is None:
            continue
        made = ir.node(op, [value, bound], name=f"{node.name}_{op.lower()}")
        made.outputs[0].type, made.outputs[0].shape, made.outputs[0].name = out.type, out.shape, f"{out.name}.{op.lower()}"
        graph.insert_before(node, made)
        value = made.outputs[0]
    assert value is not None
    name = out.name
    for user, index in list(out.uses()):
        user.replace_input_with(index, value)
    if any(v is out for v in graph.outputs):
        replace_outputs(graph, out, value)
        out.name, value.name = None, name
    graph.remove(node)


def lower(model: ir.Model, precision: Mapping[str, str], role_of: Callable[[str], str]) -> None:
    """Products in the type of their role; keys and values are kept in the decoder's."""
    for node in list(model.graph):
        dtype = LOW.get(precision.get(role_of(component(node)), ""))
        if dtype is None or node.op_type not in PRODUCTS or node.outputs[0].dtype != FLOAT:
            continue
        for index, value in enumerate(node.inputs):
            if value is not None and value.dtype == FLOAT:
                cast_input(node, index, dtype)
        cast_output(node, dtype, FLOAT)
    kept = LOW.get(precision.get("decoder", ""))
    if kept is not None:
        lower_cache(model, kept)


def lower_cache(model: ir.Model, dtype: ir.DataType) -> None:
    graph = model.graph
    for value in graph.inputs:
        if (value.name or "").startswith(PASTS) and value.dtype == FLOAT:
            made = ir.node("Cast", [value], attributes={"to": FLOAT.value}, name=f"{value.name}_float")
            made.outputs[0].name, made.outputs[0].dtype, made.outputs[0].shape = f"{value.name}.float", FLOAT, value.shape
            for user, index in [(u, i) for u, i in value.uses() if u is not made]:
                user.replace_input_with(index, made.outputs[0])
            value.dtype = dtype
            graph.insert_before(graph[0], made)
    for i, value in enumerate(graph.outputs):
        if (value.name or "").startswith(PRESENTS) and value.dtype == FLOAT:
            made = ir.node("Cast", [value], attributes={"to": dtype.value}, name=f"{value.name}_{dtype.name.lower()}")
            new = made.outputs[0]
            new.name, new.dtype, new.shape = value.name, dtype, value.shape
            value.name = f"{value.name}.float"
            graph.append(made)
            graph.outputs[i] = new


def component(node: ir.Node) -> str:
    """The path of the module that a node comes from, as the exporter noted it."""
    scopes = node.metadata_props.get("pkg.torch.onnx.name_scopes", "")
    paths = [part.strip(" '\"[]") for part in scopes.split(",")]
    return max((p.removeprefix("module.") for p in paths if p.startswith("module.")), key=len, default="")


def relocate(model: ir.Model, source: Path, target: Path) -> None:
    """External weights by their path from the new place."""
    import os

    for value in model.graph.initializers.values():
        tensor = value.const_value
        if isinstance(tensor, ir.ExternalTensor):
            place = os.path.relpath(source / tensor.location, target)
            value.const_value = ir.ExternalTensor(
                place, tensor.offset, tensor.length, tensor.dtype, shape=tensor.shape, name=value.name or "", base_dir=target
            )
