"""MetaCLIP (Xu et al. 2023, arXiv 2309.16671) is CLIP on other data; MetaCLIP 2 (arXiv 2507.22062) has another vocabulary."""

from __future__ import annotations

import pytest
import torch

from tests.architectures.common import graph, lively, measured, published, random_ids
from vlmgraph.ir.dims import Dim
from vlmgraph.report.tokens import visual_dims


@pytest.mark.parametrize(
    ("size", "total", "tokens"), [(None, 151_277_313, 50), ("b16", 149_620_737, 197), ("l14", 427_616_513, 257), ("h14", 986_109_441, 257)]
)
def test_parameters_and_tokens_are_those_of_clip(size: str | None, total: int, tokens: int) -> None:
    assert measured("metaclip", size).total == total
    assert list(visual_dims(graph("metaclip", size)).values()) == [Dim.of(tokens)]


def test_every_tower_uses_quick_gelu() -> None:
    for size, variant in ((None, None), ("h14", None), (None, "worldwide")):
        parts = graph("metaclip", size, variant).components
        assert {parts[tower].act for tower in ("vision", "text")} == {"quick_gelu"}


def test_worldwide_has_as_many_parameters_as_transformers() -> None:
    transformers = pytest.importorskip("transformers", minversion="5.0")
    tower = {"hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "num_attention_heads": 16, "patch_size": 14}
    words = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16, "vocab_size": 901_629}
    config = transformers.MetaClip2Config(text_config=words, vision_config=tower, projection_dim=1024)
    with torch.device("meta"):
        reference = transformers.MetaClip2Model(config)
    assert published("metaclip", None, "worldwide")["total"] == sum(p.numel() for p in reference.parameters())


def test_the_first_end_token_is_the_text_though_its_id_is_small() -> None:
    """The vocabulary's end token is 2: neither the largest id nor the last place, and padding behind it changes nothing."""
    feature = lively("metaclip", variant="worldwide").programs["encode_text"]
    ids = random_ids(3, 12)
    ids[:, 0] = 0
    ids[:, 7:] = torch.tensor([2, 1, 1, 1, 2])
    with torch.no_grad():
        before = feature(input_ids=ids)["text_embeds"]
        assert torch.equal(feature(input_ids=torch.cat([ids[:, :8], random_ids(3, 4, seed=5)], 1))["text_embeds"], before)
        for at in range(7):
            other = ids.clone()
            other[:, at] = 11
            assert ((feature(input_ids=other)["text_embeds"] - before).abs().amax(1) > 1e-5).all()
