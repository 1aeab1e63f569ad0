"""Every spec that writes text, with every variant of it that does: what it declares decides, nothing here knows one of them."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from torch import Tensor

import vlmgraph
from tests.architectures.common import enliven
from vlmgraph.diagnostics import DiagnosticError
from vlmgraph.ir.graph import CALL
from vlmgraph.lower.example import Amount, example_inputs
from vlmgraph.lower.generate.grow import written_input
from vlmgraph.lower.model import CompiledModel
from vlmgraph.passes.slice import MissingInput
from vlmgraph.processor import Processor
from vlmgraph.processor.model import model_processor

MEDIA = ("image", "video", "patches", "map", "grid")


def variants(spec: str) -> list[str]:
    """`spec` and `spec:variant`."""
    return [spec, *(f"{spec}:{variant}" for variant in vlmgraph.read_spec(spec, size="tiny").variants)]


@cache
def writer(name: str) -> tuple[CompiledModel, Processor]:
    """In double precision: no two tokens are so near that rounding chooses between them."""
    spec, _, variant = name.partition(":")
    model = enliven(vlmgraph.compile(vlmgraph.read_spec(spec, size="tiny", variant=variant or None), dtype="float64"))
    return model, model_processor(model.spec, model.graph)


@cache
def prompt(name: str, media: bool = True, batch: int = 2, pictures: int = 1) -> dict[str, Tensor] | None:
    """Questions of different length, with pictures or without; None where the model cannot be asked so. A decoder that has a text of its
    own begins it itself."""
    model, processor = writer(name)
    if media and not any(type_.kind in MEDIA for type_ in model.graph.inputs.values()):
        return None
    try:
        made = example_inputs(model.graph, processor, "generate", media=media, amount=Amount(batch=batch, pictures=pictures))
        model.prepare(made, "generate")  # whose pictures are one a row takes no two
    except (DiagnosticError, MissingInput):
        if media and pictures == 1:
            raise
        return None
    if not media and any(model.graph.inputs[n].kind in MEDIA for n in made):
        return None
    given = {key: torch.from_numpy(np.ascontiguousarray(value)) for key, value in made.items()}
    if written_input(model) == "decoder_input_ids":
        return {key: value for key, value in given.items() if not key.startswith("decoder_")}
    return left_padded(model, given)


def left_padded(model: CompiledModel, given: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rows whose padding stands behind them turned, with all that is said of their tokens."""
    if "attention_mask" not in given or bool(given["attention_mask"][:, -1].all()):
        return given
    types, ids = model.graph.inputs, model.graph.inputs["input_ids"].dims
    turns = [len(row) - int(row.sum()) for row in given["attention_mask"]]
    return {
        key: torch.stack([row.roll(n, 0) for row, n in zip(value, turns)]) if types[key].dims[:2] == ids else value
        for key, value in given.items()
    }


@cache
def placeholders(name: str) -> tuple[int, ...]:
    """Tokens that stand for media: a model that writes one has no picture for it."""
    graph = writer(name)[0].graph
    return tuple(sorted({t for n in graph.nodes if n.op == CALL for tokens in graph.config(n).placeholders.values() for t in tokens}))


def answers(name: str, given: dict[str, Tensor], new: int = 4, **options) -> Tensor:
    """The new tokens."""
    made = writer(name)[0].generate(**given, max_new_tokens=new, min_new_tokens=new, suppress_tokens=placeholders(name), **options)
    return made[:, -new:]
