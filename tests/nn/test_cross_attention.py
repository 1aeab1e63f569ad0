"""Attention of some tokens to others, queries by the number of tokens, masks of patches."""

from __future__ import annotations

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import vlmgraph
from tests.architectures.common import close
from vlmgraph.components.connector.cross_attention import CrossAttention
from vlmgraph.components.connector.learned import LearnedQueries
from vlmgraph.diagnostics import codes
from vlmgraph.ir.dims import Dim
from vlmgraph.nn.patch_mask import PatchMask


@torch.no_grad()
@pytest.mark.parametrize("bias", [True, False])
def test_counts_and_flops_are_the_modules(bias: bool) -> None:
    config = CrossAttention(d=12, d_media=10, heads=3, bias=bias)
    module = config.build()
    assert config.total() == sum(p.numel() for p in module.parameters())
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        module(torch.randn(2, 5, 12), torch.randn(2, 7, 10), media_mask=torch.ones(2, 7))
    assert counter.get_total_flops() == config.flops({"B": Dim.of(2), "Q": Dim.of(5), "M": Dim.of(7)}).constant


@torch.no_grad()
def test_values_beside_the_keys_and_nothing_to_read() -> None:
    """Values of their own are what is read; who may read nothing gets the bias of the output alone."""
    torch.manual_seed(1)
    module = CrossAttention(d=12, d_media=10, heads=3).build()
    x, media, values = torch.randn(2, 5, 12), torch.randn(2, 7, 10), torch.randn(2, 7, 10)
    close(module(x, media, media), module(x, media), 1e-7)
    assert not torch.allclose(module(x, media, values), module(x, media), atol=1e-3)
    mask = torch.tensor([[1, 1, 0, 0, 0, 0, 0], [0] * 7])
    got = module(x, media, values, mask)
    close(got[:1], module(x[:1], media[:1, :2], values[:1, :2]), 1e-6)
    assert torch.equal(got[1], module.out.bias.expand(5, -1))


def test_queries_by_the_number_of_tokens() -> None:
    config = LearnedQueries(counts={4: 3, 9: 5}, width=6)
    assert config.rows == 5 and config.total() == 30 == sum(p.numel() for p in config.build().parameters())
    for fields, named in (({}, "count"), ({"count": 4, "counts": {4: 3, 9: 5}}, "counts"), ({"counts": {4: 0}}, "counts")):
        with pytest.raises(ValueError, match=named):
            LearnedQueries(width=6, **fields)  # type: ignore[arg-type]
    spec = {
        "extends": "aria",
        "inputs": {"pixel_values": "image[N, 3, 700, 700]?", "pixel_mask": "mask[N, 700, 700]?"},
        "expect": {"remove": True},
    }
    found = vlmgraph.check(spec)
    assert codes.WRONG_DIM in {d.code for d in found} and any("1225 or 4900 tokens, not of 2500" in d.message for d in found)


def test_a_patch_is_real_where_any_of_its_pixels_is() -> None:
    mask = torch.zeros(2, 7, 9)
    mask[0, :4, :5] = 1
    mask[1, 6] = 1  # behind the last whole patch
    assert PatchMask(3)(mask).view(2, 2, 3).tolist() == [[[True, True, False], [True, True, False]], [[False] * 3] * 2]
    assert PatchMask(3, "all")(mask)[0].view(2, 3).tolist() == [[True, False, False], [False] * 3]
