"""Attention over keys and values that enter and leave: GroupQueryAttention, with rotation inside and queries, keys and values packed.

The operator takes the new tokens behind the past ones and lets each attend to the keys up to itself. What a model's mask forbids beyond
that, padding on the left among it, enters as a bias. A mask that allows later keys (a prefix) is not its form and stays as it was.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from .attention import Attention, attention
from .edit import MICROSOFT, Edit, attribute, by, dim
from .masks import CAUSAL, OTHER, allows
from .pack import packed
from .rotary import Rotated, rotated, rows

EIGHT = 8
"""Heads must be a multiple of this wide, those that turn of twice as much."""


@dataclass(frozen=True)
class Sizes:
    """Values that describe one call: [1] each, int64, and what the operator takes."""

    batch: ir.Value
    new: ir.Value
    total: ir.Value
    last: ir.Value
    """Index of the last key, [B] int32."""
    count: ir.Value
    """`total` as an int32 scalar."""
    fresh: ir.Value
    """New tokens, [B] int32."""


def grouped(edit: Edit) -> None:
    for node in list(edit.graph):
        if node.op_type == "Softmax" and not node.domain and (found := attention(node)) is not None:
            fuse(edit, node, found)
    edit.clean()


def fuse(edit: Edit, softmax: ir.Node, found: Attention) -> None:
    keys, values = grown(found.k), grown(found.v)
    if keys is None or values is None:
        return
    (past_k, new_k), (past_v, new_v) = keys, values
    heads_kv, width = dim(past_k, 1), dim(past_k, 3)
    if not isinstance(width, int) or width % EIGHT or not isinstance(heads_kv, int) or dim(past_v, 3) != width:
        return
    kind = past_k.dtype
    if kind not in (ir.DataType.FLOAT, ir.DataType.FLOAT16):
        return
    heads = heads_kv * found.groups
    q_turn, k_turn = rotated(found.q), rotated(new_k)
    inside = q_turn if q_turn is not None and fits(q_turn, k_turn, width) else None
    q, k, v = (found.q, new_k, new_v) if inside is None or k_turn is None else (q_turn.x, k_turn.x, new_v)  # type: ignore[union-attr]
    before = found.last
    allowed, bias = bound(edit, before, found, kind)
    if not allowed:
        return
    flat = [side_by_side(edit, before, x, n * width) for x, n in ((q, heads), (k, heads_kv), (v, heads_kv))]
    joined = packed(edit, before, flat)
    sizes = sizes_of(edit, before, past_k, flat[0] if joined is None else joined)
    turned: tuple[ir.Value | None, ...] = (None, None, None)
    if inside is not None:
        turned = rows(edit, before, inside, sizes.batch, sizes.new, sizes.total)
    inputs = [joined, None, None] if joined is not None else flat
    out, present_k, present_v = edit.add(
        before, "GroupQueryAttention",
        [*inputs, past_k, past_v, sizes.last, sizes.count, *turned, bias, None, None, None, None, None, sizes.fresh], 3, MICROSOFT,
        num_heads=heads, kv_num_heads=heads_kv, do_rotary=int(inside is not None), scale=float(found.scale), softcap=float(found.cap),
    )  # fmt: skip
    for old, new in ((found.out, out), (found.k, present_k), (found.v, present_v)):
        edit.replace(old, new)
    edit.done["GroupQueryAttention"] += 1
    edit.done["rotation inside"] += inside is not None
    edit.done["packed queries, keys and values"] += joined is not None


def grown(value: ir.Value) -> tuple[ir.Value, ir.Value] | None:
    """What entered and what is new of keys or values that leave: new ones behind those of the past."""
    node = by(value, "Concat")
    if node is None or not value.is_graph_output() or attribute(node, "axis") not in (2, -2) or len(node.inputs) != 2:
        return None
    past, new = node.inputs
    assert past is not None and new is not None
    return (past, new) if past.is_graph_input() else None


def fits(q: Rotated, k: Rotated | None, width: int) -> bool:
    """Whether queries and keys turn alike, and as the operator can."""
    return k is not None and q.cos is k.cos and q.sin is k.sin and width % (2 * EIGHT) == 0 and q.width % (2 * EIGHT) == 0


def bound(edit: Edit, before: ir.Node, found: Attention, kind: Any) -> tuple[bool, ir.Value | None]:
    """Whether the operator can hold what may attend to what, and the bias it needs for that."""
    if found.bias is not None:
        masked = by(found.bias, "Where")
        opposite = by(masked.inputs[0], "Not") if masked is not None else None
        inner = opposite.inputs[0] if opposite is not None else None
        return inner is not None and allows(inner) != OTHER, found.bias
    if found.mask is None:
        return False, None
    allowed = allows(found.mask)
    if allowed == CAUSAL:
        return True, None
    key = ("bias", found.mask, kind)
    if allowed != OTHER and key not in edit.made:
        numbers = kind.numpy()
        nothing, least = (edit.constant(np.array(n, dtype=numbers)) for n in (0, np.finfo(numbers).min))
        edit.made[key] = edit.one(before, "Where", found.mask, nothing, least)
    return allowed != OTHER, edit.made.get(key)


def side_by_side(edit: Edit, before: ir.Node, x: ir.Value, width: int) -> ir.Value:
    """Heads [B, heads, N, d] as [B, N, heads * d]: what they were cut from, where nothing happened since."""
    node = by(x, "Transpose")
    if node is not None and list(attribute(node, "perm")) == [0, 2, 1, 3]:
        apart = node.inputs[0]
        cut = by(apart, "Reshape")
        source = cut.inputs[0] if cut is not None else None
        if source is not None and len(source.shape or ()) == 3 and dim(source, 2) == width:
            return source
    else:
        apart = edit.one(before, "Transpose", x, perm=[0, 2, 1, 3])
    flat = edit.one(before, "Reshape", apart, edit.integers(0, 0, width))
    flat.shape, flat.type = None, x.type
    return flat


def sizes_of(edit: Edit, before: ir.Node, past: ir.Value, x: ir.Value) -> Sizes:
    """Of the call, from keys of the past and new tokens x [B, N, d]; the same for all layers whose streams have one length."""
    key = ("sizes", dim(past, 0), dim(past, 2), dim(x, 1) if dim(x, 1) is not None else x)
    if key in edit.made:
        known: Sizes = edit.made[key]
        return known
    batch = edit.one(before, "Shape", past, start=0, end=1)
    new = edit.one(before, "Shape", x, start=1, end=2)
    held = edit.one(before, "Shape", past, start=2, end=3)
    total = edit.one(before, "Add", held, new)
    narrow = edit.one(before, "Cast", total, to=ir.DataType.INT32)
    last = edit.one(before, "Sub", narrow, edit.constant(np.array([1], dtype=np.int32)))
    fresh = edit.one(before, "Cast", new, to=ir.DataType.INT32)
    made = edit.made[key] = Sizes(
        batch,
        new,
        total,
        edit.one(before, "Expand", last, batch),
        edit.one(before, "Squeeze", narrow),
        edit.one(before, "Expand", fresh, batch),
    )
    return made
