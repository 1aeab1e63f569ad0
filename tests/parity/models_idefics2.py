"""Idefics2: images of any aspect ratio with pixel masks, a resampler with grouped heads."""

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


def idefics2(tower: dict[str, Any], latents: dict[str, Any], words: dict[str, Any], **fields: Any) -> Any:
    import transformers as tf

    latents = {
        "resampler_n_latents": 4,
        "resampler_depth": 2,
        "resampler_n_heads": 6,
        "resampler_head_dim": 7,
        "num_key_value_heads": 2,
        **latents,
    }
    config = tf.Idefics2Config(
        vision_config={**base.vision(), "image_size": 40, **tower}, perceiver_config=latents, image_token_id=95,
        text_config=base.text(**{"model_type": "mistral", **words}), **fields,
    )  # fmt: skip
    return base.filled(tf.Idefics2ForConditionalGeneration(config))


def pictures(batch: int, most: int, height: int, width: int, *real: tuple[int, int, int, int]) -> tuple[Tensor, Tensor]:
    """Noise and its mask at (sample, image) with so many real rows and columns of pixels, zeros elsewhere."""
    mask = torch.zeros(batch, most, height, width, dtype=torch.long)
    for sample, image, rows, columns in real:
        mask[sample, image, :rows, :columns] = 1
    return base.noise(batch, most, 3, height, width) * mask[:, :, None], mask


@case
def idefics2_sizes_left_padding() -> Any:
    """Two images in one sample, one in the other: 7 x 3, 2 x 5 and 4 x 4 patches on a table of 5 x 5, none of them cut at whole patches; a
    window of nine tokens; the resampler's epsilon is the decoder's, since it is silent about its width."""
    ids, mask = base.tokens(2, 26, 3, 95), torch.ones(2, 26, dtype=torch.long)
    base.placed(ids, 95, (0, 1, 4), (0, 12, 4), (1, 2, 4))
    base.padded_left(ids, mask, 1, 6)
    pixels, real = pictures(2, 2, 60, 46, (0, 0, 60, 30), (0, 1, 21, 44), (1, 0, 35, 39))
    model = idefics2({}, {}, {"sliding_window": 9, "rms_norm_eps": 1e-3})
    inputs = {"pixel_values": pixels, "pixel_attention_mask": real, "input_ids": ids, "attention_mask": mask}
    return model, inputs, ["logits"]


@case
def idefics2_llama_tied() -> Any:
    """No mask, wider than the table; LLaMA with scaled positions, one table; other activations; a resampler with an epsilon of its own and
    one key head."""
    ids = base.placed(base.tokens(1, 20, 3, 95), 95, (0, 1, 4), (0, 9, 4))
    words = {"model_type": "llama", "rope_parameters": {"rope_type": "linear", "rope_theta": 300.0, "factor": 3.0}}
    latents = {"hidden_size": 40, "rms_norm_eps": 1e-2, "hidden_act": "gelu", "num_key_value_heads": 1}
    model = idefics2({"hidden_act": "relu", "layer_norm_eps": 1e-3}, latents, words, tie_word_embeddings=True)
    return model, {"pixel_values": base.noise(1, 2, 3, 17, 52), "input_ids": ids, "attention_mask": torch.ones_like(ids)}, ["logits"]


@case
def idefics2_biases_and_a_mask_of_truths() -> Any:
    """Qwen2 with its biases, no window; a padding image in front of a real one; a boolean mask."""
    ids = base.placed(base.tokens(2, 13, 3, 95), 95, (0, 2, 4), (1, 7, 4))
    pixels, real = pictures(2, 2, 24, 32, (0, 1, 24, 17), (1, 0, 16, 32))
    model = idefics2({}, {"num_key_value_heads": 6}, {"model_type": "qwen2"})
    inputs = {"pixel_values": pixels, "pixel_attention_mask": real.bool(), "input_ids": ids, "attention_mask": torch.ones_like(ids)}
    return model, inputs, ["logits"]


@case
def idefics2_text_only() -> Any:
    ids = base.tokens(2, 11, 3, 95)
    return idefics2({}, {}, {}), {"input_ids": ids, "attention_mask": torch.ones_like(ids)}, ["logits"]
