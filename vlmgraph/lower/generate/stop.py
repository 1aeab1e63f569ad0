"""When a row ends."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ...processor.stream import Decode, StopText

Criterion = Callable[[Tensor, "Tensor | None"], "Tensor | bool"]
"""(ids [R, n], scores or None) → which rows end [R], or whether all do."""


class StopTokens:
    """Rows whose last token is one of these."""

    def __init__(self, tokens: Sequence[int]) -> None:
        self.tokens = torch.tensor(tokens)

    def __call__(self, ids: Tensor, scores: Tensor | None = None) -> Tensor:
        return torch.isin(ids[:, -1], self.tokens.to(ids.device))


class StopStrings:
    """Rows whose answer, the text behind `before` tokens, holds one of these."""

    def __init__(self, strings: Sequence[str], decode: Decode, before: int) -> None:
        self.text, self.before = StopText(strings, decode), before

    def __call__(self, ids: Tensor, scores: Tensor | None = None) -> Tensor:
        return torch.tensor([self.text(row) for row in ids[:, self.before :].tolist()], device=ids.device)


def ended(criteria: Sequence[Criterion], ids: Tensor) -> Tensor:
    """Which rows [R] some criterion ends."""
    done = torch.zeros(len(ids), dtype=torch.bool, device=ids.device)
    for criterion in criteria:
        done = done | torch.as_tensor(criterion(ids, None), device=ids.device)
    return done
