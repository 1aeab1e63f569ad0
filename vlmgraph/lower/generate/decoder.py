"""A program that writes, run over rows of text: the prompt with every input once, then what is new."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .caches import new_caches
from .grow import PADDING, continued, of_new_tokens

if TYPE_CHECKING:
    from ..model import CompiledModel
    from .recorded import Recording, Recordings


class Decoder:
    """Rows of ids [R, n] and the scores of what comes next. A prompt's rows may each become several (beams, several answers).

    With caches a step reads the new tokens alone: pictures are seen by the first run, and what later steps need of them is carried. Without
    caches each run reads everything again; of rows that share their pictures one after the other.
    """

    def __init__(self, model: CompiledModel, program: str, inputs: Mapping[str, Any], written: str, cached: bool, room: int | None) -> None:
        self.model, self.program, self.written = model, model.programs[program], written
        self.prompt = dict(inputs)
        self.ids: Tensor = inputs[written]
        self.copies = 1
        self.before = self.ids.shape[1]
        self.room = room
        recorded = cached and room is not None and model.recorded_steps is not None and model.recorded_steps.serves(model, program)
        self.recorded: Recordings | None = model.recorded_steps if recorded else None
        """What may record its step, and `recording` what does."""
        self.recording: Recording | None = None
        self.caches = new_caches(model, program, None if recorded else room) if cached else {}
        self.inputs: dict[str, Any] = {}
        """Of the next step, but for its token."""

    def start(self) -> Tensor:
        """Scores [B, V] of the first new token of each prompt."""
        out = self.program.run(self.prompt, self.caches, last=True)
        if self.caches:
            kept = {k: v for k, v in self.prompt.items() if k not in self.model.graph.inputs}  # values that the program is cut at
            if "attention_mask" in self.prompt:
                kept["attention_mask"] = self.prompt["attention_mask"]
            latest = of_new_tokens(self.model, self.prompt, self.written)
            kept |= {k: v for k, v in latest.items() if self.model.graph.inputs[k].kind == "mask" and len(v.shape) > 2}
            self.inputs = kept | carried(out)
        return last(out)

    def expand(self, copies: int) -> None:
        """Each row `copies` times, one behind the other."""
        self.copies = copies
        self.reorder(torch.arange(len(self.ids), device=self.ids.device).repeat_interleave(copies))

    def reorder(self, rows: Tensor) -> None:
        """Go on with the rows `rows` [R']; they stay with their prompts."""
        self.ids = self.ids[rows]
        if self.recording is not None:
            self.recording.reorder(self, rows)
            if self.inputs is self.recording.inputs:
                return
        for cache in self.caches.values():
            cache.reorder(rows)
        self.inputs = {name: self.rows_of(name, value, rows) for name, value in self.inputs.items()}

    def rows_of(self, name: str, value: Any, rows: Tensor) -> Any:
        """The rows of a value, along the dim that it shares with the ids."""
        graph = self.model.graph
        types = graph.types()
        type_ = graph.inputs.get(name) or types.get(name) or types[graph.resolve(name)]
        batch = graph.inputs[self.written].dims[0]
        axis = next((i for i, dim in enumerate(type_.dims) if dim == batch), None)
        return value if axis is None else value.index_select(axis, rows)

    def step(self, tokens: Tensor) -> Tensor:
        """Scores [R, V] of what comes behind one more token [R]."""
        self.append(tokens)
        return self.next()

    def append(self, tokens: Tensor) -> None:
        self.ids = torch.cat([self.ids, tokens[:, None]], dim=1)

    def next(self) -> Tensor:
        """Scores [R, V] of what comes behind the last token."""
        if not self.caches:
            new = self.ids[:, self.before :]
            runs = [continued(self.model, self.prompt, new[i :: self.copies], self.written) for i in range(self.copies)]
            return torch.stack([last(self.program.run(run, last=True)) for run in runs], 1).flatten(0, 1)
        if self.recorded is not None and self.recording is None:
            self.recording = self.recorded.take(self)
        if self.recorded is not None and self.recording is not None:
            return self.recorded.next(self, self.recording)
        self.recorded = None
        return self.plain()

    def plain(self) -> Tensor:
        """The same by a step of the program."""
        mask = PADDING[self.written]
        if mask == "attention_mask" and mask in self.inputs:
            old = self.inputs[mask]
            self.inputs[mask] = torch.cat([old, old.new_ones(len(old), 1)], dim=1)
        out = self.program.run({**self.inputs, self.written: self.ids[:, -1:]}, self.caches, step=True)
        self.inputs |= carried(out)
        return last(out)

    def real(self) -> Tensor:
        """The ids [R, n] with -1 for padding."""
        mask = self.prompt.get(PADDING[self.written])
        if mask is None or bool(mask.all()):
            return self.ids
        padding = (mask == 0).repeat_interleave(self.copies, 0)
        return torch.cat([self.ids[:, : self.before].masked_fill(padding, -1), self.ids[:, self.before :]], dim=1)


def last(out: Mapping[str, Tensor]) -> Tensor:
    """Scores of the last place, in single precision at least."""
    logits = out["logits"][:, -1]
    return logits if logits.dtype == torch.float64 else logits.float()


def carried(out: Mapping[str, Any]) -> dict[str, Any]:
    return {name.partition(".")[2]: value for name, value in out.items() if name.startswith("carry.")}
