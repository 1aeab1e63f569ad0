"""Idefics3 and its kin: tiles with pixel masks, positions by fractions, pixel shuffle."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from tests.parity import models as base

CASES: dict[str, Callable[[], tuple[Any, dict[str, Tensor], list[str]]]] = {}
LONGER = {
    "rope_type": "llama3", "rope_theta": 90.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 24,
}  # fmt: skip


def case(make: Callable[[], Any]) -> Callable[[], Any]:
    CASES[make.__name__] = make
    return make


def idefics3(name: str, tower: dict[str, Any], words: dict[str, Any], **fields: Any) -> Any:
    import transformers as tf

    config = getattr(tf, f"{name}Config")(
        vision_config={**base.vision(), "image_size": 48, **tower}, text_config=base.text(**words), image_token_id=95, **fields
    )
    return base.filled(getattr(tf, f"{name}ForConditionalGeneration")(config))


def tiles(batch: int, most: int, side: int, *real: tuple[int, int, int, int]) -> tuple[Tensor, Tensor]:
    """Noise and its mask at (sample, tile) with so many real rows and columns of pixels, padding elsewhere."""
    pixels, mask = base.noise(batch, most, 3, side, side), torch.zeros(batch, most, side, side, dtype=torch.long)
    for sample, tile, rows, columns in real:
        mask[sample, tile, :rows, :columns] = 1
    return pixels * (mask.flatten(2).any(2))[..., None, None, None], mask


@case
def idefics3_partial_masks_left_padding() -> Any:
    """Three tiles in one sample, one in the other; 4 x 6 and 6 x 1 patches of a grid of 6 x 6, some of their pixels missing; blocks of 9;
    positions as in Llama 3.1."""
    ids, mask = base.tokens(2, 30, 3, 95), torch.ones(2, 30, dtype=torch.long)
    base.placed(ids, 95, (0, 1, 4), (0, 9, 4), (0, 20, 4), (1, 2, 4))
    base.padded_left(ids, mask, 1, 5)
    pixels, real = tiles(2, 3, 48, (0, 0, 48, 48), (0, 1, 29, 48), (0, 2, 48, 8), (1, 0, 48, 41))
    model = idefics3("Idefics3", {}, {"rope_parameters": LONGER}, scale_factor=3)
    inputs = {"pixel_values": pixels, "pixel_attention_mask": real, "input_ids": ids, "attention_mask": mask}
    return model, inputs, ["logits"]


@case
def idefics3_tied_mistral() -> Any:
    """No mask; 50 pixels, of which the last two are left out; one table; a window of five tokens."""
    ids = base.placed(base.tokens(1, 26, 3, 95), 95, (0, 1, 9), (0, 15, 9))
    words = {"model_type": "mistral", "head_dim": 8, "sliding_window": 5}
    tower = {"image_size": 50, "hidden_act": "gelu", "layer_norm_eps": 1e-3}
    model = idefics3("Idefics3", tower, words, tie_word_embeddings=True)
    return model, {"pixel_values": base.noise(1, 2, 3, 50, 50), "input_ids": ids, "attention_mask": torch.ones_like(ids)}, ["logits"]


@case
def idefics3_text_only() -> Any:
    ids = base.tokens(2, 11, 3, 95)
    return idefics3("Idefics3", {}, {"num_key_value_heads": 5}), {"input_ids": ids, "attention_mask": torch.ones_like(ids)}, ["logits"]


@case
def smolvlm_sample_without_images() -> Any:
    """Two images, none, one; 5 x 6 patches of a grid of 6 x 6; positions divided by a factor; one table."""
    ids = base.placed(base.tokens(3, 22, 3, 95), 95, (0, 1, 4), (0, 12, 4), (2, 3, 4))
    words = {"rope_parameters": {"rope_type": "linear", "rope_theta": 700.0, "factor": 3.0}, "num_key_value_heads": 5}
    pixels, real = tiles(3, 2, 48, (0, 0, 48, 48), (0, 1, 40, 48), (2, 0, 48, 48))
    model = idefics3("SmolVLM", {"hidden_act": "relu"}, words, scale_factor=3, tie_word_embeddings=True)
    inputs = {"pixel_values": pixels, "pixel_attention_mask": real, "input_ids": ids, "attention_mask": torch.ones_like(ids)}
    return model, inputs, ["logits"]


@case
def smolvlm_qwen2_left_padding() -> Any:
    """No mask of pixels; blocks of one patch; Qwen2 with its biases behind it."""
    ids, mask = base.tokens(2, 48, 3, 95), torch.ones(2, 48, dtype=torch.long)
    base.placed(ids, 95, (0, 1, 36), (1, 2, 36))
    base.padded_left(ids, mask, 1, 7)
    model = idefics3("SmolVLM", {}, {"model_type": "qwen2"}, scale_factor=1)
    return model, {"pixel_values": base.noise(2, 1, 3, 48, 48), "input_ids": ids, "attention_mask": mask}, ["logits"]
