"""Operators of torch that the exporter has no form for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


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
