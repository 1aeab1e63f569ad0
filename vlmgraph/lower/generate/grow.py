"""Inputs of a program with new tokens behind them: what a token that was written says of itself follows from declared types."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...diagnostics import Diagnostic, DiagnosticError
from ...diagnostics import codes as C

if TYPE_CHECKING:
    from ..model import CompiledModel

PADDING = {"input_ids": "attention_mask", "decoder_input_ids": "decoder_attention_mask"}
"""The mask of an input of ids."""


def written_input(model: CompiledModel) -> str:
    """The ids that new tokens are put behind: a decoder's own where there are two texts."""
    return "decoder_input_ids" if "decoder_input_ids" in model.graph.inputs else "input_ids"


def check_padding(mask: Tensor | None) -> None:
    """Raises DiagnosticError for a prompt that is padded on the right: its next token would be read off the padding."""
    if mask is not None and mask.shape[1] and not bool(mask[:, -1].all()):
        row = int((mask[:, -1] == 0).nonzero()[0])
        fix = 'pad on the left: `padding_side = "left"`'
        raise DiagnosticError(Diagnostic(C.BAD_INPUT_VALUE, f"row {row} of the prompt is padded on the right", fix=fix))


def continued(model: CompiledModel, inputs: Mapping[str, Any], new: Tensor, written: str = "input_ids") -> dict[str, Any]:
    """The inputs of a prompt with ids [B, n] behind it that were written before."""
    count, grown = new.shape[1], dict(inputs)
    for name, latest in of_new_tokens(model, inputs, written).items():
        grown[name] = torch.cat([inputs[name], latest.repeat_interleave(count, 1)], dim=1)
    grown[written] = torch.cat([inputs[written], new], dim=1)
    return grown


def of_new_tokens(model: CompiledModel, inputs: Mapping[str, Any], written: str) -> dict[str, Tensor]:
    """What the inputs that have an entry for every token say of a new one, [B, 1, ...].

    It is real; it may attend to the media that the last one may (mask[B, T, ...]); it is of no kind that was given (index[B, T]: -1) and
    not marked (other masks [B, T]: the places of images).
    """
    types, found = model.graph.inputs, {}
    ids = types[written]
    for name, value in inputs.items():
        if name not in types or name == written or types[name].dims[: len(ids.dims)] != ids.dims:
            continue
        kind, latest = types[name].kind, value[:, -1:]
        if name == PADDING[written]:
            found[name] = torch.ones_like(latest)
        elif kind == "mask":
            found[name] = latest if len(types[name].dims) > 2 else torch.zeros_like(latest)
        elif kind == "index":
            found[name] = torch.full_like(latest, -1)
    return found
