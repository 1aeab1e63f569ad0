"""Pictures at their own resolution, and SigLIP in front of LLaMA: Qwen2.5-VL, DeepSeek-VL."""

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


def qwen2_5_vl(tower: dict[str, Any] | None = None, tie: bool = False) -> Any:
    import transformers as tf

    vision = {
        "depth": 3, "hidden_size": 24, "out_hidden_size": 40, "num_heads": 2, "intermediate_size": 44, "patch_size": 6,
        "spatial_merge_size": 2, "temporal_patch_size": 2, "window_size": 24, "fullatt_block_indexes": [1], "tokens_per_second": 2,
        **(tower or {}),
    }  # fmt: skip
    words = {
        "vocab_size": 97, "hidden_size": 40, "intermediate_size": 68, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 1, "rope_parameters": {"rope_type": "default", "mrope_section": [1, 3, 1], "rope_theta": 3000.0},
        "bos_token_id": 1, "eos_token_id": 2,
    }  # fmt: skip
    config = tf.Qwen2_5_VLConfig(
        vision_config=vision, text_config=words, image_token_id=96, video_token_id=95, vision_start_token_id=94, vision_end_token_id=93,
        tie_word_embeddings=tie,
    )  # fmt: skip
    return base.filled(tf.Qwen2_5_VLForConditionalGeneration(config))


@case
def qwen2_5_vl_images_and_video() -> Any:
    """Two images with windows cut off at the border and a video of 0.9 s a step over two rows, the shorter padded on the left.

    The video's last frame stands no farther than its longer side: behind longer ones transformers leaves fewer positions than the
    original code, whose rule the weights were trained with.
    """
    ids, mask = base.tokens(2, 40, 3, 93), torch.ones(2, 40, dtype=torch.long)
    base.placed(ids, 96, (0, 2, 15), (0, 20, 4))
    base.placed(ids, 95, (1, 3, 24))
    ids[0, 1], ids[0, 19], ids[1, 2] = 94, 94, 94
    base.padded_left(ids, mask, 1, 5)
    patch = 3 * 2 * 6 * 6
    return qwen2_5_vl(), {
        "input_ids": ids, "attention_mask": mask, "mm_token_type_ids": base.kinds(ids),
        "pixel_values": base.noise(60 + 16, patch), "image_grid_thw": torch.tensor([[1, 6, 10], [1, 4, 4]]),
        "pixel_values_videos": base.noise(3 * 32, patch, seed=7), "video_grid_thw": torch.tensor([[3, 4, 8]]),
        "second_per_grid_ts": torch.tensor([0.9]),
    }, ["logits"]  # fmt: skip


@case
def qwen2_5_vl_video_without_seconds() -> Any:
    """A second a step where none is said; windows of 40 pixels that are no whole number of merged patches; another activation; a layer
    of full attention that the tower does not have."""
    ids = base.placed(base.tokens(1, 20, 3, 93), 95, (0, 3, 12))
    ids[0, 2] = 94
    model = qwen2_5_vl({"window_size": 40, "hidden_act": "gelu", "fullatt_block_indexes": [2, 7], "tokens_per_second": 1})
    return model, {
        "input_ids": ids, "attention_mask": torch.ones_like(ids), "mm_token_type_ids": base.kinds(ids),
        "pixel_values_videos": base.noise(48, 3 * 2 * 6 * 6), "video_grid_thw": torch.tensor([[1, 4, 12]]),
    }, ["logits"]  # fmt: skip


@case
def qwen2_5_vl_text_only_tied() -> Any:
    ids = base.tokens(2, 9, 3, 93)
    return qwen2_5_vl(tie=True), {"input_ids": ids, "attention_mask": torch.ones_like(ids)}, ["logits"]


def deepseek_vl(tower: dict[str, Any], tie: bool = True, **words: Any) -> Any:
    import transformers as tf

    config = tf.DeepseekVLConfig(
        text_config=base.text(**words),
        vision_config=tf.SiglipVisionConfig(**base.vision(**tower)),
        image_token_id=95,
        tie_word_embeddings=tie,
    )
    return base.filled(tf.DeepseekVLForConditionalGeneration(config))


@case
def deepseek_vl_two_images_left_padding() -> Any:
    """No pooling head, as released; an untied head; two images in one row, one in the other, which is padded on the left."""
    ids, mask = base.placed(base.tokens(2, 40, 3, 95), 95, (0, 2, 16), (0, 20, 16), (1, 1, 16)), torch.ones(2, 40, dtype=torch.long)
    base.padded_left(ids, mask, 1, 7)
    model = deepseek_vl({"vision_use_head": False}, tie=False)
    return model, {"pixel_values": base.noise(3, 3, 32, 32), "input_ids": ids, "attention_mask": mask}, ["logits"]


@case
def deepseek_vl_with_pooling_head() -> Any:
    """A pooling head in the file that nothing reads; pixels behind the last whole patch; other activations, all heads with own keys."""
    ids = base.placed(base.tokens(1, 20, 3, 95), 95, (0, 2, 16))
    model = deepseek_vl({"image_size": 35, "hidden_act": "relu"}, num_key_value_heads=5)
    return model, {"pixel_values": base.noise(1, 3, 35, 35), "input_ids": ids}, ["logits"]
