"""Attention over a square grid: who sees whom, the zeros around it, and the decomposed relative positions by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from tests.architectures.common import close, noise
from vlmgraph.components.vision.vit import VisionTransformer
from vlmgraph.ir.dims import Dim
from vlmgraph.nn.grid_attention import GridAttention

SIDE, WIDTH, HEADS = 5, 12, 2


@torch.no_grad()
def made(window: int | None = None, relative: bool = True) -> GridAttention:
    layer = GridAttention(WIDTH, HEADS, SIDE, window=window, relative=relative, bias="qkvo")
    for i, parameter in enumerate(layer.parameters()):
        parameter.copy_(0.5 * noise(*parameter.shape, seed=i))
    return layer


def reached(layer: GridAttention, row: int, column: int) -> set[tuple[int, int]]:
    """Places whose output moves with the token at (row, column)."""
    x = noise(1, SIDE * SIDE, WIDTH)
    other = x.clone()
    other[0, row * SIDE + column] += 1
    with torch.no_grad():
        moved = (layer(x) != layer(other)).any(-1)[0]
    return {divmod(int(i), SIDE) for i in moved.nonzero()}


def test_windows_keep_to_themselves() -> None:
    assert reached(made(3), 1, 2) == {(r, c) for r in range(3) for c in range(3)}
    assert reached(made(3), 4, 1) == {(r, c) for r in (3, 4) for c in range(3)}
    assert reached(made(3), 4, 4) == {(r, c) for r in (3, 4) for c in (3, 4)}
    assert len(reached(made(), 4, 4)) == SIDE * SIDE


@torch.no_grad()
def by_hand(layer: GridAttention, x: Tensor, side: int, relative: bool) -> Tensor:
    """One square, score by score."""
    assert layer.rows is not None and layer.columns is not None
    q, k, v = (part(x).double().unflatten(-1, (HEADS, -1)) for part in (layer.q, layer.k, layer.v))
    heads = []
    for h in range(HEADS):
        scores = q[:, h] @ k[:, h].T * layer.head_dim**-0.5
        for a in range(side * side if relative else 0):
            for b in range(side * side):
                (i, j), (m, n) = divmod(a, side), divmod(b, side)
                scores[a, b] += q[a, h] @ (layer.rows[i - m + side - 1] + layer.columns[j - n + side - 1]).double()
        heads.append(scores.softmax(-1) @ v[:, h])
    return layer.out.double()(torch.cat(heads, -1))


def test_relative_positions_by_hand() -> None:
    """The tables act on queries that are not scaled, rows and columns each by what lies between query and key."""
    x, layer = noise(1, SIDE * SIDE, WIDTH), made()
    got = layer(x).detach()
    close(got[0], by_hand(made(), x[0], SIDE, True))
    assert (got[0] - by_hand(made(), x[0], SIDE, False)).abs().max() > 0.01


def test_zeros_fill_the_last_windows_and_are_attended_to() -> None:
    """The corner's window of 2 x 2 tokens is computed as one of 3 x 3 with five zeros, whose keys and values are the biases."""
    x, layer = noise(1, SIDE * SIDE, WIDTH), made(3)
    corner = torch.zeros(3, 3, WIDTH)
    corner[:2, :2] = x[0].unflatten(0, (SIDE, SIDE))[3:, 3:]
    wanted = by_hand(made(3), corner.flatten(0, 1), 3, True).unflatten(0, (3, 3))[:2, :2]
    close(layer(x)[0].detach().unflatten(0, (SIDE, SIDE))[3:, 3:], wanted)


def test_tables_are_zero_at_first() -> None:
    layer = GridAttention(WIDTH, HEADS, SIDE)
    assert layer.rows is not None and layer.columns is not None
    assert layer.rows.shape == (9, 6) and not layer.rows.any() and not layer.columns.any()
    assert made(relative=False).rows is None


def tower(**fields: object) -> VisionTransformer:
    around = {"image_size": 60, "patch": 12, "layers": 4, "width": WIDTH, "heads": HEADS, "mlp": 20, "cls": False}
    grid = {"type": "attention.grid"}
    kinds = {"window": {"attention": {**grid, "window": 3}}}
    return VisionTransformer(**{**around, "attention": grid, "kinds": kinds, "pattern": ["window*2", "full"], **fields})  # type: ignore[arg-type]


def test_a_tower_tells_the_side_of_its_grid() -> None:
    """Counts and operations as torch counts them: windows with the zeros that fill them up."""
    config = tower()
    built = config.build()
    assert [layer.attention.window for layer in built.layers] == [3, 3, None, 3]
    assert [len(layer.attention.rows) for layer in built.layers] == [5, 5, 9, 5]
    assert config.total() == sum(p.numel() for p in built.parameters())
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter, torch.no_grad():
        built(noise(2, 3, 60, 60))
    assert config.flops({"B": Dim.of(2)}).constant == counter.get_total_flops()


@pytest.mark.parametrize("fields", [{"cls": True}, {"registers": 2}, {"mask": "causal"}, {"position": "position.rope"}])
def test_what_is_no_grid_is_refused(fields: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"attention.grid attends over a whole square grid"):
        tower(**fields)
