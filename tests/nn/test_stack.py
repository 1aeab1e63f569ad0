"""What holds for every stack: cache, masks, experts, insertions, patterns, packing."""

from __future__ import annotations

import copy

import pytest
import torch

from vlmgraph.components.decoder.transformer import DecoderTransformer
from vlmgraph.components.text.embedding import TextEmbedding
from vlmgraph.components.text.transformer import TextTransformer
from vlmgraph.components.vision.vit import VisionTransformer
from vlmgraph.nn.attention import Attention
from vlmgraph.nn.cache import KVCache
from vlmgraph.nn.mask import attention_mask, safe
from vlmgraph.nn.position import ALiBi
from vlmgraph.nn.rope import grid_places

LLM = {"layers": 3, "width": 16, "heads": 4, "mlp": 24}
EXPERTS = {"experts": ["text", "vision"]}
XATTN = {"name": "xattn", "layers": [1], "block": {"type": "block.gated_cross_attention", "heads": 2, "head_dim": 5}}


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(3)


def lively(config):
    """The built module with nothing left at zero or one."""
    module = config.build().eval()
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return module


CACHED = [
    DecoderTransformer(**LLM, kv_heads=2),
    DecoderTransformer(**LLM, position={"type": "position.learned", "offset": 2}, max_positions=30),
    DecoderTransformer(**LLM, position="position.alibi", norm="norm.layer"),
    DecoderTransformer(**LLM, position={"type": "position.rope", "fraction": 0.5, "interleaved": True}),
    DecoderTransformer(**LLM, position="position.relative_bias", mask=["causal", "window"], window=3),
    DecoderTransformer(**LLM, order="parallel", attention={"type": "attention.mha", "soft_cap": 2.0}),
]


@torch.no_grad()
@pytest.mark.parametrize("config", CACHED, ids=range(len(CACHED)))
@pytest.mark.parametrize("whole", [True, False], ids=["mask of all", "mask of the new"])
def test_cached_equals_uncached(config, whole):
    stack = lively(config)
    x = torch.randn(3, 9, 16)
    mask = torch.ones(3, 9, dtype=torch.long)
    mask[0, :4] = 0
    mask[1, :1] = 0
    expected = stack(x, mask)
    cache = KVCache()
    parts, done = [], 0
    for end in (5, 7, 8, 9):
        parts.append(stack(x[:, done:end], mask[:, :end] if whole else mask[:, done:end], cache=cache))
        done = end
    assert cache.length == 9
    torch.testing.assert_close(torch.cat(parts, 1)[mask.bool()], expected[mask.bool()], rtol=1e-4, atol=1e-5)
    cache.reorder(torch.tensor([2, 0]))
    more = torch.randn(2, 1, 16)
    again = stack(torch.cat([x[[2, 0]], more], 1), torch.cat([mask[[2, 0]], torch.ones(2, 1, dtype=torch.long)], 1))
    torch.testing.assert_close(stack(more, cache=cache)[:, 0], again[:, -1], rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_padding_changes_nothing_and_gives_no_nan():
    stack = lively(DecoderTransformer(**LLM))
    x = torch.randn(1, 6, 16)
    padded = torch.cat([torch.randn(1, 3, 16), x], 1)
    mask = torch.tensor([[0] * 3 + [1] * 6])
    out = stack(padded, mask)
    torch.testing.assert_close(out[:, 3:], stack(x), rtol=1e-4, atol=1e-5)  # rotary phases are relative
    assert stack(x, torch.zeros(1, 6)).isfinite().all()


def test_mask_rules():
    t, f = True, False
    assert attention_mask(("full",), 3) is None
    assert attention_mask(("causal",), 3)[0, 0].tolist() == [[t, f, f], [t, t, f], [t, t, t]]
    assert attention_mask(("causal",), 1, past=2)[0, 0].tolist() == [[t, t, t]]
    assert attention_mask(("causal", "window"), 3, window=2)[0, 0].tolist() == [[t, f, f], [t, t, f], [f, t, t]]
    prefix = torch.tensor([[1, 1, 0]])
    assert attention_mask(("prefix",), 3, prefix=prefix)[0, 0].tolist() == [[t, t, f], [t, t, f], [t, t, t]]
    within = attention_mask(("prefix", "window"), 4, prefix=torch.tensor([[1, 1, 1]]), window=2)  # a token behind it is not of the prefix
    assert within[0, 0].tolist() == [[t, t, t, f], [t, t, t, f], [t, t, t, f], [f, f, t, t]]
    segments = torch.tensor([[0, 0, 1]])
    assert attention_mask(("segments",), 3, segments=segments)[0, 0].tolist() == [[t, t, f], [t, t, f], [f, f, t]]
    padding = torch.tensor([[0, 1, 1]])
    masked = attention_mask(("causal",), 3, padding=padding)
    assert masked[0, 0].tolist() == [[f, f, f], [f, t, f], [f, t, t]]
    assert safe(masked)[0, 0].tolist() == [[t, f, f], [f, t, f], [f, t, t]]


@torch.no_grad()
def test_text_only_is_bitwise_the_plain_model():
    """Without modality ids the first expert runs exactly as a stack without experts (CogVLM)."""
    fields = {k: v for k, v in LLM.items() if k != "mlp"}
    expert = lively(
        DecoderTransformer(
            **fields,
            attention={"type": "attention.modality_expert", **EXPERTS},
            mlp={"type": "mlp.modality_expert", "hidden": 24, **EXPERTS},
        )
    )
    plain = DecoderTransformer(**LLM).build().eval()
    plain.load_state_dict({k.replace("experts.text.", ""): v for k, v in expert.state_dict().items() if "vision" not in k})
    x = torch.randn(2, 7, 16)
    assert torch.equal(expert(x), plain(x))
    modality = torch.tensor([[0, 1, 1, 1, 0, 0, 0]] * 2)
    mixed = expert(x, modality=modality)
    torch.testing.assert_close(mixed[:, 0], plain(x)[:, 0])
    assert not torch.allclose(mixed, plain(x), atol=1e-3)
    copies = copy.deepcopy(expert)
    copies.load_state_dict({k: expert.state_dict()[k.replace("vision", "text")] for k in expert.state_dict()})
    torch.testing.assert_close(copies(x, modality=modality), plain(x), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(expert(x, modality=modality * 2), mixed)  # ids past the last expert go to it


@torch.no_grad()
def test_routing_without_reading_values_agrees():
    expert = lively(
        DecoderTransformer(**{k: v for k, v in LLM.items() if k != "mlp"}, mlp={"type": "mlp.modality_expert", "hidden": 24, **EXPERTS})
    )
    x, modality = torch.randn(2, 7, 16), torch.randint(0, 2, (2, 7))
    import vlmgraph.nn.mlp as mlp

    expected, readable = expert(x, modality=modality), mlp.readable
    try:
        mlp.readable = lambda _: False
        torch.testing.assert_close(expert(x, modality=modality), expected)
    finally:
        mlp.readable = readable
    assert expert.to("meta")(x.to("meta"), modality=modality.to("meta")).shape == x.shape


def test_inserted_blocks_begin_as_the_identity_and_learn_their_gates():
    """Flamingo: with gates at zero any media leave the model as it was; only the gates have gradients."""
    config = DecoderTransformer(**LLM, insert=[XATTN], d_media=10)
    stack = config.build()
    stack.init_weights()
    plain = DecoderTransformer(**LLM).build()
    plain.load_state_dict({k: v for k, v in stack.state_dict().items() if "inserts" not in k})
    x, media = torch.randn(2, 5, 16), torch.randn(2, 6, 10)
    mask = torch.ones(2, 5, 6, dtype=torch.bool)
    assert torch.equal(stack(x, media=media, media_mask=mask), plain(x))
    stack(x, media=media, media_mask=mask).sin().sum().backward()
    block = stack.inserts["xattn"]["1"]
    assert block.gates["cross"].weight.grad.abs() > 0 and block.gates["mlp"].weight.grad.abs() > 0
    assert block.cross.q.weight.grad.abs().sum() == 0 and block.mlp.gate.weight.grad.abs().sum() == 0


@torch.no_grad()
@pytest.mark.parametrize("bias", [False, True])
def test_a_token_without_media_takes_nothing(bias):
    block = {**XATTN["block"], "bias": bias}
    stack = lively(DecoderTransformer(**LLM, insert=[{**XATTN, "block": block}], d_media=10))
    x, media, mask = torch.randn(1, 5, 16), torch.randn(1, 6, 10), torch.ones(1, 5, 6, dtype=torch.bool)
    mask[:, :2] = False
    out = stack(x, media=media, media_mask=mask)
    torch.testing.assert_close(out[:, :2], stack(x)[:, :2])  # the MLP behind its gate acts all the same
    torch.testing.assert_close(out[:, :2], stack(x, media=torch.randn(1, 6, 10), media_mask=mask)[:, :2])
    assert not torch.allclose(out[:, 2:], stack(x, media=torch.randn(1, 6, 10), media_mask=mask)[:, 2:], atol=1e-3)
    left_out = lively(DecoderTransformer(**LLM, insert=[{**XATTN, "block": {"type": "block.cross_attention"}}], d_media=10))
    assert torch.equal(left_out(x), strip(left_out)(x))


def strip(stack):
    plain = DecoderTransformer(**LLM).build().eval()
    plain.load_state_dict({k: v for k, v in stack.state_dict().items() if "inserts" not in k})
    return plain


@torch.no_grad()
def test_cross_attention_is_skipped_where_nothing_is_fed():
    fields = {**LLM, "norm_eps": 1e-5}
    stack = lively(TextTransformer(**fields, cross="attention.cross", d_media=10))
    plain = TextTransformer(**fields).build().eval()
    plain.load_state_dict({k: v for k, v in stack.state_dict().items() if "cross" not in k})
    x, media = torch.randn(2, 5, 16), torch.randn(2, 6, 10)
    assert torch.equal(stack(x), plain(x))
    short = stack(x, media=media, media_mask=torch.tensor([[1] * 4 + [0] * 2] * 2))
    torch.testing.assert_close(short, stack(x, media=media[:, :4]))


@torch.no_grad()
def test_packed_patches_of_many_images_are_each_their_own():
    vit = lively(
        VisionTransformer(
            layers=2,
            width=16,
            heads=2,
            mlp=24,
            patch="patch.linear",
            d_patch=11,
            cls=False,
            mask="segments",
            position={"type": "position.rope_2d", "merge": 2},
        )
    )
    grids = torch.tensor([[1, 4, 2], [2, 2, 6], [1, 2, 2]])
    images = [torch.randn(int(g.prod()), 11) for g in grids]
    out = vit(torch.cat(images), grid=grids, taps=(1,))
    alone = [vit(image, grid=grid[None]) for image, grid in zip(images, grids, strict=True)]
    torch.testing.assert_close(out["out"], torch.cat(alone), rtol=1e-4, atol=1e-5)
    assert out["hidden.1"].shape == (sum(len(i) for i in images), 16)
    places, frames = grid_places(torch.tensor([[2, 2, 4]]), 16, 2)
    assert places[0].tolist() == [0, 0, 1, 1] * 4 and places[1].tolist() == [0, 1, 0, 1, 2, 3, 2, 3] * 2
    assert frames.tolist() == [0] * 8 + [1] * 8


def test_pattern_gives_layers_of_several_kinds():
    stack = DecoderTransformer(
        **{**LLM, "layers": 5}, pattern=["near*2", "full"], kinds={"near": {"mask": ["causal", "window"], "window": 2, "mlp": 8}}
    ).build()
    assert stack.rules == (("causal", "window"),) * 2 + (("causal",),) + (("causal", "window"),) * 2
    assert [layer.mlp.up.out_features for layer in stack.layers] == [8, 8, 24, 8, 8]


@torch.no_grad()
def test_added_rows_are_further_ids():
    embed = TextEmbedding(vocab=5, width=3, added=2, scale=2.0).build()
    embed.init_weights()
    table = torch.cat([embed.tokens.weight, embed.added.weight])
    ids = torch.tensor([[0, 4, 5, 6, 1]])
    assert torch.equal(embed(ids), table[ids] * 2.0)


def test_alibi_slopes_of_a_head_count_that_is_no_power_of_two():
    """Slopes of 6 heads: those of 4 heads, then every second one of 8 (arXiv 2108.12409), in MPT's order."""
    slope = -ALiBi(6)(2)[0, :, 1, 0]
    assert torch.allclose(slope, torch.tensor([2**-2, 2**-4, 2**-6, 2**-8, 2**-1, 2**-3]))


def test_attention_says_what_does_not_fit():
    with pytest.raises(ValueError, match="3 kv_heads do not divide 4 heads"):
        Attention(16, 4, 3)
    with pytest.raises(ValueError, match="3 heads do not divide the width 16"):
        Attention(16, 3)


def test_first_weights_follow_the_papers():
    """CLIP: attention width**-0.5, what writes into the stream smaller by (2 layers)**-0.5, fc1 (2 width)**-0.5."""
    stack = TextTransformer(layers=8, width=64, heads=4, mlp=256, act="quick_gelu", init="clip").build()
    stack.init_weights()
    layer = stack.layers[3]
    for weight, std in (
        (layer.attention.q, 64**-0.5),
        (layer.attention.out, 64**-0.5 / 4),
        (layer.mlp.fc2, 64**-0.5 / 4),
        (layer.mlp.fc1, 128**-0.5),
    ):
        assert abs(weight.weight.std().item() / std - 1) < 0.05
    assert layer.attention.q.bias.abs().sum() == 0
