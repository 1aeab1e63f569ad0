"""Norms inside branches, attentive pooling without norms and residual, features in marked places: counts, and what does not fit."""

from __future__ import annotations

import pytest
import torch

from vlmgraph.components.connector.resampler import Resampler
from vlmgraph.components.decoder.transformer import DecoderTransformer
from vlmgraph.components.op.splice import Splice
from vlmgraph.components.text.transformer import TextTransformer
from vlmgraph.nn.splice import PlaceholderCount

INNER = {"attention.inner": "norm.layer", "mlp.inner": "norm.rms"}
EXPERTS = {"type": "attention.modality_expert", "experts": ["text", "vision"]}


@pytest.mark.parametrize(
    "fields", [{"mlp": 20}, {"mlp": {"type": "mlp.dense", "hidden": 20}}, {"mlp": 20, "attention": EXPERTS, "kv_heads": 2}]
)
def test_counts_of_norms_inside(fields):
    """Of all heads together, and of the MLP's hidden values; each expert has the same norm."""
    config = DecoderTransformer(layers=2, width=12, heads=4, head_dim=6, norms=INNER, **fields)
    stack = config.build()
    assert config.total() == sum(p.numel() for p in stack.parameters())
    assert stack.layers[1].attention.inner_norm.weight.shape == (24,) and stack.layers[1].mlp.inner_norm.weight.shape == (20,)
    plain = DecoderTransformer(layers=2, width=12, heads=4, head_dim=6, **fields)
    assert config.total() - plain.total() == 2 * (2 * 24 + 20)
    assert {k: v.shape for k, v in plain.build().state_dict().items()}.items() <= {
        k: v.shape for k, v in stack.state_dict().items()
    }.items()


def test_a_norm_inside_acts_on_what_the_last_map_reads():
    config = TextTransformer(layers=1, width=12, heads=3, mlp={"type": "mlp.gated", "hidden": 16}, norms=INNER)
    mlp = config.build().layers[0].mlp
    torch.nn.init.normal_(mlp.inner_norm.weight)
    x = torch.randn(2, 3, 12, generator=torch.Generator().manual_seed(0))
    inner = torch.nn.functional.gelu(mlp.gate(x)) * mlp.up(x)
    wanted = mlp.down(inner * torch.rsqrt(inner.pow(2).mean(-1, keepdim=True) + 1e-6) * mlp.inner_norm.weight)
    torch.testing.assert_close(mlp(x), wanted)


def test_layers_without_an_inside():
    with pytest.raises(ValueError, match=r"mlp.modality_expert has no point mlp.inner"):
        DecoderTransformer(layers=1, width=8, heads=2, mlp={"type": "mlp.modality_expert", "experts": ["a"], "hidden": 8}, norms=INNER)


def test_pooling_without_norms():
    config = Resampler(
        d=12, queries=3, layers=1, heads=2, head_dim=6, mlp=0, bias=True, norm="none", residual=False, final_norm=False, video=False
    )
    pool = config.build()
    assert config.total() == sum(p.numel() for p in pool.parameters()) == 3 * 12 + 4 * (12 * 12 + 12)
    mask = torch.tensor([[1, 1, 0, 1]])
    x = torch.randn(1, 4, 12, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(pool(x, mask), pool(x[:, [0, 1, 3]]))


def test_marked_places():
    splice = Splice(by="mask").build()
    text, features = torch.zeros(2, 4, 3), torch.arange(1.0, 10).view(1, 3, 3)
    where = torch.tensor([[0, 1, 1, 0], [0, 0, 0, 1]])
    out = splice(text, torch.ones(2, 4).long(), where, features)
    assert torch.equal(out["out"][where.bool()], features[0]) and not out["out"][~where.bool()].any()
    assert torch.equal(out["modality"], where) and out["mask"].all()
    with pytest.raises(PlaceholderCount, match="4 placeholders"):
        splice(text, torch.ones(2, 4).long(), torch.tensor([[1, 1, 1, 1], [0, 0, 0, 0]]), features)
    for fields in ({}, {"by": "mask", "token": 3}, {"by": "mask", "modality": "all but last"}):
        with pytest.raises(ValueError, match="token"):
            Splice(**fields)
