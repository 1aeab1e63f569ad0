"""Stacks declared without torch: counts equal the built modules', building on meta equals building for real."""

from __future__ import annotations

import pytest
import torch

from vlmgraph.components.decoder.encdec import EncoderDecoder
from vlmgraph.components.decoder.transformer import DecoderTransformer
from vlmgraph.components.layer.norm import LayerNorm, RMSNorm
from vlmgraph.components.text.embedding import TextEmbedding
from vlmgraph.components.text.transformer import TextTransformer
from vlmgraph.components.vision.vit import VisionTransformer
from vlmgraph.ir.dims import Dim, DimError
from vlmgraph.lower.build import allocate
from vlmgraph.plugins import registry
from vlmgraph.presets import load_preset, names

VIT = {"image_size": 12, "patch": 4, "layers": 2, "width": 16, "heads": 4, "mlp": 24}
LLM = {"layers": 3, "width": 16, "heads": 4, "mlp": 24}
XATTN = {"name": "xattn", "every": 2, "start": 1, "block": {"type": "block.gated_cross_attention", "heads": 2, "head_dim": 5}}

CONFIGS = [
    VisionTransformer(**VIT),
    VisionTransformer(**VIT, pre_norm=True, patch_bias=False, cls=False, registers=3, norms={"attention.qk": "norm.layer"}),
    VisionTransformer(**VIT, order="sub_post", final_norm=False, bias="qvo", residual="layer_scale"),
    VisionTransformer(**{**VIT, "image_size": 14}, crop=True, order="sandwich", norm="norm.rms", drop_prefix=True),
    VisionTransformer(layers=2, width=16, heads=4, mlp=24, patch="patch.linear", d_patch=21, cls=False, position="position.rope_2d"),
    TextTransformer(**LLM, order="post", norm_eps=1e-12),
    TextTransformer(**LLM, cross="attention.cross", d_media=9, bias=False),
    DecoderTransformer(**LLM, kv_heads=2, bias="qkv", vocab=30),
    DecoderTransformer(**LLM, norm="norm.layer", bias=True, position={"type": "position.learned", "offset": 2}, max_positions=20),
    DecoderTransformer(
        **{k: v for k, v in LLM.items() if k != "mlp"},
        attention={"type": "attention.modality_expert", "experts": ["text", "vision"]},
        mlp={"type": "mlp.modality_expert", "experts": ["text", "vision"], "hidden": 24},
    ),
    DecoderTransformer(**LLM, insert=[XATTN], d_media=10),
    DecoderTransformer(
        **LLM,
        insert=[{**XATTN, "block": {"type": "block.cross_attention", "gate": "vector", "qk_norm": "norm.rms", "mlp": 30}}],
        d_media=10,
    ),
    DecoderTransformer(**LLM, pattern=["wide", "full"], kinds={"wide": {"mlp": 40, "attention": "none"}}),
    DecoderTransformer(**LLM, order="parallel", attention={"type": "attention.mha", "qk_norm": "norm.rms", "qk_norm_over": "all"}),
    EncoderDecoder(layers=2, decoder_layers=1, width=16, heads=4, head_dim=3, mlp=24),
    TextEmbedding(vocab=11, width=6, added=2, max_positions=9, offset=2, types=2, norm="norm.layer"),
    TextEmbedding(vocab=11, width=6),
    LayerNorm(width=7, bias=False),
    RMSNorm(width=7),
]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: f"{c.kind}-{CONFIGS.index(c)}")
def test_counts(config):
    with torch.device("meta"):
        meta = config.build()
    real = config.build()
    assert {k: v.shape for k, v in meta.state_dict().items()} == {k: v.shape for k, v in real.state_dict().items()}
    parts = config.parameters()
    assert config.total() == sum(p.numel() for p in real.parameters())
    found = dict.fromkeys(parts, 0)
    for name, parameter in real.named_parameters():
        found[part_of(name, parts)] += parameter.numel()
    assert found == parts
    allocate(meta, "cpu", torch.float32)
    assert all(v.isfinite().all() for v in meta.state_dict().values())


def part_of(name: str, parts: dict[str, int]) -> str:
    """The most exact part whose segments stand in the parameter's path in their order."""

    def inside(part: str) -> bool:
        rest = iter(name.split("."))
        return all(segment in rest for segment in part.split("."))

    return max((p for p in parts if inside(p)), key=lambda p: p.count("."))


@pytest.mark.parametrize(
    ("preset", "kind", "fields", "count"),
    [
        ("clip-vit-l-14-336", "vision.vit", {}, 303_507_456),
        ("siglip-l-16-384", "vision.vit", {}, 303_688_704),
        ("eva-clip-vit-g-14", "vision.vit", {"layers": 39, "final_norm": False}, 985_952_256 - 2 * 1408),
        ("eva2-clip-e-490", "vision.vit", {}, 4_282_641_664),
        ("vicuna-7b-v1.5", "decoder.transformer", {}, 6_738_415_616 - 2 * 32000 * 4096),
        ("qwen2-7b", "decoder.transformer", {}, 8_291_375_616 - 675_759_104 - 2 * 152064 * 3584),
        ("deepseek-llm-1.3b", "decoder.transformer", {}, 1_652_656_128 - 2 * 102400 * 2048),
        ("opt-2.7b", "decoder.transformer", {}, 2_651_596_800 - 50272 * 2560),
        ("flan-t5-xl", "encdec.transformer", {}, 2_849_757_184 - 2 * 32128 * 2048),
    ],
)
def test_published_counts(preset, kind, fields, count):
    config = registry().load(kind)(**{**load_preset(preset, kind).fields, **fields})
    assert config.total() == count


def test_experts_and_insertions_are_counted_apart():
    """CogVLM's visual expert (6,476,005,376 parameters) and OpenFlamingo-3B's inserted layers (881,000,496)."""
    experts = {"experts": ["text", "vision"]}
    fields = load_preset("vicuna-7b-v1.5", "decoder.transformer").fields
    config = DecoderTransformer(
        **{
            **fields,
            "attention": {"type": "attention.modality_expert", **experts},
            "mlp": {"type": "mlp.modality_expert", "hidden": 11008, **experts},
        }
    )
    assert sum(n for part, n in config.parameters().items() if part.endswith("vision")) == 6_476_005_376
    block = {
        "type": "block.gated_cross_attention",
        "heads": 8,
        "head_dim": 64,
        "bias": False,
        "mlp": {"type": "mlp.dense", "hidden": 8192, "act": "gelu", "bias": False},
    }
    norm = {"type": "norm.layer"}
    insert = [{"name": "xattn", "every": 1, "block": {**block, "norm": norm}}]
    config = DecoderTransformer(**{**load_preset("mpt-1b", "decoder.transformer").fields, "insert": insert, "d_media": 1024})
    assert sum(n for part, n in config.parameters().items() if part.startswith("inserts.xattn")) == 881_000_496


def test_every_preset_of_a_stack_is_counted():
    for name, kinds in names().items():
        for kind in kinds.split(", "):
            if kind in ("vision.vit", "text.transformer", "decoder.transformer", "encdec.transformer"):
                assert registry().load(kind)(**load_preset(name, kind).fields).total() > 10**7


def test_token_counts_and_images_that_do_not_fit():
    def tokens(**fields):
        config = VisionTransformer(**{**VIT, **fields})
        return config.signature().outputs["out"].dims[1]

    assert tokens() == Dim.of(10) and tokens(drop_prefix=True) == Dim.of(9) and tokens(registers=2) == Dim.of(12)
    assert tokens(image_size=14, crop=True) == Dim.of(10)
    assert str(tokens(image_size=None)) == "(image_size/4)*(image_size/4)+1"
    with pytest.raises(DimError, match="14 is not divisible by 4"):
        tokens(image_size=14)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"heads": 3}, "3 heads do not divide the width 16"),
        ({"kv_heads": 3}, "kv_heads: 3 do not divide 4 heads"),
        ({"attention": "attention.mhaa"}, "there is no layer 'attention.mhaa'; near it: attention.mha"),
        ({"attention": "mlp.dense"}, "does not fit here; this slot takes attention"),
        ({"mlp": {"type": "mlp.gated", "hiden": 3}}, "Extra inputs are not permitted"),
        ({"mlp": "mlp.dense", "act": "gleu"}, "Input should be"),
        ({"mlp": True}, "True is not a type"),
        ({"bias": "xyz"}, "does not say which projections"),
        ({"norms": {"attention.qq": "norm.rms"}}, "there is no point 'attention.qq'"),
        ({"position": {"type": "position.mrope", "sections": [1, 1, 1]}}, "a head of 4 has 2"),
        ({"pattern": ["linear*2"]}, "there is no kind 'linear'"),
        ({"insert": [{"name": "a", "layers": [9], "block": "block.cross_attention"}]}, "there is no layer 9"),
        ({"insert": [{"name": "a b", "every": 1, "block": "block.cross_attention"}]}, "cannot name"),
        ({"mask": "window"}, "go together"),
        ({"cross": "attention.mha"}, "does not read media"),
        ({"mask": "causel"}, "Input should be"),
    ],
)
def test_what_does_not_fit_is_said(fields, words):
    with pytest.raises(ValueError, match=words.replace("(", r"\(")):
        DecoderTransformer(**{**LLM, **fields})
