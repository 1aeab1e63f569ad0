"""What every piece is captured with and held against eager with: the values that reach it for inputs of several sizes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from ...ir.graph import Graph
from ...ir.types import Type
from ...lower.example import Amount, example_inputs
from ...lower.program import lower_program
from ...nn.cache import KVCache
from ...passes.last import last_position
from ...passes.slice import ProgramGraph
from .drawn import Draws, as_inputs
from .flat import Flat, Slot, slots_of
from .pieces import WRITTEN, Decoding, Piece
from .widen import REFUSALS, widened

if TYPE_CHECKING:
    from ...lower.model import CompiledModel
    from ...processor import Processor

AMOUNTS = (
    Amount(batch=2, pictures=2, size=(64, 48), words=1, count=3),
    Amount(batch=3, pictures=3, size=(56, 112), words=2, count=4),
    Amount(batch=4, pictures=4, size=(96, 64), words=3, count=5),
)
"""Three of everything, none of them 0 or 1: a graph that is right at these has no size of its own."""
STEPS = (3, 4, 2)
"""New tokens of a step: decoding takes one at a time, but the graph takes any number. Never as many as there are samples: two dims of one
size in every call would be taken for one."""

Values = dict[str, Tensor]


class Samples:
    """Of one program: its inputs in every amount that it takes. Pictures are one a sample where it does not take several; without `media`
    there are none."""

    def __init__(self, model: CompiledModel, processor: Processor, name: str, media: bool = True) -> None:
        self.model, self.name, self.media = model, name, media
        self.inputs: list[Values] = []
        self.rows: Values = {}
        for amount in AMOUNTS:
            for pictures, words in ((amount.pictures, amount.words), (1, amount.words), (1, 1)):
                changed = Amount(amount.batch, pictures, amount.size, words, amount.count)
                try:
                    values = self.taken(self.made(processor, changed))
                except REFUSALS as error:  # not as many of everything go together
                    failed = error
                    continue
                self.inputs.append(values)
                break
            else:
                raise failed
        types = model.programs[name].graph(frozenset(self.inputs[0])).inputs
        more, self.fewer = widened(self.inputs, types, self.taken)
        self.inputs += more

    def made(self, processor: Processor, amount: Amount) -> Values:
        """A prompt: of words alone where steps are fed what a procedure chose, which is left out, as are the ids that stand for it."""
        source, chosen = self.model.programs[self.name].source, fed(self.model.graph, self.name)
        made = example_inputs(source, processor, self.name, media=self.media and not chosen, amount=amount)
        given = {k: torch.from_numpy(np.ascontiguousarray(v)) for k, v in made.items()}
        for value, token in chosen.items():
            self.rows[value] = given.pop(value)
            for name in WRITTEN:
                if name in given:
                    given[name] = given[name].where(given[name] != token, given[name][:, :1])
        return given

    def taken(self, given: Values) -> Values:
        """The inputs, with which the program ran; with what it draws as well, where that can be given. Masks are whole numbers, 1 where
        something is real: other tools feed them so. Raises one of REFUSALS."""
        program, types = self.model.programs[self.name], self.model.accepted(self.name)
        values = self.model.prepare(given, self.name)
        values |= {name: x.to(torch.int64) for name, x in values.items() if types[name].kind == "mask"}
        with torch.no_grad(), Draws() as draws:
            program.run(values)
        more = as_inputs(draws.made, {k: t for k, t in program.graph().inputs.items() if k not in values})
        return self.taken({**values, **more}) if more else values

    def start(self) -> str:
        """The ids that decoding appends to; a decoder's own begin with some tokens where the processor makes none."""
        name = next((w for w in WRITTEN if w in self.model.graph.inputs), WRITTEN[-1])
        for values in self.inputs:
            if name not in values:
                batch = len(next(iter(values.values())))
                values[name] = torch.arange(1, 1 + batch * 4).reshape(batch, 4)
        return name

    def __iter__(self) -> Iterator[Values]:
        return iter(self.inputs)


class Run:
    """A piece made a module, and what entered and left it in eager: `calls` are pairs of its inputs and outputs, in order."""

    def __init__(self, piece: Piece, module: nn.Module, slots: tuple[Slot, ...] = ()) -> None:
        self.piece, self.slots = piece, slots
        self.names = [*piece.inputs.values(), *(self.slot_name(s, "past_key_values") for s in slots if piece.past)]
        self.gives = [*piece.outputs.values(), *(self.slot_name(s, "present") for s in slots)]
        self.flat = Flat(module, piece, slots, piece.past)
        self.flat.eval()
        self.calls: list[tuple[tuple[Tensor, ...], tuple[Tensor, ...]]] = []
        self.fewer: Mapping[str, str] = {}
        """Dims that the program does not take in three sizes, with the reason."""

    def slot_name(self, slot: Slot, leading: str) -> str:
        return slot.name(leading, len(self.piece.cache) == 1)

    def __call__(self, values: Values, pasts: tuple[Tensor, ...] = (), keep: bool = True) -> tuple[Values, tuple[Tensor, ...]]:
        """The values of the piece's outputs, and the caches after it."""
        given = (*(values[v] for v in self.piece.inputs), *pasts)
        out = self.flat(*given)
        if keep:
            self.calls.append((given, out))
        count = len(self.piece.outputs)
        return dict(zip(self.piece.outputs, out[:count])), out[count:]


def lowered(model: CompiledModel, piece: Piece) -> nn.Module:
    """The fx module of a piece; its outputs go by their values."""
    graph = model.programs[piece.program.name].source if piece.program.name in model.programs else model.graph
    program = replace(piece.program, outputs={v: v for v in piece.outputs}, carry={})
    return lower_program(graph, last_position(graph, program, piece.outputs) if piece.last else program, model)


def stepping(graph: Graph, values: Values, prompt: ProgramGraph, ids: str) -> frozenset[str]:
    """The inputs of a step: new ids, masks that say what tokens may attend to, and what is carried."""
    types = graph.inputs
    masks = {k for k in values if k in types and types[k].kind == "mask" and (k == "attention_mask" or seen(types[k], types[ids]))}
    return frozenset({ids, *masks, *prompt.carry, *(k for k in values if k not in types), *fed(graph, prompt.name)})


def fed(graph: Graph, program: str) -> dict[str, int]:
    """Values that steps of a program are fed by its procedure, and prompts are not, with the id that stands for each row."""
    found = (p.stepping() for p in graph.procedures.values())
    return {one[1]: one[2] for one in found if one is not None and one[0] == program}


def seen(mask: Type, ids: Type) -> bool:
    """Whether a mask says of every token what it may attend to beside the text."""
    return len(mask.dims) > 2 and mask.dims[1] == ids.dims[1]


@torch.no_grad()
def run_whole(model: CompiledModel, piece: Piece, samples: Samples) -> Run:
    """A program without a cache, over all samples."""
    run = Run(piece, lowered(model, piece))
    for values in samples:
        run(values)
    run.fewer = samples.fewer
    return run


@torch.no_grad()
def run_decoding(model: CompiledModel, decoding: Decoding, samples: Samples) -> list[Run]:
    """Prompt and steps of some new tokens, as decoding calls them; the decoder's states go from one to the next."""
    slots = layout(model, decoding, samples.inputs[0])
    runs = {p.name: Run(p, lowered(model, p), slots if p.cache else ()) for p in (*decoding.step, *decoding.prompt)}
    for piece in decoding.step:  # the merged decoder has the names of the step
        runs[piece.name].piece = piece
    for number, values in enumerate(samples):
        seen, pasts = through(runs, decoding.prompt, values, slots, keep=True)
        grown, pasts = dict(seen), pasts
        new = further(samples, decoding.step, values, STEPS[number % len(STEPS)])
        through(runs, decoding.step, {**grown, **new}, slots, keep=True, pasts=pasts)
    for run in runs.values():
        run.fewer = samples.fewer
    return list(runs.values())


def through(
    runs: Mapping[str, Run], pieces: tuple[Piece, ...], values: Values, slots: tuple[Slot, ...], keep: bool, pasts: tuple[Tensor, ...] = ()
) -> tuple[Values, tuple[Tensor, ...]]:
    """All values after the pieces ran one after another, and the caches."""
    seen = dict(values)
    for piece in pieces:
        run = runs[piece.name]
        mine = {inner: seen[outer] for inner, outer in zip(run.piece.inputs, piece.inputs)}
        if piece.cache and piece.past and not pasts:
            pasts = empty(run, mine)
        made, after = run(mine, pasts if piece.cache and piece.past else (), keep)
        seen |= {outer: made[inner] for inner, outer in zip(run.piece.outputs, piece.outputs)}
        pasts = after if piece.cache else pasts
    return seen, pasts


def empty(run: Run, values: Values) -> tuple[Tensor, ...]:
    """Caches of no token: the decoder is asked once without any, and what it keeps is cut to nothing."""
    flat = Flat(run.flat.module, run.piece, run.slots, False)
    kept = flat(*(values[v] for v in run.piece.inputs))[len(run.piece.outputs) :]
    return tuple(k[:, :, :0] if s.grows else torch.zeros_like(k) for s, k in zip(run.slots, kept))


def layout(model: CompiledModel, decoding: Decoding, values: Values) -> tuple[Slot, ...]:
    """What the caches of a program hold: asked of a prompt."""
    seen: dict[str, Any] = dict(values)
    for piece in decoding.prompt:
        module, caches = lowered(model, piece), {c: KVCache() for c in piece.cache}
        inner = [seen[v] for v in piece.inputs]
        made = module(*inner, *caches.values())
        seen |= {outer: made[inner] for inner, outer in zip(made, piece.outputs)}
        if caches:
            return tuple(s for s in slots_of(caches))
    return ()


def further(samples: Samples, step: tuple[Piece, ...], values: Values, count: int) -> Values:
    """Inputs of a step that goes on with the first `count` tokens of the prompt: a real step has one, which it chose."""
    model = samples.model
    types: dict[str, Type] = {**model.graph.types()}
    ids = next(w for w in WRITTEN if w in model.graph.inputs)
    length = types[ids].dims[1]
    new: Values = {}
    for name in {v for p in step for v in p.inputs}:
        if name not in values or name not in model.graph.inputs:
            continue
        value, type_ = values[name], types[name]
        if name == "attention_mask" and type_.dims[1] == length:
            new[name] = torch.cat([value, value[:, -1:].expand(-1, count)], dim=1)
        elif length in type_.dims:
            axis = type_.dims.index(length)
            new[name] = value.narrow(axis, value.shape[axis] - count if type_.kind == "mask" else 0, count)
    for name, token in fed(model.graph, samples.name).items():
        new[ids] = torch.full_like(new[ids], token)
        new[name] = samples.rows[name].flatten()[torch.arange(new[ids].numel()) % samples.rows[name].numel()].view_as(new[ids])
    return new
