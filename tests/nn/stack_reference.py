"""Weights of transformers' modules into ours by an explicit name map, and comparison."""

from __future__ import annotations

import re

import pytest
import torch

transformers = pytest.importorskip("transformers")
LLAMA = [
    (r"layers\.(\d+)\.self_attn\.(\w)_proj\.(.*)", lambda m: f"layers.{m[1]}.attention.{'out' if m[2] == 'o' else m[2]}.{m[3]}"),
    (r"layers\.(\d+)\.mlp\.(gate|up|down)_proj\.(.*)", r"layers.\1.mlp.\2.\3"),
    (r"layers\.(\d+)\.input_layernorm\.weight", r"layers.\1.norms.attention.weight"),
    (r"layers\.(\d+)\.post_attention_layernorm\.weight", r"layers.\1.norms.mlp.weight"),
    (r"norm\.weight", r"final_norm.weight"),
]
CLIP = [
    (r"layers\.(\d+)\.self_attn\.(\w)_proj\.(.*)", r"layers.\1.attention.\2.\3"),
    (r"layers\.(\d+)\.self_attn\.out_proj\.(.*)", r"layers.\1.attention.out.\2"),
    (r"layers\.(\d+)\.mlp\.(fc\d)\.(.*)", r"layers.\1.mlp.\2.\3"),
    (r"layers\.(\d+)\.layer_norm1\.(.*)", r"layers.\1.norms.attention.\2"),
    (r"layers\.(\d+)\.layer_norm2\.(.*)", r"layers.\1.norms.mlp.\2"),
]


def shake(module):
    """Seeded weights, none of them at zero or one."""
    for parameter in module.parameters():
        torch.nn.init.normal_(
            parameter, mean=1.0 if parameter.dim() == 1 and parameter.mean() > 0.5 else 0.0, std=0.3 if parameter.dim() == 1 else 0.2
        )
    return module.eval()


def fill(module, state, rules, strip=""):
    """Load every tensor of `state` by the rules; names that no rule explains, on either side, are errors."""
    taken = {}
    for name, tensor in state.items():
        name = re.sub(strip, "", name, count=1) if strip else name
        found = [(match, target) for pattern, target in rules if (match := re.fullmatch(pattern, name))]
        assert found, f"no rule for {name}"
        match, target = found[0]
        if target is not None:
            taken[target(match) if callable(target) else match.expand(target)] = tensor
    shapes = {name: p.shape for name, p in module.state_dict().items()}
    module.load_state_dict({name: tensor.reshape(shapes[name]) if name in shapes else tensor for name, tensor in taken.items()})
    return module.eval()


def close(ours, theirs, where=None):
    if where is not None:
        ours, theirs = ours[where], theirs[where]
    assert ours.shape == theirs.shape
    assert (ours - theirs).norm() / theirs.norm() < 1e-5


def random_mask(rows, length, left=True):
    mask = torch.ones(rows, length, dtype=torch.long)
    for row in range(rows):
        mask[row, : row * 2] = 0
    return mask if left else mask.flip(1)


def qwen2_vl():
    text = {
        "vocab_size": 40,
        "hidden_size": 48,
        "intermediate_size": 36,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "rope_parameters": {"rope_type": "default", "mrope_section": [2, 2, 2], "rope_theta": 1000.0},
        "rms_norm_eps": 1e-6,
    }
    vision = {
        "depth": 2,
        "embed_dim": 32,
        "hidden_size": 48,
        "num_heads": 4,
        "mlp_ratio": 2,
        "patch_size": 4,
        "temporal_patch_size": 2,
        "spatial_merge_size": 2,
    }
    return shake(transformers.Qwen2VLModel(transformers.Qwen2VLConfig(text_config=text, vision_config=vision)))
