"""RMSNorm and sums in front of norms: SimplifiedLayerNormalization, SkipSimplifiedLayerNormalization, SkipLayerNormalization."""

from __future__ import annotations

import onnx_ir as ir

from .edit import MICROSOFT, Edit, attribute, by, is_weight, number, operands, shapes, whole


def norms(edit: Edit) -> None:
    """w * (x * 1 / sqrt(mean(x^2) + eps)) as one node."""
    for node in list(edit.graph):
        if node.op_type != "Mul" or node.domain:
            continue
        found = rms(node)
        if found is None:
            continue
        x, weight, epsilon = found
        out = edit.one(node, "SimplifiedLayerNormalization", x, weight, axis=-1, epsilon=epsilon, stash_type=1)
        edit.replace(node.outputs[0], out)
        edit.done["SimplifiedLayerNormalization"] += 1
    edit.clean()


def rms(node: ir.Node) -> tuple[ir.Value, ir.Value, float] | None:
    """The input, the weight [d] and epsilon of the norm that ends in this product."""
    for weight, normed in operands(node):
        inner = by(normed, "Mul")
        if inner is None or not is_weight(weight) or weight.shape is None or len(weight.shape) != 1:
            continue
        for x, factor in operands(inner):
            epsilon = variance(x, factor)
            if epsilon is not None:
                return x, weight, epsilon
    return None


def variance(x: ir.Value, factor: ir.Value) -> float | None:
    """Epsilon, where the factor is 1 / sqrt(mean(x^2) + epsilon) over the last axis."""
    over = by(factor, "Reciprocal")
    root = by(over.inputs[0], "Sqrt") if over is not None else None
    shifted = by(root.inputs[0], "Add") if root is not None else None
    for mean, small in operands(shifted) if shifted is not None else ():
        averaged = by(mean, "ReduceMean")
        epsilon = number(small)
        if averaged is None or epsilon is None or attribute(averaged, "keepdims", 1) != 1:
            continue
        if whole(averaged.inputs[1]) not in ([-1], [len(x.shape or ()) - 1]):
            continue
        square = by(averaged.inputs[0], "Pow", "Mul")
        if square is None or square.inputs[0] is not x:
            continue
        if (square.op_type == "Pow" and number(square.inputs[1]) == 2) or square.inputs[1] is x:
            return epsilon
    return None


def skips(edit: Edit) -> None:
    """A sum of two streams and the norm of it as one node, which gives the sum too."""
    for node in list(edit.graph):
        layer = node.op_type == "LayerNormalization"
        if not (layer or node.op_type == "SimplifiedLayerNormalization") or attribute(node, "axis", -1) not in (-1, 2):
            continue
        if any(v.uses() or v.is_graph_output() for v in node.outputs[1:]):
            continue
        total = by(node.inputs[0], "Add")
        if total is None or not alike(*total.inputs) or not all(is_weight(v) for v in node.inputs[1:] if v is not None):
            continue
        op = "SkipLayerNormalization" if layer else "SkipSimplifiedLayerNormalization"
        out, _, _, added = edit.add(
            node, op, [*total.inputs, *node.inputs[1:]], 4, MICROSOFT, epsilon=attribute(node, "epsilon", 1e-5)
        )  # fmt: skip
        edit.replace(node.outputs[0], out)
        edit.replace(total.outputs[0], added)
        edit.done[op] += 1
    edit.clean()


def alike(one: ir.Value | None, other: ir.Value | None) -> bool:
    """Whether two values are streams of tokens [B, N, d] of one size: neither is spread over the other."""
    if one is None or other is None or is_weight(one) or is_weight(other):
        return False
    a, b = shapes(one), shapes(other)
    if a is None or b is None or len(a) != 3 or len(b) != 3 or a[2] != b[2]:
        return False
    return all(x == y or not (isinstance(x, int) or isinstance(y, int)) for x, y in zip(a, b))
