"""Every spec that writes text, with every variant of it that does: what it declares decides, nothing here knows one of them."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from torch import Tensor

import vlmgraph
from tests.architectures.common import enliven
from tests.levels.models import SPECS
from vlmgraph.ir.graph import CALL
from vlmgraph.lower.example import example_inputs
from vlmgraph.lower.generate.grow import written_input
from vlmgraph.lower.model import CompiledModel
from vlmgraph.passes.slice import MissingInput
from vlmgraph.processor import Processor
from vlmgraph.processor.model import model_processor


@cache
def writers() -> list[str]:
    """`spec` or `spec:variant`, of graphs that have a program which caches and gives logits."""
    found = []
    for name in SPECS:
        spec = vlmgraph.read_spec(name, size="tiny")
        for variant in (None, *spec.variants):
            if "generate" in vlmgraph.elaborate(vlmgraph.read_spec(name, size="tiny", variant=variant)).programs:
                found.append(name if variant is None else f"{name}:{variant}")
    return found


@cache
def writer(name: str) -> tuple[CompiledModel, Processor]:
    """In double precision: no two tokens are so near that rounding chooses between them."""
    spec, _, variant = name.partition(":")
    model = enliven(vlmgraph.compile(vlmgraph.read_spec(spec, size="tiny", variant=variant or None), dtype="float64"))
    return model, model_processor(model.spec, model.graph)


@cache
def prompt(name: str, media: bool = True) -> dict[str, Tensor] | None:
    """Two questions of different length, with a picture each or without; None where the model needs pictures. A decoder that has a text
    of its own begins it itself."""
    model, processor = writer(name)
    try:
        made = example_inputs(model.graph, processor, "generate", media=media)
    except MissingInput:
        return None
    if not media and any(model.graph.inputs[n].kind in ("image", "video", "patches", "map") for n in made):
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
