"""Convolutions over a grid of tokens, and the branch behind a learned number."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from tests.architectures.common import close, noise
from vlmgraph.components.connector.conv import Conv, GatedAdd
from vlmgraph.components.connector.mlp import MLPConnector
from vlmgraph.ir.dims import Dim

NECK = [{"out": 7, "kernel": 1, "norm": "norm.layer", "act": "relu"}, {"out": 4, "stride": 2}]


def test_convolutions_by_hand() -> None:
    """Rows first, zeros around, norms over the channels of each token; a stride makes one token of four."""
    config = Conv(d_in=5, layers=NECK, norm_eps=1e-6)
    built, x = config.build(), noise(2, 36, 5)
    grid = x.transpose(1, 2).unflatten(2, (6, 6))
    first, second = built.layers
    y = F.conv2d(grid, first.conv.weight, first.conv.bias)
    y = (y - y.mean(1, keepdim=True)) / (y.var(1, correction=0, keepdim=True) + 1e-6).sqrt()
    wanted = F.conv2d(F.pad(y.relu(), (1, 1, 1, 1)), second.conv.weight, second.conv.bias, stride=2)
    with torch.no_grad():
        close(built(x), wanted.flatten(2).transpose(1, 2))


@pytest.mark.parametrize("bias", [True, False])
def test_counts(bias: bool) -> None:
    config = Conv(d_in=5, layers=NECK, bias=bias)
    built = config.build()
    for part, count in config.parameters().items():
        assert count == sum(p.numel() for name, p in built.named_parameters() if name.startswith(f"{part}."))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        assert built(noise(3, 36, 5)).shape == (3, 9, 4)
    assert config.flops({"B": Dim.of(3), "N": Dim.of(36)}).constant == counter.get_total_flops()


def test_a_kernel_has_a_middle() -> None:
    with pytest.raises(ValueError, match="kernels are odd"):
        Conv(layers=[{"out": 3, "kernel": 2}])


@torch.no_grad()
def test_gated_add() -> None:
    built, x, branch = GatedAdd().build(), noise(2, 3, 4), noise(2, 3, 4, seed=2)
    assert torch.equal(built(x, branch), x)
    built.gate.fill_(-0.5)
    close(built(x, branch), x - 0.5 * branch)


@torch.no_grad()
def test_an_activation_in_front_of_a_perceptron() -> None:
    built, x = MLPConnector(d_in=4, out=3, depth=1, act_in="gelu").build(), noise(2, 4)
    close(built(x), F.gelu(x) @ built.fc1.weight.T + built.fc1.bias)
