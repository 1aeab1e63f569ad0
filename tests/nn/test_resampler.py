"""connector.resampler: published counts, the official OpenFlamingo vectors, Idefics' variant, the paper's invariances."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file

from vlmgraph.components.connector.resampler import Resampler
from vlmgraph.ir.dims import Dim

GOLDEN = Path(__file__).parents[1] / "golden" / "10-flamingo" / "resampler"
TINY = {"d": 12, "queries": 5, "layers": 2, "heads": 2, "head_dim": 4}


def build(**fields):
    torch.manual_seed(0)
    return Resampler(**{**TINY, **fields}).build().eval()


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"qk_norm": True, "bias": True},
        {"mlp": 0, "final_norm": False},
        {"frames": 3, "media": 2, "mlp": 7},
        {"keys": "media"},
        {"kv_heads": 1, "gated": True, "norm": "norm.rms", "qk_norm": True},
    ],
)
def test_counts_equal_the_module(fields):
    config = Resampler(**{**TINY, **fields})
    assert config.total() == sum(p.numel() for p in config.build().parameters())


def test_published_count():
    assert Resampler(d=1024, mlp=4096).total() == 63_019_008  # OpenFlamingo-3B


def open_flamingo(params):
    """OpenFlamingo's names → ours; keys and values were one matrix."""
    state = {"queries": params["latents"], "frames": params["frame_embs"], "media": params["media_time_embs"][:, 0]}
    names = {
        "0.norm_media": "norms.media",
        "0.norm_latents": "norms.attention",
        "0.to_q": "attention.q",
        "0.to_out": "attention.out",
        "1.0": "norms.mlp",
        "1.1": "mlp.fc1",
        "1.3": "mlp.fc2",
    }
    for key, value in params.items():
        if match := re.fullmatch(r"layers\.(\d+)\.0\.to_kv\.weight", key):
            state[f"layers.{match[1]}.attention.k.weight"], state[f"layers.{match[1]}.attention.v.weight"] = value.chunk(2)
        elif match := re.fullmatch(r"layers\.(\d+)\.([\w.]+)\.(weight|bias)", key):
            state[f"layers.{match[1]}.{names[match[2]]}.{match[3]}"] = value
        elif key.startswith("norm."):
            state["final_" + key] = value
    return state


def test_equals_the_official_vectors():
    tensors, info = load_file(f"{GOLDEN}.safetensors"), json.loads(GOLDEN.with_suffix(".json").read_text())
    c = info["config"]
    config = Resampler(
        d=c["dim"],
        queries=c["num_latents"],
        layers=c["depth"],
        heads=c["heads"],
        head_dim=c["dim_head"],
        mlp=c["dim"] * c["ff_mult"],
        frames=c["max_num_frames"],
        media=c["max_num_media"],
    )
    module = config.build().eval()
    state = open_flamingo({k[6:]: v for k, v in tensors.items() if k.startswith("param.")})
    module.load_state_dict(state)
    x = tensors["in.x"]
    for given, wanted in ((x, tensors["out.latents"]), (x[:, :1, :1], tensors["out.latents_one_image_one_frame"])):
        out = module(media=given)
        assert out.shape == wanted.shape
        assert ((out - wanted).norm() / wanted.norm()).item() < info["tolerance"]


IDEFICS = (
    (r"^latents$", "queries"),
    (r"^layer_norm\.", "final_norm."),
    (r"^blocks\.", "layers."),
    (r"\.0\.context_layer_norm\.", ".norms.media."),
    (r"\.0\.latents_layer_norm\.", ".norms.attention."),
    (r"\.0\.([qkv])_proj\.", r".attention.\1."),
    (r"\.0\.output_proj\.", ".attention.out."),
    (r"\.0\.([qk])_layer_norm\.", r".attention.\1_norm."),
    (r"\.1\.ln\.", ".norms.mlp."),
    (r"\.1\.fc\.", ".mlp.fc1."),
    (r"\.1\.c_proj\.", ".mlp.fc2."),
)


def test_equals_the_perceiver_of_idefics():
    pytest.importorskip("transformers")
    from types import SimpleNamespace

    from transformers.models.idefics.perceiver import IdeficsPerceiverResampler

    for qk_norm in (False, True):
        torch.manual_seed(1)
        config = SimpleNamespace(
            perceiver_config=SimpleNamespace(qk_layer_norms_perceiver=qk_norm), vision_config=SimpleNamespace(embed_dim=14)
        )
        reference = IdeficsPerceiverResampler(config, 14, 3, 2, 6, 5).eval()
        with torch.no_grad():
            for parameter in reference.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
        module = build(d=14, queries=5, layers=3, head_dim=6, act="relu", qk_norm=qk_norm, video=False)
        state = {}
        for key, value in reference.state_dict().items():
            for theirs, ours in IDEFICS:
                key = re.sub(theirs, ours, key)
            state[key] = value
        module.load_state_dict(state)
        context = torch.randn(3, 11, 14)
        torch.testing.assert_close(module(context), reference(context), rtol=1e-5, atol=1e-5)


def idefics2(**fields):
    """A resampler as Idefics2 has it, the reference's, and its weights under our names."""
    from transformers import Idefics2Config
    from transformers.models.idefics2.modeling_idefics2 import Idefics2PerceiverResampler

    torch.manual_seed(1)
    own = {"hidden_size": 12, "resampler_n_latents": 5, "resampler_depth": 3, "resampler_n_heads": 4, "num_key_value_heads": 2}
    own["resampler_head_dim"] = 6
    reference = Idefics2PerceiverResampler(Idefics2Config(perceiver_config=own, text_config={"hidden_size": 12}).perceiver_config).eval()
    with torch.no_grad():
        for parameter in reference.parameters():
            parameter.copy_(torch.randn_like(parameter).mul_(0.3) + (parameter.dim() == 1))
    names = (
        (r"^latents$", "queries"),
        (r"^norm\.", "final_norm."),
        (r"\.input_context_norm\.", ".norms.media."),
        (r"\.input_latents_norm\.", ".norms.attention."),
        (r"\.post_attention_layernorm\.", ".norms.mlp."),
        (r"\.self_attn\.([qkv])_proj\.", r".attention.\1."),
        (r"\.self_attn\.o_proj\.", ".attention.out."),
        (r"\.mlp\.(gate|up|down)_proj\.", r".mlp.\1."),
    )
    state = {}
    for key, value in reference.state_dict().items():
        for theirs, ours in names:
            key = re.sub(theirs, ours, key)
        state[key] = value
    form = {"act": "silu", "gated": True, "norm": "norm.rms", "norm_eps": 1e-6, "video": False, "init": "ones"}
    module = build(queries=5, layers=3, heads=4, kv_heads=2, head_dim=6, **{**form, **fields})
    module.load_state_dict(state)
    return module, reference


@torch.no_grad()
def test_equals_the_perceiver_of_idefics2():
    """Grouped heads, RMS norms, gated MLPs, and padding left out."""
    pytest.importorskip("transformers")
    module, reference = idefics2()
    media, mask = torch.randn(3, 11, 12), torch.ones(3, 11, dtype=torch.bool)
    mask[0, 7:], mask[2, ::2] = False, False
    torch.testing.assert_close(module(media, mask), reference(media, attention_mask=mask), rtol=1e-5, atol=1e-5)
    noisy = torch.where(mask[..., None], media, torch.randn(3, 11, 12) * 10)
    assert torch.equal(module(noisy, mask), module(media, mask)) and (module(noisy) - module(media)).abs().max() > 1e-2
    torch.testing.assert_close(module(media[:1, :7]), module(media, mask)[:1], rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_a_mask_over_frames_and_over_media_alone():
    mask = torch.ones(2, 3, 4, dtype=torch.bool)
    mask[1, 2], mask[0, :, 3] = False, False
    x = torch.randn(2, 3, 4, 12)
    noisy = torch.where(mask[..., None], x, torch.randn(2, 3, 4, 12))
    for fields in ({}, {"keys": "media"}):
        module = build(**fields)
        assert torch.equal(module(noisy, mask), module(x, mask.float())) and not torch.equal(module(noisy), module(x))


def test_latents_of_ones():
    """So all rows that go out are one and the same before training (Idefics2)."""
    module = build(init="ones", video=False)
    out = module(torch.randn(2, 7, 12))
    assert torch.equal(module.queries, torch.ones(5, 12)) and torch.allclose(out, out[:, :1].expand_as(out), atol=1e-6)
    assert not torch.allclose(build(video=False)(torch.randn(1, 7, 12))[:, :1], build(video=False)(torch.randn(1, 7, 12)), atol=1e-2)


def test_always_as_many_latents():
    module = build()
    for frames, tokens in ((1, 4), (8, 9), (3, 1)):
        assert module(torch.randn(2, frames, tokens, 12)).shape == (2, 5, 12)
    assert module(torch.randn(2, 3, 1, 4, 12)).shape == (2, 3, 5, 12)


def test_places_do_not_matter_but_frames_do():
    module = build(frames=4)
    x = torch.randn(1, 4, 6, 12)
    out = module(x)
    torch.testing.assert_close(module(x[:, :, torch.randperm(6)]), out, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(module(x[:, [1, 0, 3, 2]]), out, atol=1e-3)
    torch.testing.assert_close(build()(x[:, [1, 0, 3, 2]]), build()(x), rtol=1e-5, atol=1e-5)


def test_time_embeddings_stretch_linearly():
    """8 frames were trained; 30 at test time get interpolated ones, the first and the last as they were."""
    from vlmgraph.nn.resampler import time_table

    table = torch.arange(8.0)[:, None]
    long = time_table(table, 15)[:, 0]
    torch.testing.assert_close(long, torch.arange(15.0) / 2)
    assert torch.equal(time_table(table, 3), table[:3])
    assert build(frames=2)(torch.randn(1, 5, 3, 12)).shape == (1, 5, 12)


def test_keys_hold_the_latents():
    """With one media token the attention of keys = "media" has nothing to choose from; with the latents in it, it has."""
    x = torch.randn(1, 1, 1, 12)
    for keys, same in (("media", True), ("media+latents", False)):
        module = build(keys=keys, layers=1, mlp=0, final_norm=False)
        change = module(x) - module.queries
        assert torch.allclose(change[:, :1].expand_as(change), change, atol=1e-6) == same


def test_too_many_media():
    with pytest.raises(ValueError, match="3 media"):
        build(media=2)(torch.randn(1, 3, 1, 4, 12))


def test_signatures():
    shown = {str(Resampler(**f).signature().inputs["media"]) for f in ({}, {"video": False}, {"media": 2})}
    assert shown == {"tokens[B, F, V, d]", "tokens[B, V, d]", "tokens[B, M, F, V, d]"}
    with pytest.raises(ValidationError, match="frame axis"):
        Resampler(video=False, frames=4)
    with pytest.raises(ValidationError, match="3 do not divide 4 heads"):
        Resampler(heads=4, kv_heads=3)
    with pytest.raises(ValidationError, match="squared_relu"):
        Resampler(act="squaredrelu")
    assert build(act="squared_relu")(torch.randn(1, 1, 2, 12)).shape == (1, 5, 12)


def test_flops():
    config = Resampler(**TINY)
    symbols = {"B": Dim.of(3), "F": Dim.of(2), "V": Dim.of(4)}
    keys = 2 * 4 + 5
    layer = 5 * 12 * 8 + 2 * keys * 12 * 8 + 2 * 5 * keys * 8 + 5 * 8 * 12 + 2 * 5 * 12 * 48
    assert config.flops(symbols).constant == 2 * 3 * 2 * layer
    grouped = 5 * 12 * 8 + 2 * keys * 12 * 4 + 2 * 5 * keys * 8 + 5 * 8 * 12 + 3 * 5 * 12 * 48
    assert Resampler(**TINY, kv_heads=1, gated=True).flops(symbols).constant == 2 * 3 * 2 * grouped
