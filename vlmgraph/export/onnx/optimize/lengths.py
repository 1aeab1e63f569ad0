"""The number of past tokens read from the mask of all tokens, so that keys and values may stand in buffers with room for more.

With that, a loop binds one buffer as `past_key_values.N.key` and `present.N.key`: nothing is copied, new tokens are written in place.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from .edit import Edit, attribute

Call = dict[str, tuple[int, ...]]
"""The shape of every input of one call."""


def shared(edit: Edit, calls: Sequence[Call], grows: Sequence[tuple[str, str]]) -> ir.Value | None:
    """Rewrite the graph where every cache that grows enters GroupQueryAttention alone and a mask counts past and new tokens.

    `grows` are pairs of past and present. Gives the input that counts all tokens, None where buffers cannot be shared.
    """
    inputs = {str(v.name): v for v in edit.graph.inputs}
    pasts = [inputs[past] for past, _ in grows if past in inputs]
    if not pasts or len(pasts) != len(grows):
        return None
    lengths: list[ir.Node] = []
    for value in pasts:
        for use in value.uses():
            node, kind = use.node, use.node.op_type
            part = (attribute(node, "start", 0), attribute(node, "end"))
            if kind == "Shape" and part == (2, 3):
                lengths.append(node)
            elif not (kind == "GroupQueryAttention" or (kind == "Shape" and part == (0, 1))):
                return None
    mask, fresh = counting(calls, [past for past, _ in grows])
    if mask is None or fresh is None:
        return None
    for value in (v for v in pasts if any(n.inputs[0] is v for n in lengths)):
        first = next(n for n in edit.graph if n in lengths and n.inputs[0] is value)
        every, new = (edit.one(first, "Shape", inputs[name], start=1, end=2) for name in (mask, fresh))
        past = edit.one(first, "Sub", every, new)
        for node in [n for n in lengths if n.inputs[0] is value]:
            past.shape, past.type = node.outputs[0].shape, node.outputs[0].type
            node.outputs[0].replace_all_uses_with(past)
    edit.clean()
    edit.done["buffers of keys and values shared"] = len(pasts)
    return inputs[mask]


def counting(calls: Sequence[Call], pasts: Sequence[str]) -> tuple[str | None, str | None]:
    """The input [B, past + new] and the one [B, new, ...], by their shapes in every call; some calls have a past, some have none."""
    if not calls or not any(c[pasts[0]][2] for c in calls):
        return None, None
    others = [name for name in calls[0] if name not in pasts and all(len(c[name]) > 1 for c in calls)]
    for mask in (n for n in others if all(len(c[n]) == 2 for c in calls)):
        for fresh in (n for n in others if n != mask):
            if all(c[mask][1] == c[past][2] + c[fresh][1] for c in calls for past in pasts):
                return mask, fresh
    return None, None
