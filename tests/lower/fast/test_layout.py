"""Tokens sorted by modality once a call: each expert runs its own tokens and no others."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from vlmgraph.lower.fast.fuse import fuse, settle
from vlmgraph.lower.fast.layout import layout, routed
from vlmgraph.nn import mlp
from vlmgraph.nn.block import Block
from vlmgraph.nn.mlp import Experts, route
from vlmgraph.nn.stack import Stack


def test_as_by_masks() -> None:
    x, modality = torch.randn(2, 5, 4), torch.tensor([[0, 1, 1, 0, 2], [0, 0, 0, 0, 0]])
    maps = [torch.nn.Linear(4, 3), torch.nn.Linear(4, 3)]  # ids past the last expert are its
    assert torch.equal(routed(maps, x, layout(modality, 2))[0], route(maps, x, modality))


def test_an_expert_sees_its_tokens_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mlp, "route", None)  # by masks: in a compiled block it would run every expert on every token
    seen: list[int] = []

    class Counting(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(x.numel() // x.shape[-1])
            return x

    block = Block(None, Experts({"text": Counting(), "vision": Counting()}), {"mlp": torch.nn.Identity()})
    stack = Stack([block])
    fuse(stack)
    settle(stack)
    with torch.no_grad():
        stack(torch.randn(1, 6, 4), modality=torch.tensor([[0, 1, 1, 1, 1, 0]]))
    assert seen == [2, 4]
