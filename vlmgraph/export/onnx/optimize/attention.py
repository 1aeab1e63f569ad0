"""softmax(q k^T) v, found again around each Softmax."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from .edit import attribute, by, number, numbers, operands, user, whole


@dataclass(frozen=True)
class Attention:
    """q [B, heads, N, head_dim], k and v [B, kv_heads, K, head_dim] → out [B, N, heads * head_dim], heads side by side.

    `mask` is boolean, True = may attend, `bias` additive, or both None; each broadcasts to the scores. `groups` heads share keys.
    """

    q: ir.Value
    k: ir.Value
    v: ir.Value
    mask: ir.Value | None
    forbidden: ir.Value | None
    """The mask as it stands in the graph where nothing there is its opposite: True = may not."""
    bias: ir.Value | None
    scale: float
    cap: float
    groups: int
    out: ir.Value
    last: ir.Node


def attention(softmax: ir.Node) -> Attention | None:
    """The attention that a Softmax stands in, where all that is between is read by nothing else."""
    if attribute(softmax, "axis", -1) not in (-1, 3) or softmax.inputs[0] is None:
        return None
    product = user(softmax.outputs[0], "MatMul")
    heads = user(product.outputs[0], "Transpose") if product is not None else None
    last = user(heads.outputs[0], "Reshape") if heads is not None else None
    if product is None or heads is None or last is None or list(attribute(heads, "perm")) != [0, 2, 1, 3]:
        return None
    if product.inputs[0] is not softmax.outputs[0] or len(last.outputs[0].shape or ()) != 3:
        return None
    scores, mask, forbidden, bias = unmasked(softmax.inputs[0])
    scores, cap = uncapped(scores)
    scores, scale = unscaled(scores)
    inner = by(scores, "MatMul")
    turned = by(inner.inputs[1], "Transpose") if inner is not None else None
    if inner is None or turned is None or list(attribute(turned, "perm")) != [0, 1, 3, 2]:
        return None
    k, groups = unrepeated(turned.inputs[0])
    v, same = unrepeated(product.inputs[1])
    q = inner.inputs[0]
    if q is None or k is None or v is None or groups != same:
        return None
    return Attention(q, k, v, mask, forbidden, bias, scale, cap, groups, last.outputs[0], last)


def unmasked(value: ir.Value) -> tuple[ir.Value, ir.Value | None, ir.Value | None, ir.Value | None]:
    """The scores in front of a mask or a bias, and the mask, its opposite or the bias."""
    node = by(value, "Where", "Add")
    if node is None:
        return value, None, None, None
    if node.op_type == "Where":
        condition, low, scores = node.inputs
        least = number(low)
        if least is not None and least < -1e4 and scores is not None:
            opposite = by(condition, "Not")
            return scores, opposite.inputs[0] if opposite is not None else None, condition if opposite is None else None, None
        return value, None, None, None
    for scores, bias in operands(node):
        if by(uncapped(scores)[0], "Mul", "MatMul", "Div") is not None and by(bias, "MatMul") is None:
            return scores, None, None, bias
    return value, None, None, None


def uncapped(value: ir.Value) -> tuple[ir.Value, float]:
    """The scores in front of c * tanh(score / c), and c; 0 where they are not bounded."""
    node = by(value, "Mul")
    for curved, factor in operands(node) if node is not None else ():
        tanh, cap = by(curved, "Tanh"), number(factor)
        inner = by(tanh.inputs[0], "Div", "Mul") if tanh is not None else None
        if cap is None or inner is None or inner.inputs[0] is None:
            continue
        part = number(inner.inputs[1])
        if part is not None and abs((part if inner.op_type == "Div" else 1 / part) - cap) < 1e-5 * cap:
            return inner.inputs[0], cap
    return value, 0.0


def unscaled(value: ir.Value) -> tuple[ir.Value, float]:
    """The product in front of a factor, and the factor."""
    node = by(value, "Mul", "Div")
    if node is not None and node.inputs[0] is not None and (factor := number(node.inputs[1])):
        return node.inputs[0], factor if node.op_type == "Mul" else 1 / factor
    return value, 1.0


def unrepeated(value: ir.Value | None) -> tuple[ir.Value | None, int]:
    """Keys or values [B, kv_heads, K, d] in front of their repetition for groups of heads, and how many are in a group."""
    node = by(value, "Reshape")
    spread = by(node.inputs[0], "Expand") if node is not None else None
    apart = by(spread.inputs[0], "Unsqueeze") if spread is not None else None
    if spread is None or apart is None or whole(apart.inputs[1]) != [2]:
        return value, 1
    sizes = numbers(spread.inputs[1])
    if sizes is None or sizes.shape != (5,) or [int(s) for s in sizes[[0, 1, 3, 4]]] != [1, 1, 1, 1]:
        return value, 1
    return apart.inputs[0], int(sizes[2])
