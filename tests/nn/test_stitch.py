"""Tiles as one map, prefixes that end with a token, numbers as vectors."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from tests.architectures.common import close, noise
from vlmgraph.components.connector.fourier import Fourier
from vlmgraph.components.op.prefix import PrefixTo
from vlmgraph.components.op.stitch import Stitch
from vlmgraph.ir.dims import Dim
from vlmgraph.nn.stitch import TileCount


def cut(whole: Tensor, rows: int, columns: int, side: int, margin: int) -> Tensor:
    """A map [H, W, d] as overlapping tiles [rows * columns, side * side, d]."""
    step = side - 2 * margin
    corners = [(r * step, c * step) for r in range(rows) for c in range(columns)]
    return torch.stack([whole[y : y + side, x : x + side].flatten(0, 1) for y, x in corners])


@pytest.mark.parametrize("margin", [0, 1, 2])
@pytest.mark.parametrize("mode", ["bilinear", "average"])
def test_tiles_of_a_map_are_the_map_resampled(mode: str, margin: int) -> None:
    """Images of four grids in one call, each as torch resamples its whole map; the overlap of neighbours is read once."""
    side, size = 5, 4
    grids, tiles, wanted = [(1, 1), (2, 3), (1, 4), (3, 1)], [], []
    for i, (rows, columns) in enumerate(grids):
        step = side - 2 * margin
        whole = noise(rows * step + 2 * margin, columns * step + 2 * margin, 3, seed=i)
        tiles.append(cut(whole, rows, columns, side, margin))
        one = whole.permute(2, 0, 1)[None].double()
        made = F.interpolate(one, size, mode="bilinear") if mode == "bilinear" else F.adaptive_avg_pool2d(one, size)
        wanted.append(made[0].flatten(1).T)
    built = Stitch(side=side, size=size, margin=margin, mode=mode).build()
    close(built(torch.cat(tiles), torch.tensor(grids)), torch.stack(wanted), 1e-6)


def test_one_tile_as_large_as_the_result_is_itself() -> None:
    x = noise(2, 9, 4)
    assert torch.equal(Stitch(side=3, size=3).build()(x, torch.tensor([[1, 1], [1, 1]])), x)


def test_what_a_tile_gives_up_does_not_count() -> None:
    """With a margin the outer tokens at a side where another tile follows are not read, those on the border of the image are."""
    built, x = Stitch(side=5, size=8, margin=1, mode="average").build(), noise(2, 25, 2)
    base = built(x, torch.tensor([[1, 2]]))
    for tile, column, read in ((0, 0, True), (0, 4, False), (1, 0, False), (1, 4, True)):
        other = x.clone()
        other[tile].view(5, 5, 2)[:, column] += 1
        assert (not torch.equal(built(other, torch.tensor([[1, 2]])), base)) == read


def test_declaration() -> None:
    config = Stitch(side=5, size=4, margin=1)
    with FlopCounterMode(display=False) as counter:
        config.build()(noise(3, 25, 6), torch.tensor([[1, 3]]))
    assert config.flops({"V": Dim.of(3), "d": Dim.of(6)}).constant == counter.get_total_flops()
    with pytest.raises(ValueError, match="leave nothing of 4 tokens"):
        Stitch(side=4, size=4, margin=2)


@pytest.mark.parametrize("grid", [[[1, 2]], [[2, 2], [1, 0]], [[5, 1]]])
def test_grids_that_do_not_fit(grid: list[list[int]]) -> None:
    with pytest.raises(TileCount, match="but there are 4"):
        Stitch(side=2, size=2).build()(noise(4, 4, 3), torch.tensor(grid))


def test_a_prefix_ends_with_the_last_of_its_token() -> None:
    ids = torch.tensor([[1, 7, 7, 4, 7, 5], [1, 2, 3, 4, 5, 6], [7, 1, 1, 1, 1, 1]])
    wanted = [[True] * 5 + [False], [False] * 6, [True] + [False] * 5]
    assert PrefixTo(token=7).build()(ids).tolist() == wanted
    assert PrefixTo(token=[7, 6]).build()(ids).tolist() == [wanted[0], [True] * 6, wanted[2]]


@torch.no_grad()
def test_fourier_features_by_hand() -> None:
    config = Fourier(inputs=2, features=6, out=5)
    built, x = config.build(), noise(3, 2)
    angles = 2 * math.pi * (x.double() @ built.frequencies.double())
    features = torch.cat([angles.cos(), angles.sin()], -1)
    close(built(x), features @ built.proj.weight.double().T + built.proj.bias.double())
    for part, count in config.parameters().items():
        assert count == sum(p.numel() for name, p in built.named_parameters() if name.split(".")[0] == part)
    with FlopCounterMode(display=False) as counter:
        built(x)
    assert config.flops({"...": Dim.of(3)}).constant == counter.get_total_flops()
