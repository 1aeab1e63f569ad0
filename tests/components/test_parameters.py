"""Counts declared without torch equal those of the built modules, and building on meta equals building for real."""

from __future__ import annotations

import pytest
import torch

from vlmgraph.components.connector.gated_mlp import GatedMLPConnector
from vlmgraph.components.connector.glu import GLUConnector
from vlmgraph.components.connector.learned import LearnedQueries, LearnedTokens
from vlmgraph.components.connector.linear import LinearConnector
from vlmgraph.components.connector.mlp import MLPConnector
from vlmgraph.components.head.linear import LinearHead, MLPHead
from vlmgraph.components.head.lm import LMHead
from vlmgraph.components.head.mlm import MLMHead
from vlmgraph.components.head.similarity import Scale, Similarity

CONFIGS = [
    LinearConnector(d_in=5, out=7),
    LinearConnector(d_in=5, out=7, bias=False),
    MLPConnector(d_in=3, out=8, depth=1),
    MLPConnector(d_in=3, out=8),
    MLPConnector(d_in=3, out=8, depth=3, hidden=11, bias=False),
    GLUConnector(d_in=6, out=4, hidden=9),
    GLUConnector(d_in=6, out=4, hidden=9, norm="norm.rms", bias=True),
    GatedMLPConnector(d_in=6, out=4, hidden=9),
    GatedMLPConnector(d_in=6, out=4, hidden=9, bias=True),
    LearnedTokens(d=6),
    LearnedTokens(d=6, before=0, after=3),
    LearnedQueries(count=5, width=7),
    LMHead(width=6, vocab=13),
    LMHead(width=6, vocab=13, bias=True),
    LinearHead(d_in=6, out=2),
    MLPHead(d_in=6, out=17),
    MLPHead(d_in=6, out=17, hidden=4, depth=3),
    MLMHead(width=6, vocab=13),
    Similarity(d=4),
    Similarity(d=4, bias=-10.0, scale=Scale(init=10)),
    Similarity(d=4, scale=Scale(init=0.07, divide=True)),
]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: f"{c.kind}-{CONFIGS.index(c)}")
def test_counts(config):
    with torch.device("meta"):
        meta = config.build()
    real = config.build()
    assert config.total() == sum(p.numel() for p in real.parameters())
    assert {k: v.shape for k, v in meta.state_dict().items()} == {k: v.shape for k, v in real.state_dict().items()}
    for part, count in config.parameters().items():
        assert count == sum(p.numel() for n, p in real.named_parameters() if part in (n, n.split(".")[0])), part


def test_published_counts():
    """LLaVA-1.5 7B and 13B projectors, CogVLM's adapter with its two boundary vectors, Idefics2's modality projection, Janus' adaptors and
    generation head."""
    assert MLPConnector(d_in=1024, out=4096).total() == 20_979_712
    assert MLPConnector(d_in=1024, out=5120).total() == 31_467_520
    assert GLUConnector(d_in=1792, out=4096, hidden=11008).total() + LearnedTokens(d=4096).total() == 142_622_720
    assert GatedMLPConnector(d_in=1152, hidden=14336, out=4096).total() == 91_750_400
    assert MLPConnector(d_in=1024, out=2048).total() == 6_295_552
    assert MLPConnector(d_in=8, out=2048).total() == 4_214_784
    assert MLPHead(d_in=2048, out=16384).total() == 37_767_168
    assert LinearConnector(d_in=768, out=2560).total() == 1_968_640
    assert 1280 * 2 + MLPConnector(d_in=5120, out=3584, hidden=5120).total() == 44_575_744
