"""Operators of torch that the exporter has no form for."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional


def translations() -> dict[Callable[..., Any], Callable[..., Any]]:
    """Operator → the function that writes it as ONNX."""
    return {torch.ops.aten.searchsorted.Tensor: searchsorted}


def searchsorted(
    sorted_sequence: Any, self: Any, *, out_int32: bool = False, right: bool = False, side: str | None = None, sorter: Any = None
) -> Any:
    """How many of the sorted [n] stand in front of each value: counted, as n is the number of images or frames."""
    from onnx_ir import DataType
    from onnxscript import opset20

    op: Any = opset20

    wide = op.Unsqueeze(self, op.Constant(value_ints=[-1]))
    before = op.LessOrEqual(sorted_sequence, wide) if right or side == "right" else op.Less(sorted_sequence, wide)
    kind = DataType.INT32 if out_int32 else DataType.INT64
    return op.ReduceSum(op.Cast(before, to=int(kind)), op.Constant(value_ints=[-1]), keepdims=0)


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
) -> Tensor:
    """softmax(q k^T) v as products: torch's own asks sizes that depend on values (images that are no padding) which kernel they suit."""
    scores = query @ key.transpose(-1, -2) * (query.shape[-1] ** -0.5 if scale is None else scale)
    if attn_mask is not None:
        scores = scores + attn_mask if attn_mask.is_floating_point() else scores.masked_fill(~attn_mask, float("-inf"))
    return scores.softmax(-1) @ value


@contextlib.contextmanager
def plain_attention() -> Iterator[None]:
    """Modules call `attention` instead of torch's."""
    before = functional.scaled_dot_product_attention
    functional.scaled_dot_product_attention = attention  # type: ignore[assignment]
    try:
        yield
    finally:
        functional.scaled_dot_product_attention = before
