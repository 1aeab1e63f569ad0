"""Token-wise maps from one width to another, and learned vectors around tokens."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Linear(nn.Module):
    """[..., d_in] → [..., out].

    init "normal": N(0, d_in ** -0.5), as CLIP's projections begin; "zeros": zero, bias and all, so that nothing comes through at first
    (PaliGemma, arXiv 2407.07726, section 3.1); "uniform": as torch's layer does.
    """

    def __init__(self, d_in: int, out: int, bias: bool = True, init: str = "uniform") -> None:
        super().__init__()
        self.proj = nn.Linear(d_in, out, bias=bias)
        self.init = init

    def init_weights(self) -> None:
        if self.init == "normal":
            nn.init.normal_(self.proj.weight, std=self.proj.in_features**-0.5)
        elif self.init == "zeros":
            nn.init.zeros_(self.proj.weight)
            if self.proj.bias is not None:
                nn.init.zeros_(self.proj.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x)


class MLP(nn.Module):
    """`depth` linear layers `fc1, fc2, ...` with an activation between: [..., d_in] → [..., out] (LLaVA-1.5, arXiv 2310.03744).

    `act_in` is an activation in front of the first.
    """

    def __init__(
        self, d_in: int, hidden: int, out: int, depth: int, act: nn.Module, bias: bool = True, act_in: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.depth = depth
        self.act, self.act_in = act, act_in
        for i in range(depth):
            layer = nn.Linear(d_in if i == 0 else hidden, out if i == depth - 1 else hidden, bias=bias)
            self.add_module(f"fc{i + 1}", layer)

    def forward(self, x: Tensor) -> Tensor:
        if self.act_in is not None:
            x = self.act_in(x)
        for i in range(self.depth):
            x = getattr(self, f"fc{i + 1}")(x if i == 0 else self.act(x))
        return x


class GLU(nn.Module):
    """proj → norm → act_in → down(act(gate x) * up x): [..., d_in] → [..., out] (CogVLM, arXiv 2311.03079, section 2.1)."""

    def __init__(self, d_in: int, hidden: int, out: int, norm: nn.Module, act_in: nn.Module, act: nn.Module, bias: bool = False) -> None:
        super().__init__()
        self.proj = nn.Linear(d_in, out, bias=bias)
        self.norm = norm
        self.act_in = act_in
        self.act = act
        self.gate = nn.Linear(out, hidden, bias=bias)
        self.up = nn.Linear(out, hidden, bias=bias)
        self.down = nn.Linear(hidden, out, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act_in(self.norm(self.proj(x)))
        return self.down(self.act(self.gate(x)) * self.up(x))


class LearnedTokens(nn.Module):
    """Learned vectors before and after the tokens of every item: [..., V, d] → [..., before + V + after, d]."""

    def __init__(self, d: int, before: int = 1, after: int = 1, std: float = 0.02) -> None:
        super().__init__()
        self.std = std
        self.before = nn.Parameter(torch.empty(before, d)) if before else None
        self.after = nn.Parameter(torch.empty(after, d)) if after else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        for tokens in (self.before, self.after):
            if tokens is not None:
                nn.init.normal_(tokens, std=self.std)

    def forward(self, x: Tensor) -> Tensor:
        around = x.shape[:-2]
        parts = [x]
        if self.before is not None:
            parts = [self.before.to(x.dtype).expand(*around, -1, -1), *parts]
        if self.after is not None:
            parts = [*parts, self.after.to(x.dtype).expand(*around, -1, -1)]
        return torch.cat(parts, dim=-2)


class NoQueries(ValueError):
    """Items of a number of tokens that no number of queries is given for."""


class LearnedQueries(nn.Module):
    """The same learned queries for every item: like [..., N, e] → [..., count, width].

    With `counts`, pairs of a number of tokens and one of queries, the first so many of them for items of N tokens. Raises NoQueries.
    """

    def __init__(self, count: int, width: int, std: float = 0.02, counts: Sequence[tuple[int, int]] = ()) -> None:
        super().__init__()
        self.std, self.counts = std, tuple(counts)
        self.queries = nn.Parameter(torch.empty(count, width))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.normal_(self.queries, std=self.std)

    def forward(self, like: Tensor) -> Tensor:
        return self.rows(like).expand(*like.shape[:-2], -1, -1)

    def rows(self, like: Tensor) -> Tensor:
        """Those that items of so many tokens have; a graph for any of the sizes looks them up."""
        if not self.counts:
            return self.queries
        tokens = like.shape[-2]
        if not torch.compiler.is_exporting():
            return self.queries[: self.number(tokens)]
        sizes, counts = torch.tensor(self.counts, device=like.device).unbind(1)
        count = (counts * (sizes == torch.full_like(sizes, tokens))).sum()
        return self.queries[torch.arange(len(self.queries), device=like.device) < count]

    def number(self, tokens: int) -> int:
        """Queries for an item of so many tokens."""
        for size, count in self.counts:
            if tokens == size:
                return count
        raise NoQueries(f"there are queries for items of {' or '.join(str(size) for size, _ in self.counts)} tokens, not of {tokens}")
