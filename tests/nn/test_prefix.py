"""Prefix attention and what AIM trains with: masks, drawn prefixes, joined sequences taken apart, normalised targets, their loss; pooling
with a query of its own, and positions that are computed."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from vlmgraph.components.connector.attention_pool import AttentionPool
from vlmgraph.components.layer.patch import ConvPatch
from vlmgraph.components.layer.sincos import SinCos, SinCos2D
from vlmgraph.components.vision.vit import VisionTransformer
from vlmgraph.nn.mask import attention_mask
from vlmgraph.nn.prefix import PrefixMask, Split
from vlmgraph.nn.regression import MSE, Standardize


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_rules_that_hold_where_something_is_fed():
    prefix = torch.tensor([[True, True, True, False, False]])
    i, j = torch.arange(5)[:, None], torch.arange(5)
    wanted = (j <= i) | ((i < 3) & (j < 3))
    assert torch.equal(attention_mask(("prefix_or_full",), 5, prefix=prefix)[0, 0], wanted)
    assert attention_mask(("prefix_or_full",), 5) is None and attention_mask(("causal_or_full",), 5) is None
    real = torch.tensor([[1, 1, 1, 1, 0]])
    assert torch.equal(attention_mask(("causal_or_full",), 5, padding=real)[0, 0], (j <= i) & (j < 4))
    assert torch.equal(attention_mask(("prefix_or_full",), 5, padding=real)[0, 0], (j < 4).expand(1, 5))


def test_prefix_lengths_are_drawn_from_one_to_all_but_one():
    """Each of the lengths about as often, in samples of one batch different ones; a given length is taken."""
    torch.manual_seed(0)
    draws = PrefixMask()(noise(7000, 8, 2)).sum(1)
    assert set(draws.tolist()) == set(range(1, 8))
    counts = torch.bincount(draws)[1:]
    assert (counts - 1000).abs().max() < 5 * math.sqrt(7000 * (1 / 7) * (6 / 7))  # five standard deviations
    given = PrefixMask()(noise(2, 4, 3), torch.tensor([1, 3]))
    assert given.tolist() == [[True, False, False, False], [True, True, True, False]]
    assert PrefixMask()(noise(2, 1, 3)).all()  # a single token is its own prefix


def test_a_joined_sequence_comes_apart():
    a, b = noise(2, 3, 4), noise(2, 5, 4, seed=1)
    parts = Split()(torch.cat([a, b], 1), a, b)
    assert torch.equal(parts["first"], a) and torch.equal(parts["second"], b)
    assert torch.equal(Split()(a, a)["first"], a) and torch.equal(Split()(b, second=b)["second"], b)


def test_targets_forget_brightness_and_contrast():
    x = noise(2, 3, 12)
    y = Standardize()(x)
    torch.testing.assert_close(y.mean(-1), torch.zeros(2, 3), atol=1e-6, rtol=0)
    torch.testing.assert_close(y.var(-1), torch.ones(2, 3), atol=1e-4, rtol=0)
    torch.testing.assert_close(Standardize()(3 * x + 7), y, atol=1e-4, rtol=0)
    assert torch.equal(Standardize()(torch.ones(1, 1, 6)), torch.zeros(1, 1, 6))  # a patch of one colour


def test_squared_error_over_what_counts():
    a, b = noise(2, 3, 4), noise(2, 3, 4, seed=1)
    skip = torch.tensor([[True, False, False], [True, True, False]])
    each = ((a - b) ** 2).mean(-1)
    torch.testing.assert_close(MSE()(a, b), each.mean())
    torch.testing.assert_close(MSE()(a, b, skip), (each[0, 1] + each[0, 2] + each[1, 2]) / 3)
    assert MSE()(a, b, torch.ones(2, 3, dtype=torch.bool)) == 0


def test_pooling_with_a_query_as_it_is():
    """softmax(q k^T) v behind a map with a bias, heads side by side; the query is learned and goes through no map."""
    config = AttentionPool(d=8, out=6, heads=2, query="learned", query_proj=False, bias=False, init="plain")
    pool = config.build()
    assert config.total() == sum(p.numel() for p in pool.parameters()) == 8 + 2 * 64 + 8 * 6 + 6
    assert {n.removeprefix("attention.") for n in pool.state_dict()} == {"query", "k.weight", "v.weight", "out.weight", "out.bias"}
    nn.init.normal_(pool.query)
    x = noise(3, 5, 8)
    k, v = pool.attention.k(x).unflatten(-1, (2, 4)), pool.attention.v(x).unflatten(-1, (2, 4))
    weights = (torch.einsum("hd,bnhd->bhn", pool.query.view(2, 4), k) / 2).softmax(-1)
    wanted = pool.attention.out(torch.einsum("bhn,bnhd->bhd", weights, v).flatten(1))
    torch.testing.assert_close(pool(x), wanted)
    real = torch.tensor([[1, 1, 0, 1, 0]]).expand(3, 5)
    torch.testing.assert_close(pool(x, real), pool(x[:, [0, 1, 3]]))


def test_patches_behind_a_norm():
    layer = ConvPatch(size=4, width=6, norm={"type": "norm.rms", "eps": 1e-5})
    patch = layer.build()
    assert layer.parameters() == {"": 6 * 48 + 6 + 6} and "norm.weight" in patch.state_dict()
    nn.init.normal_(patch.norm.weight)
    x, rows, columns = patch(noise(2, 3, 8, 12))
    assert (rows, columns) == (2, 3)
    plain = patch.proj(noise(2, 3, 8, 12)).flatten(2).transpose(1, 2)
    torch.testing.assert_close(x, plain / (plain.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt() * patch.norm.weight)


def test_sines_and_cosines():
    """Against the formulas; padding gets zeros."""
    code = SinCos(width=9, offset=2).build()
    got = code(torch.tensor([[0, 5, -1]]))
    for place, row in ((2, got[0, 0]), (7, got[0, 1])):
        angles = [place / 10000 ** (i / 3) for i in range(4)]
        wanted = [*map(math.sin, angles), *map(math.cos, angles), 0.0]
        torch.testing.assert_close(row, torch.tensor(wanted), atol=1e-6, rtol=0)
    assert not got[0, 2].any()
    flat = SinCos2D(width=8).build()(torch.zeros(1, 6, 8), 2, 3)[0]
    for index in range(6):
        row, column = divmod(index, 3)
        rates = [1.0, 1 / 100]
        wanted = [f(place * rate) for place in (column, row) for f in (math.sin, math.cos) for rate in rates]
        torch.testing.assert_close(flat[index], torch.tensor(wanted), atol=1e-6, rtol=0)
    with pytest.raises(ValueError, match="divide by 4"):
        SinCos2D(width=10)


def test_a_tower_for_any_aspect_ratio():
    """No table of positions; a patch that is padding changes nothing for the others, and its image's size nothing for its place."""
    config = VisionTransformer(patch=4, layers=1, width=8, heads=2, mlp=12, cls=False, position="position.sincos_2d")
    tower = config.build().eval()
    assert config.total() == sum(p.numel() for p in tower.parameters()) and "position" not in config.parameters()
    for parameter in tower.parameters():
        nn.init.normal_(parameter, std=0.3)
    image = noise(1, 3, 8, 12)
    alone = tower(image)
    assert alone.shape == (1, 6, 8)
    larger = torch.zeros(1, 3, 12, 16)
    larger[:, :, :8, :12] = image
    real = torch.tensor([[1, 1, 1, 0, 1, 1, 1, 0, 0, 0, 0, 0]])
    torch.testing.assert_close(tower(larger, mask=real)[real.bool()], alone[0])
    moved = tower(image.roll(4, -1))
    assert not torch.allclose(moved.sort(1).values, alone.sort(1).values, atol=1e-3)
