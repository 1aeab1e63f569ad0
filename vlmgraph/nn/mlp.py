"""Feed-forward layers, and the choice among several of them by modality."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from .eager import readable


class MLP(nn.Module):
    """fc1 → act → fc2: [..., width] → [..., width]."""

    def __init__(self, width: int, hidden: int, act: nn.Module, bias: bool = True) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden, bias=bias)
        self.act = act
        self.fc2 = nn.Linear(hidden, width, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(x)))


class GatedMLP(nn.Module):
    """down(act(gate x) * up x): [..., width] → [..., out], as wide as it came where no `out` is given (GLU variants, arXiv 2002.05202)."""

    def __init__(self, width: int, hidden: int, act: nn.Module, bias: bool = False, out: int | None = None) -> None:
        super().__init__()
        self.gate = nn.Linear(width, hidden, bias=bias)
        self.up = nn.Linear(width, hidden, bias=bias)
        self.act = act
        self.down = nn.Linear(hidden, width if out is None else out, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.act(self.gate(x)) * self.up(x))


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
