"""Beam search: the texts that are likeliest as a whole, as far as so many kept beginnings show them."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from .decoder import Decoder
from .draw import Draw
from .options import Options
from .scores import Rule, applied
from .stop import Criterion, ended

LOST = -1e9
"""Added to the score of what must not be taken; above it everything else stays comparable."""


@dataclass
class Finished:
    """The best ended texts of one prompt."""

    room: int
    found: list[tuple[float, Tensor]] = field(default_factory=list)
    """Score and new ids, the best first."""
    closed: bool = False

    @property
    def full(self) -> bool:
        return len(self.found) == self.room

    @property
    def worst(self) -> float:
        return self.found[-1][0] if self.full else LOST

    def add(self, score: float, ids: Tensor) -> None:
        self.found = sorted([*self.found, (score, ids)], key=lambda pair: -pair[0])[: self.room]


@torch.no_grad()
def beam_search(
    decoder: Decoder, options: Options, rules: list[Rule], warp: list[Rule], criteria: list[Criterion], draw: Draw
) -> tuple[Tensor, Tensor]:
    """ids [B * num_return_sequences, n], the best of each prompt first, and their scores, sums of log-probabilities over
    length ** length_penalty.

    A beginning that ends leaves the beams, which are filled up from further candidates. A prompt is done when nothing that it could
    still find would be better than its worst ended text, by a bound that `early_stopping` chooses: False takes the length so far, "never"
    the longest possible where that is the better one, True stops as soon as there are num_beams ended texts.
    """
    beams, most = options.num_beams, options.max_new_tokens
    scores = decoder.start().repeat_interleave(beams, 0)
    decoder.expand(beams)
    batch = len(decoder.ids) // beams
    width = max(2, 1 + len(options.eos_token_id)) * beams
    running = scores.new_zeros(batch, beams)
    running[:, 1:] = LOST  # the beams of a prompt are one text yet
    finished = [Finished(beams) for _ in range(batch)]
    for length in range(1, most + 1):
        likely = applied([*rules, *warp], decoder.real(), scores.log_softmax(-1))
        total = (likely.unflatten(0, (batch, beams)) + running[..., None]).flatten(1)
        value, index = best(total, min(width, total.shape[1]), draw)
        source, token = index // likely.shape[-1], index % likely.shape[-1]
        rows = source + torch.arange(batch, device=source.device)[:, None] * beams
        candidates = torch.cat([decoder.ids[rows], token[..., None]], dim=2)
        ends = ended(criteria, candidates.flatten(0, 1)).unflatten(0, (batch, -1)) | (length == most)
        for sample, pool in enumerate(finished):
            if pool.closed or (pool.full and options.early_stopping is True):
                continue
            for j in range(beams):
                if bool(ends[sample, j]):
                    pool.add(float(value[sample, j]) / length**options.length_penalty, candidates[sample, j, decoder.before :])
        if bool(ends.all()):
            break
        kept, order = (value + ends * LOST).topk(beams)
        running = kept
        hope = most if options.early_stopping == "never" and options.length_penalty > 0 else length
        for sample, pool in enumerate(finished):
            pool.closed = pool.closed or float(running[sample, 0]) / hope**options.length_penalty <= pool.worst
        if all(pool.closed for pool in finished) or (options.early_stopping is True and all(pool.full for pool in finished)):
            break
        decoder.reorder(rows.gather(1, order).flatten())
        scores = decoder.step(token.gather(1, order).flatten())
    return gathered(decoder, finished, options)


def best(total: Tensor, count: int, draw: Draw) -> tuple[Tensor, Tensor]:
    """The `count` best continuations of each prompt [B, beams * V], or as many drawn ones, the best first."""
    if not draw.sample:
        value, index = total.topk(count)
        return value, index
    index = torch.multinomial(total.softmax(-1), count, generator=draw.shared)
    value, order = total.gather(1, index).sort(descending=True)
    return value, index.gather(1, order)


def gathered(decoder: Decoder, finished: list[Finished], options: Options) -> tuple[Tensor, Tensor]:
    """The answers behind their prompts, padded to the longest."""
    count, beams = options.num_return_sequences, options.num_beams
    answers = [pair for pool in finished for pair in pool.found[:count]]
    longest = max((len(ids) for _, ids in answers), default=0)
    out = decoder.ids.new_full((len(finished) * count, decoder.before + longest), options.pad_token_id)
    out[:, : decoder.before] = decoder.ids[::beams, : decoder.before].repeat_interleave(count, 0)
    for row, (_, ids) in enumerate(answers):
        out[row, decoder.before : decoder.before + len(ids)] = ids
    return out, torch.tensor([score for score, _ in answers])
