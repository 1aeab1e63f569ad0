"""Two towers at two resolutions, joined token by token: DeepSeek-VL's SigLIP and SAM."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from tests.parity import models as base

CASES: dict[str, Callable[[], tuple[Any, dict[str, Tensor], list[str]]]] = {}


def case(make: Callable[[], Any]) -> Callable[[], Any]:
    CASES[make.__name__] = make
    return make


def deepseek_vl_hybrid(sam: dict[str, Any], tower: dict[str, Any] | None = None, tie: bool = True, **words: Any) -> Any:
    import transformers as tf

    high = {
        "hidden_size": 28, "output_channels": 6, "num_hidden_layers": 4, "num_attention_heads": 2, "image_size": 80, "patch_size": 16,
        "window_size": 3, "global_attn_indexes": [1, 3], "mlp_dim": 36, **sam,
    }  # fmt: skip
    config = tf.DeepseekVLHybridConfig(
        text_config=base.text(**words), vision_config=tf.SiglipVisionConfig(**base.vision(**(tower or {}))),
        high_res_vision_config=tf.SamVisionConfig(**high), image_token_id=95, tie_word_embeddings=tie,
    )  # fmt: skip
    return base.filled(tf.DeepseekVLHybridForConditionalGeneration(config))


def pictures(count: int, low: int = 32, high: int = 80) -> dict[str, Tensor]:
    return {"pixel_values": base.noise(count, 3, low, low), "high_res_pixel_values": base.noise(count, 3, high, high, seed=4)}


@case
def deepseek_vl_hybrid_two_images_left_padding() -> Any:
    """Windows of three on a grid of five; as released no pooling head and a head of its own; two images in one row, one in the other."""
    ids, mask = base.placed(base.tokens(2, 40, 3, 95), 95, (0, 2, 16), (0, 20, 16), (1, 1, 16)), torch.ones(2, 40, dtype=torch.long)
    base.padded_left(ids, mask, 1, 7)
    model = deepseek_vl_hybrid({}, {"vision_use_head": False}, tie=False)
    return model, {**pictures(3), "input_ids": ids, "attention_mask": mask}, ["logits"]


@case
def deepseek_vl_hybrid_other_layers() -> Any:
    """Layers of whole attention out of order, the first named feeds the branch, one is behind the last; no biases of q, k, v, another
    activation, the width of the MLP by its ratio; pixels behind the last whole patch; a pooling head that nothing reads."""
    ids = base.placed(base.tokens(1, 20, 3, 95), 95, (0, 2, 16))
    sam = {
        "global_attn_indexes": [2, 0, 7],
        "qkv_bias": False,
        "hidden_act": "gelu_new",
        "mlp_dim": None,
        "mlp_ratio": 1.5,
        "image_size": 85,
    }
    return deepseek_vl_hybrid(sam), {**pictures(1, high=85), "input_ids": ids}, ["logits"]


@case
def deepseek_vl_hybrid_without_positions() -> Any:
    """Neither positions nor windows: every layer attends to the whole grid."""
    ids = base.placed(base.tokens(1, 20, 3, 95), 95, (0, 2, 16))
    sam = {"use_rel_pos": False, "use_abs_pos": False, "window_size": 0, "layer_norm_eps": 1e-3}
    return deepseek_vl_hybrid(sam, num_key_value_heads=5), {**pictures(1), "input_ids": ids}, ["logits"]


@case
def deepseek_vl_hybrid_text_only() -> Any:
    ids = base.tokens(2, 9, 3, 95)
    return deepseek_vl_hybrid({}), {"input_ids": ids, "attention_mask": torch.ones_like(ids)}, ["logits"]
