"""The graphs of one program: itself, or the pieces that decoding runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from .pieces import Decoding, Piece, cut, whole
from .samples import Run, Samples, run_decoding, run_whole, stepping
from .widen import REFUSALS

Written = Callable[[Run], None]


def single(model: Any, processor: Any, name: str, written: Written) -> Piece:
    """A program without a cache: one graph."""
    samples = Samples(model, processor, name)
    piece = whole(model.programs[name].graph(frozenset(samples.inputs[0])))
    written(run_whole(model, piece, samples))
    return piece


def decoding(model: Any, processor: Any, name: str, prefix: str, written: Written) -> Decoding:
    """A program with a cache: its pieces, and others for texts without media where a step does not compute what such a prompt does."""
    samples = Samples(model, processor, name)
    made = parts(model, samples, prefix, written)
    try:
        alone = Samples(model, processor, name, media=False)
    except REFUSALS:  # no text without media
        return made
    if alone.inputs[0].keys() == samples.inputs[0].keys():
        return made
    text = pieces_of(model, alone, f"{prefix}text.", made.pieces)
    if made.serves(list(alone.inputs[0])) and {p.name for p in text.prompt} <= {p.name for p in made.step}:
        return made
    return replace(made, text=parts(model, alone, f"{prefix}text.", written, made.pieces))


def parts(model: Any, samples: Samples, prefix: str, written: Written, there: tuple[Piece, ...] = ()) -> Decoding:
    """The pieces that samples go through, written unless they are `there` already. The decoder is one graph for prompt and steps, unless
    media or an encoder fill its cache once."""
    made = pieces_of(model, samples, prefix, there)
    runs = run_decoding(model, made, samples)
    if any(s.once for r in runs for s in r.slots) and len(made.pieces) < len(made.prompt) + len(made.step):
        made = pieces_of(model, samples, prefix, there, merged=False)
        runs = run_decoding(model, made, samples)
    for run in runs:
        if run.piece.name not in {p.name for p in there}:
            written(run)
    return made


def pieces_of(model: Any, samples: Samples, prefix: str, there: tuple[Piece, ...], merged: bool = True) -> Decoding:

    program, ids = model.programs[samples.name], samples.start()
    prompt = program.graph(frozenset(samples.inputs[0]))
    step = program.graph(stepping(model.graph, samples.inputs[0], prompt, ids), True)
    return cut(model.graph, prompt, step, prefix, merged).sharing(there)
