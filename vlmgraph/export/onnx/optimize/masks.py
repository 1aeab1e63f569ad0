"""What a boolean mask [B or 1, 1, N, past + N] allows, read from how it is made."""

from __future__ import annotations

import onnx_ir as ir

from .edit import by, number, whole

CAUSAL, WITHIN, OTHER = "causal", "within", "other"
"""Exactly the keys up to the query; some of them; anything else."""


def allows(mask: ir.Value) -> str:
    """CAUSAL where the mask is True of exactly the keys up to each query, WITHIN where it is of no others, else OTHER."""
    node = by(mask, "And", "Or", "Unsqueeze", "Expand", "Cast", "LessOrEqual", "GreaterOrEqual", "Equal")
    if node is None:
        return OTHER
    if node.op_type in ("Unsqueeze", "Expand", "Cast"):
        return allows(node.inputs[0])  # type: ignore[arg-type]
    if node.op_type in ("LessOrEqual", "GreaterOrEqual"):
        keys, queries = node.inputs if node.op_type == "LessOrEqual" else reversed(node.inputs)
        return CAUSAL if places(keys) == "keys" and places(queries) == "queries" else OTHER
    if node.op_type == "Equal":
        return WITHIN if {places(v) for v in node.inputs} == {"keys", "queries"} else OTHER
    kinds = {allows(v) for v in node.inputs}  # type: ignore[arg-type]
    if node.op_type == "And":
        return CAUSAL if kinds == {CAUSAL} else WITHIN if kinds & {CAUSAL, WITHIN} else OTHER
    return OTHER if OTHER in kinds else CAUSAL if CAUSAL in kinds else WITHIN


def places(value: ir.Value | None) -> str | None:
    """Whether a value counts the keys, 0 to past + N, or the queries, past to past + N; both along the last axis that they have."""
    node = by(value, "Unsqueeze", "Reshape", "Range", "Slice")
    if node is None:
        return None
    if node.op_type in ("Unsqueeze", "Reshape"):
        return places(node.inputs[0])
    if node.op_type == "Slice":
        whole_range = places(node.inputs[0]) == "keys" and (len(node.inputs) < 5 or whole(node.inputs[4]) in (None, [1]))
        stop = number(node.inputs[2])
        return "queries" if whole_range and past(node.inputs[1]) and stop is not None and stop > 2**31 else None
    start, stop_at, step = node.inputs
    if number(step) != 1:
        return None
    total = by(stop_at, "Add")
    if total is None or not any(past(v) for v in total.inputs):
        return None
    return "keys" if number(start) == 0 else "queries" if past(start) else None


def past(value: ir.Value | None) -> bool:
    """Whether a value is the number of past tokens: the third dim of keys or values that enter."""
    node = by(value, "Squeeze", "Reshape", "Unsqueeze", "Gather", "Shape")
    if node is None:
        return False
    if node.op_type == "Gather":
        return number(node.inputs[1]) == 2 and past_shape(node.inputs[0])
    if node.op_type == "Shape":
        start, end = (node.attributes.get(k) for k in ("start", "end"))
        return start is not None and end is not None and (start.value, end.value) == (2, 3) and cached(node.inputs[0])
    return past(node.inputs[0])


def past_shape(value: ir.Value | None) -> bool:
    node = by(value, "Shape")
    return node is not None and not node.attributes.get("start") and cached(node.inputs[0])


def cached(value: ir.Value | None) -> bool:
    """Whether a value is keys or values that enter the graph."""
    return value is not None and value.is_graph_input() and str(value.name).startswith("past_key_values.")
