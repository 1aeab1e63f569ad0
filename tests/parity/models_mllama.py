"""Llama 3.2-Vision: tiles, gates, cross-attention layers at given places."""

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


def mllama(tower: dict[str, Any], words: dict[str, Any], **fields: Any) -> Any:
    import transformers as tf

    tower = {
        "hidden_size": 40, "num_hidden_layers": 3, "num_global_layers": 2, "attention_heads": 5, "intermediate_size": 72, "image_size": 28,
        "patch_size": 14, "intermediate_layers_indices": [0, 2], "vision_output_dim": 120, **tower,
    }  # fmt: skip
    words = {
        "vocab_size": 96, "hidden_size": 48, "num_hidden_layers": 5, "num_attention_heads": 6, "num_key_value_heads": 2,
        "intermediate_size": 88, "cross_attention_layers": [1, 3], "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, **words,
    }  # fmt: skip
    config = tf.MllamaConfig(vision_config=tower, text_config=words, image_token_index=96, **fields)
    return base.filled(tf.MllamaForConditionalGeneration(config))


def given(ids: Tensor, mask: Tensor, aspects: list[list[int]], areas: list[int], side: int = 28) -> dict[str, Tensor]:
    """Inputs for arrangements of `areas` tiles by number; a token sees the images at or before it, their real tiles."""
    numbers, most = torch.tensor(aspects), max(areas)
    there = torch.arange(most) < torch.tensor([1, *areas])[numbers][..., None]
    count = (ids == 96).cumsum(1)
    seen = (torch.arange(1, numbers.shape[1] + 1) <= count[..., None])[..., None] & there[:, None] & (numbers > 0)[:, None, :, None]
    pixels = base.noise(*there.shape, 3, side, side) * there[..., None, None, None]
    return {
        "pixel_values": pixels, "aspect_ratio_ids": numbers, "aspect_ratio_mask": there.long(), "cross_attention_mask": seen.long(),
        "input_ids": ids, "attention_mask": mask,
    }  # fmt: skip


AREAS = [1, 2, 3, 4, 2, 4, 3, 4]


@case
def mllama_three_images_left_padding() -> Any:
    """Images of 4, 2 and 1 tiles over two rows, one of which has only one; positions of long contexts; another activation in the tower."""
    ids, mask = base.tokens(2, 12, 3, 95), torch.ones(2, 12, dtype=torch.long)
    base.placed(ids, 96, (0, 1, 1), (0, 6, 1), (1, 2, 1))
    base.padded_left(ids, mask, 1, 3)
    rope = {"rope_type": "llama3", "rope_theta": 300.0, "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 3.0}
    words = {"rope_parameters": {**rope, "original_max_position_embeddings": 16}, "num_key_value_heads": 3}
    model = mllama({"hidden_act": "quick_gelu"}, words)
    return model, given(ids, mask, [[6, 5], [1, 0]], AREAS), ["logits"]


@case
def mllama_other_arrangements() -> Any:
    """Room for three tiles in other arrangements, patches that leave pixels over, levels by number from the end; cross-attention before the
    first layer, places out of order, another activation; a table said to be tied, which it is not."""
    ids = base.placed(base.tokens(2, 9, 3, 95), 96, (0, 0, 1), (1, 4, 1))
    tower = {
        "max_num_tiles": 3, "supported_aspect_ratios": [[1, 1], [3, 1], [1, 2]], "image_size": 52, "patch_size": 18,
        "intermediate_layers_indices": [-1, 1, 0], "vision_output_dim": 160, "num_hidden_layers": 4, "hidden_act": "gelu_pytorch_tanh",
    }  # fmt: skip
    words = {"cross_attention_layers": [4, 0, 2], "num_hidden_layers": 6, "hidden_act": "gelu", "tie_word_embeddings": True}
    return mllama(tower, words), given(ids, torch.ones_like(ids), [[2], [3]], [1, 3, 2], 52), ["logits"]


@case
def mllama_text_only() -> Any:
    ids = base.tokens(2, 9, 3, 95)
    return mllama({}, {"num_hidden_layers": 4, "cross_attention_layers": [2]}), {"input_ids": ids}, ["logits"]
