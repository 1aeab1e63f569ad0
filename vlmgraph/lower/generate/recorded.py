"""Steps of decoding that are recorded once and replayed: on a CUDA device a graph of kernels, which one launch starts.

A recording owns its buffers: the cache's places, the token, where it goes, and what is carried. An answer copies what the prompt left into
them and goes on by replaying. The first replays are held against the step as it is; where they differ, or a step cannot be recorded,
answers go on step by step and `report()` says why.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...nn.lightning import LightningAttention
from ...nn.moe import MixtureOfExperts
from .fixed import FixedCache, Unfit
from .grow import PADDING
from .watch import Watch

if TYPE_CHECKING:
    from ..model import CompiledModel
    from .decoder import Decoder

Step = Callable[[], dict[str, Tensor]]
"""Reads and writes buffers that stay where they are."""
Recorder = Callable[[Step], Step]
"""Runs a step as often as it likes and gives what replays it, into the same outputs each time. Raises Unfit."""

PROOF = 2
"""Replays that are held against the step as it is: the second shows that no place was written down as a number."""
SAME = {torch.float64: 1e-6, torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 1e-2}
"""How far a replay may be from the same operations run one by one: libraries may choose other kernels while they are captured."""
NEAR = {torch.float64: 1e-5, torch.float32: 1e-2, torch.float16: 5e-2, torch.bfloat16: 1e-1}
"""How far it may be from the program's own step: all layers' rounding, by other kernels, and rotations are in single precision
everywhere. What is wrong by less is for `SAME` to see."""
UNIT = 64
"""Places come in multiples of this, so that prompts of other lengths find a recording."""
APART: dict[type, str] = {
    LightningAttention: "linear attention sums up the past in a state",
    MixtureOfExperts: "which tokens an expert gets is a value",
}
UNCACHED = "it keeps nothing from step to step"


def cuda_graphs(step: Step) -> Step:
    from ..fast.cuda_graphs import record

    return record(step)


RECORDERS: dict[str, Recorder] = {"cuda": cuda_graphs}
"""By the kind of device."""


class Recording:
    """The step of a program for so many rows, and what came of recording it."""

    def __init__(self, decoder: Decoder, places: int) -> None:
        rows, device = len(decoder.ids), decoder.ids.device
        self.program, self.written, self.places, self.dtype = decoder.program, decoder.written, places, decoder.model.dtype
        self.form, self.weights = form(decoder), weights(decoder.model)
        self.caches = {name: FixedCache(cache, rows, places, device) for name, cache in decoder.caches.items()}
        self.inputs = {name: value.clone() for name, value in step_inputs(decoder).items()}
        self.token = decoder.ids[:, -1:].clone()
        self.at: dict[str, int] = {}
        """Of each cache how many of its places are filled."""
        self.replay: Step | None = None
        self.proved = 0
        self.owner: Callable[[], Decoder | None] = lambda: None

    def step(self) -> dict[str, Tensor]:
        from .decoder import carried, last

        out = self.program.run({**self.inputs, self.written: self.token}, self.caches, step=True)
        return {"scores": last(out), **{f"carry.{name}": value for name, value in carried(out).items()}}

    def load(self, decoder: Decoder) -> None:
        """Take over where an answer stands."""
        for name, value in step_inputs(decoder).items():
            self.inputs[name].copy_(value)
        self.at = {name: cache.load(decoder.caches[name]) for name, cache in self.caches.items()}
        self.put(decoder.ids[:, -1:])

    def put(self, token: Tensor) -> None:
        """Token [R, 1] and its place into their buffers. Raises ValueError where all places are filled."""
        self.token.copy_(token)
        for name, cache in self.caches.items():
            if self.at[name] >= self.places:
                raise ValueError(f"the recorded step has {self.places} places and is asked for {self.at[name] + 1}")
            cache.place.fill_(self.at[name])

    def next(self, token: Tensor) -> Tensor:
        """Scores [R, V] of what comes behind one more token [R, 1]. Raises Unfit where a replay that is still to be proved gives something
        else than the step, run as it was recorded."""
        assert self.replay is not None
        self.put(token)
        own = self.step() if self.proved < PROOF else {}
        out = self.replay()
        for name, value in own.items():
            if (wrong := distance(out[name], value)) > SAME[self.dtype]:
                raise Unfit(f"a replay is not what the step computes: off by {wrong:.2g}")
        for name, value in out.items():
            if name.startswith("carry."):
                self.inputs[name.removeprefix("carry.")].copy_(value)
        self.at = {name: filled + 1 for name, filled in self.at.items()}
        return out["scores"].clone()  # the next replay writes there

    def reorder(self, decoder: Decoder, rows: Tensor) -> None:
        """Go on with the rows [R], as many as there are."""
        for value in (t for cache in self.caches.values() for t in cache.tensors()):
            value.copy_(value.index_select(0, rows))
        for name, value in self.inputs.items():
            value.copy_(decoder.rows_of(name, value, rows))


@dataclass
class Row:
    """What became of the steps of a program."""

    program: str
    recordings: int = 0
    replays: int = 0
    reason: str = ""
    """Why answers go on step by step: for good, or the last time."""


class Recordings:
    """The recorded steps of a model, one a program: another number of rows, or more places, takes the place of what was there."""

    def __init__(self) -> None:
        self.kept: dict[str, Recording] = {}
        self.rows: dict[str, Row] = {}
        self.given_up: set[str] = set()

    def __reduce__(self) -> tuple[Any, ...]:
        """A copy of a model records steps of its own."""
        return Recordings, ()

    def report(self) -> list[dict[str, Any]]:
        """A row a program that wrote with a static cache where steps are recorded."""
        return [
            {
                "program": row.program,
                "recordings": row.recordings,
                "replays": row.replays,
                **({"rows": len(kept.token), "places": kept.places} if (kept := self.kept.get(row.program)) else {}),
                **({"step by step": row.reason} if row.reason else {}),
            }
            for row in self.rows.values()
        ]

    def serves(self, model: CompiledModel, program: str) -> bool:
        """Whether steps are recorded on this device, as far as is known."""
        if model.device.type not in RECORDERS:
            return False
        if program not in self.rows:
            self.rows[program] = Row(program)
            if why := apart(model, program):
                self.give_up(program, why)
        return program not in self.given_up

    def give_up(self, program: str, reason: str) -> None:
        self.rows[program].reason = reason
        self.given_up.add(program)
        self.kept.pop(program, None)

    def take(self, decoder: Decoder) -> Recording | None:
        """The recording of an answer's step with what the prompt left in it; None where it has to go on step by step."""
        name, row = decoder.program.name, self.rows[decoder.program.name]
        needed = max(cache.length for cache in decoder.caches.values()) + (decoder.room or 0)
        kept = self.kept.get(name)
        if kept is not None and kept.owner() is not None:
            row.reason = "another answer was being written"
            return None
        fits = kept is not None and (kept.form, kept.weights) == (form(decoder), weights(decoder.model)) and needed <= kept.places
        try:
            if kept is None or not fits:
                self.kept.pop(name, None)  # what it holds is free before more is taken
                kept = None
                kept = self.recorded(decoder, -(-needed // UNIT) * UNIT)
            kept.load(decoder)
        except Unfit as error:
            self.give_up(name, str(error))
            return None
        except torch.OutOfMemoryError as error:
            row.reason = f"there is no memory for a recording: {str(error).partition(chr(10))[0]}"
            return None
        row.reason = ""
        kept.owner = weakref.ref(decoder)
        self.kept[name] = kept
        return kept

    def recorded(self, decoder: Decoder, places: int) -> Recording:
        from ..fast.regional import as_built

        made = Recording(decoder, places)
        made.load(decoder)
        with as_built(), Watch():
            made.step()
        made.replay = RECORDERS[decoder.ids.device.type](made.step)
        self.rows[decoder.program.name].recordings += 1
        return made

    def next(self, decoder: Decoder, kept: Recording) -> Tensor:
        """Scores [R, V] behind the decoder's last token; those of the step as it is where the recording gives others."""
        row = self.rows[decoder.program.name]
        if kept.proved < PROOF:
            return self.proved(decoder, kept)
        if decoder.inputs is not kept.inputs:
            decoder.caches, decoder.inputs = dict(kept.caches), kept.inputs
        row.replays += 1
        return kept.next(decoder.ids[:, -1:])

    def proved(self, decoder: Decoder, kept: Recording) -> Tensor:
        """The same beside the step as it is, which the answer goes on by if need be."""
        from ..fast.regional import as_built

        with as_built():
            wanted = decoder.plain()
        try:
            scores = kept.next(decoder.ids[:, -1:])
            if (wrong := distance(scores, wanted)) > NEAR[kept.dtype]:
                raise Unfit(f"the recorded step is not what the program computes: off by {wrong:.2g}")
        except Unfit as error:
            self.give_up(decoder.program.name, str(error))
            decoder.recorded = decoder.recording = None
            return wanted
        self.rows[decoder.program.name].replays += 1
        kept.proved += 1
        return scores


def distance(a: Tensor, b: Tensor) -> float:
    """Relative; infinite where numbers are none."""
    a, b = a.double(), b.double()
    found = float((a - b).norm() / b.norm().clamp_min(1e-12))
    return found if found == found else float("inf")


def apart(model: CompiledModel, program: str) -> str:
    """Why no step of a program can be recorded, or nothing."""
    if not model.graph.programs[program].cache:
        return UNCACHED
    used = {node.component for node in model.programs[program].graph(step=True).nodes} & model._modules.keys()
    parts = {type(part) for component in used for part in model.get_submodule(component).modules()}
    return next((why for kind, why in APART.items() if any(issubclass(part, kind) for part in parts)), "")


def step_inputs(decoder: Decoder) -> dict[str, Tensor]:
    """What a step is given beside its token: of a mask of the text the entry of the new token."""
    own = PADDING[decoder.written]
    return {name: value.new_ones(len(value), 1) if name == own else value for name, value in decoder.inputs.items()}


def form(decoder: Decoder) -> tuple[Any, ...]:
    """What a recording is made for, but for the number of places."""
    modes = torch.is_autocast_enabled(decoder.ids.device.type), torch.is_inference_mode_enabled(), decoder.model.training
    told: list[Any] = [len(decoder.ids), *modes]
    for name, value in step_inputs(decoder).items():
        told.append((name, value.shape, value.dtype))
    for name, cache in decoder.caches.items():
        parts = [(t.shape[:2], t.shape[3:], t.dtype) for layer in cache.layers for t in (layer.k, layer.v) if t is not None]
        told.append((name, cache.encoded is not None and cache.encoded.shape, *parts))
        told += [(path, *(None if t is None else (t.shape, t.dtype) for t in media.grown)) for path, media in cache.media.items()]
    return tuple(told)


def weights(model: CompiledModel) -> tuple[int, ...]:
    """Where the weights are: a recording reads them there."""
    return tuple(t.data_ptr() for t in (*model.parameters(), *model.buffers()))
