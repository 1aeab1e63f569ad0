"""VideoLLaMA 3: blocks of patches as large as each image says, pruned videos."""

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


def video_llama_3(tower: dict[str, Any], words: dict[str, Any], **fields: Any) -> Any:
    import transformers as tf

    vision = {
        "hidden_size": 24, "intermediate_size": 44, "num_hidden_layers": 3, "num_attention_heads": 3, "patch_size": 6, **tower,
    }  # fmt: skip
    text = base.text(**{"model_type": "qwen2", **words})
    config = tf.VideoLlama3Config(vision_config=vision, text_config=text, image_token_id=96, video_token_id=95, **fields)
    return base.filled(tf.VideoLlama3ForConditionalGeneration(config))


@case
def video_llama_3_images_and_pruned_videos() -> Any:
    """Images of blocks of 1 and 2 patches, two videos of which tokens are dropped, over two rows, the shorter padded on the left."""
    ids, mask = base.tokens(2, 60, 3, 95), torch.ones(2, 60, dtype=torch.long)
    keep = base.noise(3 * 6 + 4, seed=4) > -0.4
    first, second = int(keep[:18].sum()), int(keep[18:].sum())
    base.placed(ids, 96, (0, 2, 12), (0, 30, 10))
    base.placed(ids, 95, (1, 3, first), (1, 40, second))
    base.padded_left(ids, mask, 1, 5)
    assert 0 < second < 4 and first < 18
    return video_llama_3({}, {}), {
        "input_ids": ids, "attention_mask": mask,
        "pixel_values": base.noise(12 + 40, 108), "image_grid_thw": torch.tensor([[1, 3, 4], [1, 4, 10]]),
        "image_merge_sizes": torch.tensor([1, 2]),
        "pixel_values_videos": base.noise(3 * 24 + 16, 108, seed=7), "video_grid_thw": torch.tensor([[3, 4, 6], [1, 4, 4]]),
        "video_merge_sizes": torch.tensor([2, 2]), "video_compression_mask": keep,
    }, ["logits"]  # fmt: skip


@case
def video_llama_3_larger_blocks() -> Any:
    """Blocks of 3 and 4 patches, whose tokens are interpolated at the centre; another activation, base of angles and epsilon; LLaMA."""
    ids = base.placed(base.tokens(1, 20, 3, 95), 96, (0, 2, 6), (0, 9, 2))
    tower = {"hidden_act": "quick_gelu", "rope_parameters": {"rope_type": "axial", "rope_theta": 50.0}, "layer_norm_eps": 0.1}
    return video_llama_3(tower, {"model_type": "llama", "rms_norm_eps": 1e-3}), {
        "input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": base.noise(54 + 32, 108),
        "image_grid_thw": torch.tensor([[1, 6, 9], [1, 4, 8]]), "image_merge_sizes": torch.tensor([3, 4]),
    }, ["logits"]  # fmt: skip


@case
def video_llama_3_whole_video_tied() -> Any:
    """A video of which nothing is dropped; one colour; a table that is the head too, as only the text part says."""
    ids = base.placed(base.tokens(1, 20, 3, 95), 95, (0, 2, 12))
    return video_llama_3({"num_channels": 1}, {"num_key_value_heads": 5, "tie_word_embeddings": True}), {
        "input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values_videos": base.noise(48, 36),
        "video_grid_thw": torch.tensor([[2, 4, 6]]), "video_merge_sizes": torch.tensor([2]),
    }, ["logits"]  # fmt: skip


@case
def video_llama_3_text_only() -> Any:
    ids = base.tokens(2, 9, 3, 95)
    return video_llama_3({}, {}), {"input_ids": ids, "attention_mask": torch.ones_like(ids)}, ["logits"]
