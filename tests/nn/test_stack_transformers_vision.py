"""Vision towers, filled as each architecture fills them, against transformers' own modules on random weights."""

from __future__ import annotations

import re

import pytest
import torch

from tests.nn.stack_reference import CLIP, close, fill, qwen2_vl, shake
from vlmgraph.components.vision.vit import VisionTransformer

transformers = pytest.importorskip("transformers")


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(7)


@torch.no_grad()
def test_clip_vision():
    config = transformers.CLIPVisionConfig(
        hidden_size=24, intermediate_size=36, num_hidden_layers=3, num_attention_heads=4, image_size=12, patch_size=4
    )
    theirs = shake(transformers.CLIPVisionModel(config))
    ours = VisionTransformer(
        image_size=12, patch=4, patch_bias=False, layers=3, width=24, heads=4, mlp=36, act="quick_gelu", pre_norm=True
    ).build()
    front = [
        (r"embeddings\.class_embedding", "cls"),
        (r"embeddings\.patch_embedding\.weight", "patch.proj.weight"),
        (r"embeddings\.position_embedding\.weight", "position.weight"),
        (r"pre_layrnorm\.(.*)", r"pre_norm.\1"),
        (r"post_layernorm\.(.*)", r"final_norm.\1"),
    ]
    fill(ours, theirs.state_dict(), front + CLIP, r"^(vision_model\.)?(encoder\.)?")
    images = torch.randn(2, 3, 12, 12)
    expected = theirs(images, output_hidden_states=True)
    out = ours(images, taps=(0, 2, 3))
    for i in (0, 2, 3):
        close(out[f"hidden.{i}"], expected.hidden_states[i])
    close(out["out"][:, 0], expected.pooler_output)
    stopped = ours(images, taps=(2,), until=True)
    assert list(stopped) == ["hidden.2"] and torch.equal(stopped["hidden.2"], out["hidden.2"])
    larger = torch.randn(1, 3, 20, 16)
    close(ours(larger)[:, 0], theirs(larger, interpolate_pos_encoding=True).pooler_output)


@torch.no_grad()
def test_siglip_vision():
    config = transformers.SiglipVisionConfig(
        hidden_size=24, intermediate_size=36, num_hidden_layers=2, num_attention_heads=4, image_size=14, patch_size=4, vision_use_head=False
    )
    theirs = shake(transformers.SiglipVisionModel(config))
    fields = {
        "image_size": 14,
        "patch": 4,
        "crop": True,
        "layers": 2,
        "width": 24,
        "heads": 4,
        "mlp": 36,
        "act": "gelu_tanh",
        "norm_eps": 1e-6,
        "cls": False,
    }
    ours = VisionTransformer(**fields).build()
    front = [
        (r"embeddings\.patch_embedding\.(.*)", r"patch.proj.\1"),
        (r"embeddings\.position_embedding\.weight", "position.weight"),
        (r"post_layernorm\.(.*)", r"final_norm.\1"),
    ]
    fill(ours, theirs.state_dict(), front + CLIP, r"^(vision_model\.)?(encoder\.)?")
    images = torch.randn(2, 3, 14, 14)
    close(ours(images), theirs(images).last_hidden_state)


@torch.no_grad()
def test_blip2_vision():
    config = transformers.Blip2VisionConfig(
        hidden_size=24, intermediate_size=36, num_hidden_layers=2, num_attention_heads=4, image_size=12, patch_size=4
    )
    theirs = shake(transformers.Blip2VisionModel(config))
    ours = VisionTransformer(
        image_size=12, patch=4, layers=2, width=24, heads=4, mlp=36, act="gelu", norm_eps=config.layer_norm_eps
    ).build()
    state = {re.sub(r"^(encoder\.)?", "", k): v for k, v in theirs.state_dict().items()}
    for name in [n for n in state if ".qkv." in n]:
        for part, letter in zip(state.pop(name).chunk(3), "qkv", strict=True):
            state[name.replace("qkv", f"{letter}_proj")] = part
    front = [
        (r"embeddings\.class_embedding", "cls"),
        (r"embeddings\.position_embedding", "position.weight"),
        (r"embeddings\.patch_embedding\.(.*)", r"patch.proj.\1"),
        (r"layers\.(\d+)\.self_attn\.projection\.(.*)", r"layers.\1.attention.out.\2"),
        (r"post_layernorm\.(.*)", r"final_norm.\1"),
    ]
    fill(ours, state, front + CLIP)
    images = torch.randn(2, 3, 12, 12)
    close(ours(images), theirs(images).last_hidden_state)


@torch.no_grad()
def test_qwen2_vl_vision():
    theirs = qwen2_vl().visual
    ours = VisionTransformer(
        patch={"type": "patch.linear", "bias": False},
        d_patch=96,
        layers=2,
        width=32,
        heads=4,
        mlp={"type": "mlp.dense", "hidden": 64, "act": "quick_gelu"},
        norm_eps=1e-6,
        cls=False,
        final_norm=False,
        position={"type": "position.rope_2d", "merge": 2},
        mask="segments",
    ).build()
    state = theirs.state_dict()
    for name in [n for n in state if ".qkv." in n]:
        for part, letter in zip(state.pop(name).chunk(3), "qkv", strict=True):
            state[name.replace("qkv", letter)] = part
    rules = [
        (r"patch_embed\.proj\.weight", "patch.proj.weight"),
        (r"blocks\.(\d+)\.attn\.proj\.(.*)", r"layers.\1.attention.out.\2"),
        (r"blocks\.(\d+)\.attn\.(\w)\.(.*)", r"layers.\1.attention.\2.\3"),
        (r"blocks\.(\d+)\.mlp\.(fc\d)\.(.*)", r"layers.\1.mlp.\2.\3"),
        (r"blocks\.(\d+)\.norm1\.(.*)", r"layers.\1.norms.attention.\2"),
        (r"blocks\.(\d+)\.norm2\.(.*)", r"layers.\1.norms.mlp.\2"),
        (r"(merger|rotary).*", None),
    ]
    fill(ours, state, rules)
    grid = torch.tensor([[1, 4, 6], [2, 6, 2], [3, 2, 4]])
    patches = torch.randn(int(grid.prod(1).sum()), 96)
    close(ours(patches, grid=grid), theirs(patches, grid_thw=grid).last_hidden_state)
