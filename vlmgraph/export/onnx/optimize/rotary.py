"""Rotation of queries and keys, found again, and its cosines and sines as the rows that onnxruntime's operators look up."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from .edit import Edit, attribute, by, dim, numbers, operands, whole


@dataclass(frozen=True)
class Rotated:
    """x [B, heads, N, head_dim] whose first `width` values turn by cos and sin [B or 1, N, width]."""

    x: ir.Value
    cos: ir.Value
    sin: ir.Value
    width: int


def rotated(value: ir.Value) -> Rotated | None:
    """The rotation of pairs (i, i + width / 2) that a value is."""
    node = by(value, "Add", "Concat")
    if node is None:
        return None
    if node.op_type == "Concat":
        return partial(node)
    for straight, crossed in operands(node):
        one, two = by(straight, "Mul"), by(crossed, "Mul")
        if one is None or two is None:
            continue
        for x, cos in operands(one):
            for other, sin in operands(two):
                width = swapped(other, x)
                a, b = by(cos, "Unsqueeze"), by(sin, "Unsqueeze")
                if width and a is not None and b is not None and whole(a.inputs[1]) == [1] == whole(b.inputs[1]):
                    cos_in, sin_in = a.inputs[0], b.inputs[0]
                    assert cos_in is not None and sin_in is not None
                    if doubled(cos_in, "Cos") is not None and doubled(sin_in, "Sin") is not None:
                        return Rotated(x, cos_in, sin_in, width)
    return None


def partial(node: ir.Node) -> Rotated | None:
    """The rotation of the first values of each head, the others kept."""
    if attribute(node, "axis") != -1 or len(node.inputs) != 2:
        return None
    first, rest = node.inputs
    assert first is not None
    found, kept = rotated(first), by(rest, "Slice")
    turned = by(found.x, "Slice") if found is not None else None
    if found is None or kept is None or turned is None or kept.inputs[0] is not turned.inputs[0]:
        return None
    starts, ends = (whole(turned.inputs[1]), whole(turned.inputs[2])), whole(kept.inputs[1])
    if starts != ([0], [found.width]) or ends != [found.width]:
        return None
    x = turned.inputs[0]
    assert x is not None
    return Rotated(x, found.cos, found.sin, found.width)


def swapped(value: ir.Value, x: ir.Value) -> int | None:
    """The width of x, where the value is its second half negated in front of its first half."""
    node = by(value, "Concat")
    if node is None or attribute(node, "axis") != -1 or len(node.inputs) != 2:
        return None
    negated = by(node.inputs[0], "Neg")
    second = by(negated.inputs[0], "Slice") if negated is not None else None
    first = by(node.inputs[1], "Slice")
    if first is None or second is None or first.inputs[0] is not x or second.inputs[0] is not x:
        return None
    low, high, start = whole(first.inputs[1]), whole(first.inputs[2]), whole(second.inputs[1])
    width = dim(x, -1)
    if low != [0] or high is None or high != start or not (width is None or width == 2 * high[0]):
        return None
    return 2 * high[0]


def doubled(value: ir.Value | None, op: str) -> ir.Node | None:
    """The node Cos or Sin whose angles are the same twice, behind a factor and a change of type."""
    node = by(value, op, "Mul", "Cast")
    if node is None:
        return None
    if node.op_type != op:
        return doubled(node.inputs[0], op) if node.op_type == "Cast" or numbers(node.inputs[1]) is not None else None
    angles = by(node.inputs[0], "Concat")
    twice = angles is not None and len(angles.inputs) == 2 and angles.inputs[0] is angles.inputs[1] and attribute(angles, "axis") == -1
    return node if twice else None


def once(edit: Edit, before: ir.Node, value: ir.Value | None) -> ir.Value:
    """Cosines or sines of the angles that a value has twice: [B or 1, N, width] → [B or 1, N, width / 2]."""
    node = by(value, "Cos", "Sin", "Mul", "Cast")
    assert node is not None
    if node.op_type == "Mul":
        return edit.one(before, "Mul", once(edit, before, node.inputs[0]), node.inputs[1])
    if node.op_type == "Cast":
        return edit.one(before, "Cast", once(edit, before, node.inputs[0]), to=attribute(node, "to"))
    angles = by(node.inputs[0], "Concat")
    assert angles is not None
    return edit.one(before, node.op_type, angles.inputs[0])


def rows(edit: Edit, before: ir.Node, found: Rotated, batch: ir.Value, new: ir.Value, total: ir.Value) -> tuple[ir.Value, ...]:
    """cos and sin [R, width / 2] and the row of every new token [B, N]; R is at least `total`, as the operators ask for.

    `batch`, `new` and `total` are sizes, [1] each. Whatever a model's positions are, each new token has a row of its own.
    """
    key = ("rows", found.cos, found.sin)
    if key in edit.made:
        return tuple(edit.made[key])
    half = found.width // 2
    pads = edit.one(before, "Concat", edit.integers(0, 0), total, edit.integers(0), axis=0)
    tables = []
    for value in (found.cos, found.sin):
        flat = edit.one(before, "Reshape", once(edit, before, value), edit.integers(-1, half))
        tables.append(edit.one(before, "Pad", flat, pads))
    if dim(found.cos, 0) == 1:
        count = edit.one(before, "Range", edit.scalar(0), edit.one(before, "Squeeze", new), edit.scalar(1))
        shape = edit.one(before, "Concat", batch, new, axis=0)
        places = edit.one(before, "Expand", count, shape)
    else:
        every = edit.one(before, "Squeeze", edit.one(before, "Mul", batch, new))
        count = edit.one(before, "Range", edit.scalar(0), every, edit.scalar(1))
        places = edit.one(before, "Reshape", count, edit.one(before, "Concat", batch, new, axis=0))
    edit.made[key] = (*tables, places)
    return (*tables, places)
