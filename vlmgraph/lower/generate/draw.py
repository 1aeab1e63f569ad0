"""Taking a token: the likeliest, or one that is drawn."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ...diagnostics import Diagnostic, DiagnosticError
from ...diagnostics import codes as C


class Draw:
    """Scores [R, V] → one token a row [R].

    With `seeds` each row draws with its own numbers, so that what it draws depends on its scores and its seed alone: the same alone and
    in any batch. With a `generator` (or none, then torch's own) all rows share one stream of numbers.
    """

    def __init__(self, sample: bool, rows: int, seeds: Sequence[int] | int | None = None, generator: torch.Generator | None = None) -> None:
        if seeds is not None and generator is not None:
            text = "both seed and generator are given, but tokens are drawn with one of them"
            raise DiagnosticError(Diagnostic(C.BAD_OPTION, text, fix="leave one out"))
        if seeds is not None and not isinstance(seeds, int) and len(seeds) != rows:
            text = f"there are {len(seeds)} seeds for {rows} rows"
            raise DiagnosticError(Diagnostic(C.BAD_OPTION, text, fix="give one number, or one for each row"))
        self.sample, self.generator = sample, generator
        numbers = [seeds + row for row in range(rows)] if isinstance(seeds, int) else seeds
        self.streams = None if numbers is None else [torch.Generator().manual_seed(n) for n in numbers]

    @property
    def shared(self) -> torch.Generator | None:
        """One stream for what all rows draw together: beams."""
        return self.generator if self.streams is None else self.streams[0]

    def __call__(self, scores: Tensor) -> Tensor:
        if not self.sample:
            return scores.argmax(-1)
        if self.streams is None:
            return torch.multinomial(scores.softmax(-1), 1, generator=self.generator)[:, 0]
        # the place of a uniform number in the cumulated probabilities; in double precision on the CPU, so that a device changes nothing
        upto = scores.double().cpu().softmax(-1).cumsum(-1)
        number = torch.stack([torch.rand(1, generator=s, dtype=torch.float64) for s in self.streams]) * upto[:, -1:]
        last = (upto == upto[:, -1:]).long().argmax(-1)  # rounding must not draw a token behind the last that has a probability
        return torch.minimum(torch.searchsorted(upto, number, right=True)[:, 0], last).to(scores.device)
