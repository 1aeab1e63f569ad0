"""Feed-forward layers, and the choice among several of them by modality."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from .eager import readable


class MLP(nn.Module):
    """fc1 → act → fc2: [..., width] → [..., width]. `inner_norm` stands in front of fc2 (Sub-LN, Magneto, arXiv 2210.06423)."""

    def __init__(self, width: int, hidden: int, act: nn.Module, bias: bool = True, inner_norm: nn.Module | None = None) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden, bias=bias)
        self.act = act
        self.inner_norm = inner_norm
        self.fc2 = nn.Linear(hidden, width, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.fc1(x))
        return self.fc2(x if self.inner_norm is None else self.inner_norm(x))


class GatedMLP(nn.Module):
    """down(act(gate x) * up x): [..., width] → [..., out], as wide as it came where no `out` is given (GLU variants, arXiv 2002.05202).

    `inner_norm` stands in front of the last map (EVA-02, arXiv 2303.11331).
    """

    def __init__(
        self, width: int, hidden: int, act: nn.Module, bias: bool = False, out: int | None = None, inner_norm: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.gate = nn.Linear(width, hidden, bias=bias)
        self.up = nn.Linear(width, hidden, bias=bias)
        self.act = act
        self.inner_norm = inner_norm
        self.down = nn.Linear(hidden, width if out is None else out, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.gate(x)) * self.up(x)
        return self.down(x if self.inner_norm is None else self.inner_norm(x))


class Experts(nn.Module):
    """One module a modality; every token goes through the one of its id (CogVLM, arXiv 2311.03079; BEiT-3, VLMo).

    Ids past the last expert go to the last one. Without ids the first expert runs alone, exactly as if it were the only one.
    """

    def __init__(self, experts: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.experts = nn.ModuleDict(experts)

    def forward(self, x: Tensor, modality: Tensor | None = None) -> Tensor:
        """x [B, N, d], modality [B, N] → [B, N, d]."""
        return route(list(self.experts.values()), x, modality)


def route(experts: Sequence[Callable[[Tensor], Tensor]], x: Tensor, modality: Tensor | None) -> Tensor:
    """x [B, N, d] → [B, N, e], each token through the expert of its modality [B, N]."""
    if modality is None:
        return experts[0](x)
    modality = modality.clamp(max=len(experts) - 1)
    if not readable(x):  # the number of tokens of a modality is a value: run all experts on all tokens instead
        out = experts[0](x)
        for i, expert in enumerate(experts[1:], start=1):
            out = torch.where((modality == i)[..., None], expert(x), out)
        return out
    places = [modality == i for i in range(len(experts))]
    parts = [expert(x[here]) for expert, here in zip(experts, places, strict=True)]
    out = parts[0].new_empty(*x.shape[:-1], parts[0].shape[-1])
    for here, part in zip(places, parts, strict=True):
        out[here] = part
    return out
