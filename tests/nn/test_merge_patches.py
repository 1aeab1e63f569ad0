"""Blocks of packed patches as large as each image says, and rows that are kept."""

from __future__ import annotations

import pytest
import torch

from vlmgraph.components.op.merge_patches import MergePatches as Declaration
from vlmgraph.nn.merge_patches import BlockSizes, Keep, MergePatches
from vlmgraph.nn.rope import grid_places

GRID = torch.tensor([[1, 3, 2], [2, 4, 6], [1, 6, 3], [1, 4, 8], [1, 5, 5]])
SIDES = torch.tensor([1, 2, 3, 4, 5])


def patches(seed: int = 1) -> torch.Tensor:
    return torch.randn(int(GRID.prod(1).sum()), 7, generator=torch.Generator().manual_seed(seed))


def frames(x: torch.Tensor) -> list[torch.Tensor]:
    """Maps [t, d, h, w] by image out of patches that come block by block."""
    made = []
    for part, (t, h, w), m in zip(x.split(GRID.prod(1).tolist()), GRID.tolist(), SIDES.tolist()):
        blocks = part.view(t, h // m, w // m, m, m, -1)
        made.append(blocks.permute(0, 1, 3, 2, 4, 5).reshape(t, h, w, -1).permute(0, 3, 1, 2))
    return made


def test_as_interpolated() -> None:
    """Each frame by itself, made smaller by torch; odd sides take the patch in the middle, even ones the four around it."""
    x = patches()
    wanted = [
        torch.nn.functional.interpolate(one, size=(one.shape[2] // m, one.shape[3] // m), mode="bilinear").permute(0, 2, 3, 1).flatten(0, 2)
        for one, m in zip(frames(x), SIDES.tolist())
    ]
    got = MergePatches()(x, GRID, SIDES)
    torch.testing.assert_close(got, torch.cat(wanted), rtol=1e-6, atol=1e-6)
    assert torch.equal(got[:6], x[:6])
    torch.testing.assert_close(got[6:18], x[6 : 6 + 48].unflatten(0, (12, 4)).mean(1), rtol=1e-6, atol=1e-6)
    assert Declaration().lengths({"grid": GRID.numpy(), "merges": SIDES.numpy()}) == [6, 12, 2, 2, 1] and len(got) == 23


def test_places_by_image() -> None:
    """Rows and columns of patches are those of their images, whatever the blocks."""
    places, frame = grid_places(GRID, len(patches()), SIDES)
    rows = torch.cat([torch.arange(h).repeat_interleave(w).repeat(t) for t, h, w in GRID.tolist()]).float()
    columns = torch.cat([torch.arange(w).repeat(h * t) for t, h, w in GRID.tolist()]).float()
    mapped = torch.cat([one.permute(0, 2, 3, 1).flatten(0, 2) for one in frames(places.T.float())])
    assert torch.equal(mapped, torch.stack([rows, columns], 1))
    assert frame.bincount().tolist() == [6, 24, 24, 18, 32, 25]
    for i, m in enumerate(SIDES.tolist()):
        alone, _ = grid_places(GRID[i : i + 1], int(GRID[i].prod()), m)
        start = int(GRID[:i].prod(1).sum())
        assert torch.equal(places[:, start : start + alone.shape[1]], alone)


@pytest.mark.parametrize(
    ("grid", "sides", "said"),
    [
        ([[1, 3, 4]], [2], "do not divide"),
        ([[1, 4, 4]], [0], "do not divide"),
        ([[1, 4, 4]], [2, 2], "do not divide"),
        ([[1, 2, 2]], [2], "12"),
    ],
)
def test_what_does_not_fit(grid: list[list[int]], sides: list[int], said: str) -> None:
    with pytest.raises(BlockSizes, match=said):
        MergePatches()(torch.zeros(12, 3), torch.tensor(grid), torch.tensor(sides))


def test_keep() -> None:
    x, keep = patches(), torch.arange(127) % 3 == 1
    assert torch.equal(Keep()(x[:127], keep), x[:127][1::3]) and torch.equal(Keep()(x[:127], keep.long()), x[:127][1::3])
    with pytest.raises(IndexError):
        Keep()(x[:126], keep)
