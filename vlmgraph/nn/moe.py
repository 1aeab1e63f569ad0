"""Mixtures of experts: a router sends every token through a few of many MLPs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .eager import readable


class StackedExperts(nn.Module):
    """Gated MLPs whose weights stand in one tensor each, as grouped matrix products take them (Aria, arXiv 2410.05993, section 2.1).

    gate_up [experts, width, 2 hidden], gate before up; down [experts, hidden, width].
    """

    def __init__(self, width: int, hidden: int, experts: int, act: nn.Module, std: float = 0.02) -> None:
        super().__init__()
        self.std = std
        self.gate_up = nn.Parameter(torch.empty(experts, width, 2 * hidden))
        self.act = act
        self.down = nn.Parameter(torch.empty(experts, hidden, width))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        for weights in (self.gate_up, self.down):
            nn.init.normal_(weights, std=self.std)

    def forward(self, x: Tensor, expert: int) -> Tensor:
        """[S, width] → [S, width] by one of them."""
        gate, up = (x @ self.gate_up[expert]).chunk(2, dim=-1)
        return (self.act(gate) * up) @ self.down[expert]


class MixtureOfExperts(nn.Module):
    """The `top_k` experts a token scores highest, weighted by the softmax over their scores: [..., width] → [..., width]
    (Mixtral, arXiv 2401.04088, section 2.1). Without `renormalise` the weights are those of the softmax over all experts.

    `shared` is an MLP that every token goes through besides (DeepSeekMoE, arXiv 2401.06066, section 3.2). score "sigmoid" scores every
    expert by itself (DeepSeek-V3, arXiv 2412.19437, section 2.1.2); `scale` multiplies the weights. Of `groups` groups of experts only the
    `kept` best count, by their best expert or the sum of their two best (`group_score`, DeepSeek-V2, arXiv 2405.04434, section 2.2.2).

    With a `bias_step` a bias is added to the scores for the choice alone, not for the weights: after each step it grows by that much for
    experts that had less than the mean of tokens, and shrinks for the others (auxiliary-loss-free balancing, arXiv 2408.15664).
    `precise` computes scores in float32.
    """

    def __init__(
        self,
        width: int,
        experts: Sequence[nn.Module] | StackedExperts,
        top_k: int,
        renormalise: bool = True,
        std: float = 0.02,
        shared: nn.Module | None = None,
        score: str = "softmax",
        scale: float = 1.0,
        groups: int = 1,
        kept: int = 1,
        group_score: str = "max",
        bias_step: float | None = None,
        precise: bool = False,
    ) -> None:
        super().__init__()
        self.top_k, self.renormalise, self.std = top_k, renormalise, std
        self.score, self.scale, self.precise = score, scale, precise
        self.groups, self.kept, self.group_score, self.bias_step = groups, kept, group_score, bias_step
        self.count = len(experts.down) if isinstance(experts, StackedExperts) else len(experts)
        self.router = nn.Linear(width, self.count, bias=False)
        self.experts = experts if isinstance(experts, StackedExperts) else nn.ModuleList(experts)
        self.shared = shared
        if bias_step is not None:
            self.register_buffer("bias", torch.empty(self.count))
        self.load: Tensor | None = None
        """Tokens of every expert since the last step of training."""
        self.reset_parameters()

    def reset_parameters(self) -> None:
        if self.bias_step is not None:
            nn.init.zeros_(self.bias)

    def init_weights(self) -> None:
        nn.init.normal_(self.router.weight, std=self.std)

    def forward(self, x: Tensor, routes: list[Tensor] | None = None) -> Tensor:
        """The router's scores [..., experts] before softmax or sigmoid are put behind `routes`."""
        tokens = x.flatten(0, -2)
        scores = F.linear(tokens.float(), self.router.weight.float()) if self.precise else self.router(tokens)
        if routes is not None:
            routes.append(scores.view(*x.shape[:-1], self.count))
        shares = self.shares(scores)
        if self.bias_step is not None and self.training:
            self.count_load(shares)
        y = self.mixed(tokens, shares.to(x.dtype)).view(x.shape)
        return y if self.shared is None else y + self.shared(x)

    def count_load(self, shares: Tensor) -> None:
        """Add the tokens [S, experts] of every expert to those since the last step."""
        load = (shares.detach() > 0).sum(0).float()
        self.load = load if self.load is None else self.load + load

    def mixed(self, tokens: Tensor, shares: Tensor) -> Tensor:
        """tokens [S, width] through the experts that have a share [S, experts] of them: where values can be read, those tokens alone."""
        out = torch.zeros_like(tokens)
        if isinstance(self.experts, StackedExperts):
            for i, share in enumerate(shares.t()):
                if readable(tokens):
                    rows = share.nonzero()[:, 0]
                    out = out.index_add(0, rows, self.experts(tokens[rows], i) * share[rows, None])
                else:
                    out = out + self.experts(tokens, i) * share[:, None]
            return out
        for i, expert in enumerate(self.experts):
            if readable(tokens):
                rows = shares[:, i].nonzero()[:, 0]
                out = out.index_add(0, rows, expert(tokens[rows]) * shares[rows, i, None])
            else:
                out = out + expert(tokens) * shares[:, i, None]
        return out

    def shares(self, scores: Tensor) -> Tensor:
        """Scores [S, experts] → the weight of every expert for a token, in float32, zero for those that do not run."""
        odds = scores.float().softmax(-1) if self.score == "softmax" else scores.float().sigmoid()
        chosen = self.within_groups(odds if self.bias_step is None else odds + self.bias)
        best = chosen.topk(self.top_k, dim=-1).indices
        weights = odds.gather(-1, best)
        if self.renormalise:
            weights = weights / weights.sum(-1, keepdim=True).clamp(min=1e-20)
        return torch.zeros_like(odds).scatter(-1, best, weights * self.scale)

    def within_groups(self, odds: Tensor) -> Tensor:
        """[S, experts], zero outside the best groups."""
        if self.groups == 1:
            return odds
        each = odds.unflatten(-1, (self.groups, -1))
        whole = each.amax(-1) if self.group_score == "max" else each.topk(2, dim=-1).values.sum(-1)
        kept = torch.zeros_like(whole).scatter(-1, whole.topk(self.kept, dim=-1).indices, 1.0)
        return (each * kept[..., None]).flatten(-2)

    def after_step(self) -> None:
        """Move the bias against the load since the last step, of all processes."""
        if self.bias_step is None or self.load is None:
            return
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.all_reduce(self.load)
        self.bias += self.bias_step * torch.sign(self.load.mean() - self.load)
        self.load = None
