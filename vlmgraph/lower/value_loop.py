"""Objects written as numbers, each of which is fed back as a token (moondream's detection and pointing)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..components.inference import ValueLoop
from ..components.inference.value_loop import Number
from ..diagnostics import Diagnostic, DiagnosticError
from ..diagnostics import codes as C
from .generate import check_padding, new_caches

if TYPE_CHECKING:
    from .model import CompiledModel


@torch.no_grad()
def value_loop(model: CompiledModel, procedure: ValueLoop, max_objects: int | None = None, **inputs: Any) -> list[Tensor]:
    """For each sample its objects [count, numbers] after the prompts input_ids [B, T], padded on the left.

    Raises DiagnosticError for prompts padded on the right.
    """
    given = model.prepare(inputs, procedure.program)
    check_padding(given.get("attention_mask"))
    program, caches = model.programs[procedure.program], new_caches(model, procedure.program)
    batch = len(given["input_ids"])
    mask = given.get("attention_mask")
    out = program.run(given, caches)
    going = out[procedure.words][:, -1].argmax(-1) != int(procedure.stop)
    found: list[list[Tensor]] = [[] for _ in range(batch)]
    for _ in range(procedure.max_objects if max_objects is None else max_objects):
        if not bool(going.any()):
            break
        parts = []
        for number, placeholder in zip(procedure.numbers, procedure.placeholders, strict=True):
            parts.append(value := values(out[number.read], number))
            ids = given["input_ids"].new_full((batch, 1), int(placeholder))
            step = {"input_ids": ids, number.feed: value.to(model.dtype)}
            if mask is not None:
                mask = torch.cat([mask, mask.new_ones(batch, 1)], dim=1)
                step["attention_mask"] = mask
            out = program.run(step, caches)
        made = torch.cat(parts, dim=1)
        for row in going.nonzero()[:, 0].tolist():
            found[row].append(corners(made[row]) if procedure.boxes else made[row])
        going = going & (out[procedure.words][:, -1].argmax(-1) != int(procedure.stop))
    wide = sum(number.count for number in procedure.numbers)
    return [torch.stack(rows) if rows else torch.zeros(0, wide, device=model.device) for rows in found]


def values(scores: Tensor, number: Number) -> Tensor:
    """Scores of bins [B, count * bins] → the numbers of the most likely ones, float32 [B, count]."""
    bins = scores.reshape(len(scores), number.count, -1)
    best = bins.argmax(-1).float()
    if number.bins == "linear":
        return best / bins.shape[-1]
    return 2.0 ** (best / number.last * number.span - number.span)


def corners(box: Tensor) -> Tensor:
    """Centre and size → left, top, right, bottom."""
    centre, size = box[:2], box[2:]
    return torch.cat([centre - size / 2, centre + size / 2])


def locate(model: CompiledModel, name: str, **inputs: Any) -> list[Tensor]:
    """The objects of each prompt by a procedure of the spec. Raises DiagnosticError where there is none of that name."""
    procedure = model.graph.procedures.get(name)
    if not isinstance(procedure, ValueLoop):
        known = ", ".join(n for n, p in model.graph.procedures.items() if isinstance(p, ValueLoop)) or "none"
        text = f"{model.graph.name} has no procedure {name!r} that writes objects as numbers; there are: {known}"
        raise DiagnosticError(Diagnostic(C.NO_GENERATE, text, fix=f'declare [inference.{name}] with type = "inference.value_loop"'))
    return value_loop(model, procedure, **inputs)
