"""Products of one input with several weights as one product with all of them side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from .edit import Edit, by, dim, is_weight, operands, user


@dataclass(frozen=True)
class Linear:
    """x weight [in, out] + bias [out] or None."""

    x: ir.Value
    weight: ir.Value
    bias: ir.Value | None
    out: ir.Value


def linear(value: ir.Value) -> Linear | None:
    """The product that a value is, with its bias, where the product alone is read by nothing else."""
    node, bias = by(value, "MatMul"), None
    if node is None:
        for product, added in operands(by(value, "Add")) if by(value, "Add") else ():  # type: ignore[arg-type]
            inner = by(product, "MatMul")
            if inner is not None and is_weight(added) and len(added.shape or ()) == 1 and user(product, "Add") is not None:
                node, bias = inner, added
    if node is None or node.inputs[0] is None or not is_weight(node.inputs[1]):
        return None
    weight = node.inputs[1]
    assert weight is not None
    return Linear(node.inputs[0], weight, bias, value) if len(weight.shape or ()) == 2 else None


def packed(edit: Edit, before: ir.Node, values: Sequence[ir.Value]) -> ir.Value | None:
    """The values side by side as one product, where all are products of one input; their weights are held by nothing else then."""
    parts = [linear(v) for v in values]
    if any(p is None or p.x is not parts[0].x or len(p.out.uses()) != 1 for p in parts):  # type: ignore[union-attr]
        return None
    found: list[Linear] = [p for p in parts if p is not None]
    kinds = {p.weight.dtype for p in found}
    if len(kinds) != 1 or any(p.weight.is_graph_output() for p in found):
        return None
    out = edit.one(before, "MatMul", found[0].x, edit.weight(beside([p.weight for p in found])))
    out.shape, out.type = shape_of(found), found[0].out.type
    if (one := found[0].out.producer()) is not None and (node := out.producer()) is not None:
        node.metadata_props.update(one.metadata_props)  # the module it stands in
    if any(p.bias is not None for p in found):
        out = edit.one(before, "Add", out, edit.weight(ends([(p.bias, p.weight) for p in found])))
        out.shape, out.type = shape_of(found), found[0].out.type
    return out


def shape_of(parts: Sequence[Linear]) -> ir.Shape | None:
    """Of the values side by side."""
    first = parts[0].out.shape
    return None if first is None else ir.Shape([*first[:-1], sum(dim(p.weight, 1) for p in parts)])


def beside(weights: Sequence[ir.Value]) -> Any:
    """[in, a], [in, b], ... → [in, a + b + ...], put together when it is written."""
    tensors: list[Any] = [w.const_value for w in weights]
    shape = ir.Shape([tensors[0].shape[0], sum(int(t.shape[1]) for t in tensors)])
    return ir.LazyTensor(lambda: ir.tensor(np.concatenate([t.numpy() for t in tensors], axis=1)), tensors[0].dtype, shape)


def ends(pairs: Sequence[tuple[ir.Value | None, ir.Value]]) -> Any:
    """Biases behind one another, zeros where there is none."""
    tensors = [(b.const_value if b is not None else None, dim(w, 1)) for b, w in pairs]
    kind = pairs[0][1].dtype
    assert kind is not None
    parts = [t.numpy() if t is not None else np.zeros(n, dtype=kind.numpy()) for t, n in tensors]
    return ir.tensor(np.concatenate(parts))
