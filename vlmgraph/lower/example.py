"""Inputs for a program of any spec: what its processor makes of a picture and a question, and drawn numbers for what it does not make."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import PIL.Image

from ..ir.dims import Dim, Symbol
from ..ir.graph import CALL, Graph
from ..ir.types import INTEGER_KINDS, Type
from ..passes.slice import MissingInput, ProgramGraph, slice_program
from ..processor.config import Chat
from ..processor.core import Processor
from ..processor.model import known_sizes, vocabulary_size

QUESTIONS, ANSWER = ("What is this?", "Which colours are there?"), "A red bird."
BATCH, COUNT = len(QUESTIONS), 3
"""Of a leading dim, and of another, that nothing decides."""

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Amount:
    """How much of everything: samples, pictures of a sample, width and height of a picture, how often a question is asked in a row, and
    the size of dims that nothing else decides."""

    batch: int = BATCH
    pictures: int = 1
    size: tuple[int, int] = (64, 48)
    words: int = 1
    count: int = COUNT


def example_inputs(
    graph: Graph, processor: Processor, program: str, *, seed: int = 0, labels: bool = False, media: bool = True, amount: Amount = Amount()
) -> Arrays:
    """Arrays by name with which `program` (`objective.NAME` with its graph) runs: as many samples as `amount` says, drawn with `seed`.

    `labels` makes the inputs of a training step, `media` puts pictures beside the question where the program takes one.
    """
    random = np.random.default_rng(seed)
    whole = slice_program(graph, program)
    made = {k: v for k, v in _processed(graph, processor, random, labels, media, amount).items() if k in whole.inputs}
    never = set() if labels else {name for name in whole.inputs if name.endswith("labels")}
    wanted = [name for name, type_ in whole.inputs.items() if not type_.optional and name not in made and name not in never]
    try:
        slice_program(graph, program, [*made, *wanted])
    except MissingInput:  # each of them may be left out, though not all
        wanted += [n for n, t in whole.inputs.items() if n not in (*made, *wanted, *never) and t.kind != "mask"]
        made |= {k: v for k, v in _others(processor, wanted, whole.inputs, random, amount).items() if k in whole.inputs}
    sizes = known_sizes(graph, made)
    made |= {n: _drawn(whole.inputs[n], sizes, vocabulary_size(graph, n) or 8, random, amount) for n in wanted if n not in made}
    return _placed(graph, slice_program(graph, program, made), made)


def _processed(graph: Graph, processor: Processor, random: np.random.Generator, labels: bool, media: bool, amount: Amount) -> Arrays:
    """Pictures of random colours, and a question about those of a sample."""
    questions = [" ".join([QUESTIONS[i % len(QUESTIONS)]] * amount.words) for i in range(amount.batch)]
    pictures = media and any(t.kind in ("image", "patches", "video", "map") for t in graph.inputs.values())
    several = [[_picture(random, amount.size) for _ in range(amount.pictures)] for _ in questions if pictures and processor.entries.media]
    shown = [picture for own in several for picture in own] or None
    if not processor.encoders:
        return processor(images=shown) if shown else {}
    main = "input_ids" if "input_ids" in processor.encoders else next(iter(processor.encoders))
    encoder = processor.encoders[main]
    placed = shown is not None and bool(encoder.slots)
    images = several if placed else shown
    marks = placed * amount.pictures
    if isinstance(encoder.config, Chat):
        asked = [[{"role": "user", "content": [*[{"type": "image"}] * marks, {"type": "text", "text": text}]}] for text in questions]
        if labels:
            asked = [[*said, {"role": "assistant", "content": ANSWER}] for said in asked]
        return processor(messages=asked, images=images, train=labels)
    mark = encoder.slots[0].token * marks if placed else ""
    return processor(text=[mark + text for text in questions], images=images, train=labels)


def _picture(random: np.random.Generator, size: tuple[int, int]) -> PIL.Image.Image:
    return PIL.Image.fromarray(random.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))


def _others(processor: Processor, wanted: Sequence[str], types: Mapping[str, Type], random: np.random.Generator, amount: Amount) -> Arrays:
    """Pictures for an entry of the processor that is still without anything; four frames of a film unless it takes single ones."""
    name = next((n for n in wanted if n in processor.entries.media), None)
    if name is None:
        return {}
    single = types[name].kind == "image" and len(types[name].dims) == 4
    films, frames = (amount.batch, 1) if single else (1 if amount == Amount() else amount.batch, 4)
    drawn = [[_picture(random, amount.size) for _ in range(frames)] for _ in range(films)]
    shown: Any = [film[0] for film in drawn] if single else drawn
    return processor(None, None, None, **{name: shown})


def _drawn(type_: Type, sizes: dict[Symbol, Dim], vocabulary: int, random: np.random.Generator, amount: Amount) -> np.ndarray:
    """Numbers of a type: normal, ids of the vocabulary, or a mask that keeps all. `sizes` learns the dims that nothing decided."""
    shape: list[int] = []
    for dim in type_.dims:
        for symbol in dim.substitute(sizes).symbols():
            sizes[symbol] = Dim.of(amount.count if shape else amount.batch)
        known = dim.substitute(sizes).constant
        assert known is not None
        shape.append(known)
    if type_.kind == "mask":
        return np.ones(shape, dtype=np.int64)
    if type_.kind in INTEGER_KINDS:
        return random.integers(1, max(vocabulary - 1, 2), shape) if type_.kind == "ids" else random.integers(0, 2, shape)
    if type_.kind == "boxes":
        corners = np.sort(random.random((*shape[:-1], 2, 2)), axis=-2)
        return corners.reshape(shape).astype(np.float32)
    return random.standard_normal(shape).astype(np.float32)


def _placed(graph: Graph, program: ProgramGraph, made: Arrays) -> Arrays:
    """With placeholders behind the first token of each text for features that the processor did not know of."""
    types, sizes = graph.types(), known_sizes(graph, made)
    for node in program.nodes:
        ids = node.inputs.get("ids")
        if node.op != CALL or not isinstance(ids, str) or ids not in made:
            continue
        for port, tokens in graph.config(node).placeholders.items():
            source = node.inputs.get(port)
            if not isinstance(source, str) or np.isin(made[ids], tokens).any():
                continue
            length = types[source].dims[-2].substitute(sizes).constant
            if length is not None:
                made = _inserted(made, ids, tokens[0], length)
    return made


def _inserted(made: Arrays, ids: str, token: int, count: int) -> Arrays:
    """Every array as long as the text grows with it."""
    fills = {ids: token, "attention_mask": 1, "labels": -100}
    shape = made[ids].shape
    return {
        name: np.insert(value, [1] * count, fills[name], axis=1) if name in fills and value.shape == shape else value
        for name, value in made.items()
    }
