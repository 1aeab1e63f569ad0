"""Aria: images in the corner of a square, as many queries as it is large, fine-grained experts and a shared one."""

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


def aria(
    ids: Tensor,
    mask: Tensor | None,
    images: tuple[tuple[int, int], ...] = (),
    side: int = 32,
    words: dict[str, Any] | None = None,
    tower: dict[str, Any] | None = None,
    **fields: Any,
) -> Any:
    """`images` are the (height, width) that is theirs of squares of `side` pixels, four or sixteen patches."""
    import transformers as tf

    text = {
        **base.text(model_type="aria_text", num_key_value_heads=5, moe_num_experts=6, moe_topk=3, moe_num_shared_experts=2),
        **(words or {}),
    }
    config = tf.AriaConfig(
        vision_config=base.vision(model_type="idefics3_vision", **(tower or {})), text_config=text, image_token_index=95,
        projector_patch_to_query_dict={16: 7, 4: 3}, **fields,
    )  # fmt: skip
    inputs = {"input_ids": ids, **({} if mask is None else {"attention_mask": mask})}
    if images:
        inputs["pixel_values"] = base.noise(len(images), 3, side, side)
        inputs["pixel_mask"] = torch.zeros(len(images), side, side, dtype=torch.bool)
        for row, (height, width) in zip(inputs["pixel_mask"], images):
            row[:height, :width] = True
    return base.filled(tf.AriaForConditionalGeneration(config)), inputs, ["logits"]


@case
def aria_partial_masks_left_padding() -> Any:
    """Two images in one row, one in the other; patches of which a pixel is real count."""
    ids, mask = base.placed(base.tokens(2, 24, 3, 95), 95, (0, 2, 7), (0, 12, 7), (1, 5, 7)), torch.ones(2, 24, dtype=torch.long)
    base.padded_left(ids, mask, 1, 4)
    return aria(ids, mask, ((32, 32), (19, 32), (32, 9)))


@case
def aria_biases_grouped_heads_small_images() -> Any:
    """Images of four patches, another layer and activation, biases everywhere, positions scaled, one table."""
    rope = {"rope_type": "linear", "rope_theta": 500.0, "factor": 3.0}
    words = {"attention_bias": True, "mlp_bias": True, "num_key_value_heads": 1, "hidden_act": "gelu", "rope_parameters": rope,
             "moe_num_shared_experts": 3, "moe_topk": 1, "rms_norm_eps": 1e-4}  # fmt: skip
    ids = base.placed(base.tokens(1, 12, 3, 95), 95, (0, 2, 3), (0, 7, 3))
    tower = {"hidden_act": "relu", "layer_norm_eps": 1e-3}
    return aria(ids, None, ((16, 16), (16, 5)), 16, words, tower, vision_feature_layer=-2, tie_word_embeddings=True)


@case
def aria_no_pixel_mask() -> Any:
    reference, inputs, names = aria(base.placed(base.tokens(1, 12, 3, 95), 95, (0, 2, 7)), None, ((32, 32),))
    del inputs["pixel_mask"]
    return reference, inputs, names


@case
def aria_text_only() -> Any:
    return aria(base.tokens(2, 11, 3, 95), torch.ones(2, 11, dtype=torch.long))
