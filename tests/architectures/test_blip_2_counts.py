"""BLIP-2 (arXiv 2301.12597): published counts of every size and variant, and the image encoder."""

from __future__ import annotations

import pytest
import torch

from tests.architectures.common import built_counts, changed, close, fresh, graph, lively, measured, meta, noise, published
from vlmgraph.passes.expect import visual_tokens
from vlmgraph.train.stage import begin

QUERIES = 7


# The numbers are of section 3.1, table 2 and the released checkpoints.


def test_counts_of_the_published_parts() -> None:
    full = published("blip-2")
    assert full["vision"] + full["ln_vision"] == 985_952_256
    assert full["llm_proj"] == 1_968_640
    assert full["qformer"] + full["itg_head"] == 186_307_387  # with text path, queries and the untied part of the LM head; paper: 188M
    heads = full["image_proj"] + full["text_proj"] + full["itm_head"]
    assert full["vision"] + full["ln_vision"] + full["qformer"] + heads == 1_172_032_258  # what the retrieval checkpoint holds
    assert published("blip-2", None, "opt")["qformer"] == 105_137_664 + 24_576


@pytest.mark.parametrize(
    ("variant", "size", "total", "billions", "trained"),
    [
        ("opt", None, 3_744_679_936, 3.8, 107),
        ("opt", "opt-6.7b", 7_752_738_304, 7.8, 108),
        ("opt", "vit-l", None, 3.1, 104),
        ("flan-t5", None, 3_942_446_592, 4.1, 107),
        ("flan-t5", "flan-t5-xxl", 12_229_596_672, 12.1, 108),
        ("flan-t5", "vit-l", None, 3.4, 103),
    ],
)
def test_totals_of_the_second_stage(variant: str, size: str | None, total: int | None, billions: float, trained: int) -> None:
    """Table 2: millions that train and billions in all. The latter are rounded there, and not all to the nearest tenth."""
    counts = published("blip-2", size, variant)
    assert total in (None, counts["total"])
    assert abs(counts["total"] / 1e9 - billions) < 0.17
    stage = next(s for s in measured("blip-2", size, variant).stages if s.stage == "generation")
    assert abs(stage.trainable / 1e6 - trained) < 2 and not stage.unknown
    assert stage.trainable == count_trained("generation", size, variant)
    if (variant, size) == ("opt", None):
        assert stage.trainable == 107_133_696


def count_trained(stage: str, size: str | None, variant: str | None) -> int:
    model = meta("blip-2", size, variant)
    begin(model, stage)
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def test_trained_in_both_stages_of_one_spec() -> None:
    """The second stage drops text embeddings and text MLPs (section 3.3), also where the first stage's are there."""
    by_name = {s.stage: s.trainable for s in measured("blip-2").stages}
    assert (
        by_name["representation"]
        == 186_307_387 + 2 * 1408 + 2 * (768 * 256 + 256) + 2 * 768 + 2 + 1
        == count_trained("representation", None, None)
    )
    assert by_name["generation"] == 107_133_696 == count_trained("generation", None, None)


def test_declared_counts_are_the_tiny_ones_too() -> None:
    for variant in (None, "opt", "flan-t5"):
        assert built_counts(fresh("blip-2", "tiny", variant)) == {
            k: v for k, v in published("blip-2", "tiny", variant).items() if k != "total"
        }


def test_visual_tokens() -> None:
    """257 tokens with the class token at 224 pixels, 32 queries out of them; another number of image tokens changes nothing."""
    types = graph("blip-2").types()
    assert [str(d) for d in types["vision"].dims] == ["B", "257", "1408"]
    assert [str(d) for d in types["llm_proj"].dims] == ["B", "32", "2560"]
    assert visual_tokens(graph("blip-2"))["splice.vision"] == 32
    qformer = lively("blip-2").qformer
    for tokens in (1, 10, 300):
        assert qformer(image=noise(2, tokens, 40))["queries"].shape == (2, QUERIES, 32)


def test_vision_tower() -> None:
    """Section 3.1 and released code: 39 of ViT-g's 40 blocks, head dim 88, MLP int(1408 * 4.3637), no norm inside, ln_vision with eps 1e-5
    behind it. The released weights count a bias of k, which is zero and, being the same for all keys, cancels in the softmax."""
    model = meta("blip-2")
    block = model.vision.layers[0]
    assert len(model.vision.layers) == 39 and model.vision.final_norm is None
    assert block.mlp.fc1.weight.shape == (int(1408 * 4.3637), 1408) == (6144, 1408)
    assert block.attention.heads == 16 and block.attention.q.weight.shape == (16 * 88, 1408)
    assert all(not layer.attention.k.bias.any() for layer in fresh("blip-2").vision.layers)
    pixels = noise(1, 3, 42, 42)
    with torch.no_grad():
        before = lively("blip-2").vision(pixels)
        with changed(lively("blip-2"), *(f"vision.layers.{i}.attention.k.bias" for i in range(2))):
            close(lively("blip-2").vision(pixels), before)
        with changed(lively("blip-2"), "vision.layers.0.attention.q.bias"):
            assert not torch.allclose(lively("blip-2").vision(pixels), before, rtol=1e-3, atol=1e-3)
    assert block.norms["attention"].eps == 1e-6 and model.ln_vision.eps == 1e-5
