"""SigLIP, pooling head and all, in LLaVA's wrapper in front of Llama's kin: MANTIS."""

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


def llava(tower: dict[str, Any], text: dict[str, Any], **fields: Any) -> Any:
    import transformers as tf

    config = tf.LlavaConfig(
        vision_config=tf.SiglipVisionConfig(**base.vision(**tower)), text_config=base.text(**text), image_token_index=95, **fields
    )
    return base.filled(tf.LlavaForConditionalGeneration(config))


@case
def llava_siglip_left_padding() -> Any:
    """Every patch of the layer before the last, a pooling head that nothing reads; two images in one row, one in the other, which is
    padded."""
    ids, mask = base.placed(base.tokens(2, 40, 3, 95), 95, (0, 2, 16), (0, 21, 16), (1, 1, 16)), torch.ones(2, 40, dtype=torch.long)
    base.padded_left(ids, mask, 1, 7)
    rope = {"rope_type": "default", "rope_theta": 500.0}
    model = llava({}, {"rope_parameters": rope}, vision_feature_select_strategy="full")
    return model, {"pixel_values": base.noise(3, 3, 32, 32), "input_ids": ids, "attention_mask": mask}, ["logits"]


@case
def llava_siglip_other_options() -> Any:
    """The first patch left out, of the last layer; no head; Qwen2, one table, another activation, no biases between."""
    ids = base.placed(base.tokens(1, 20, 3, 95), 95, (0, 2, 15))
    own = {"vision_feature_layer": -1, "projector_hidden_act": "relu", "multimodal_projector_bias": False, "tie_word_embeddings": True}
    model = llava({"vision_use_head": False, "hidden_act": "quick_gelu"}, {"model_type": "qwen2"}, **own)
    return model, {"pixel_values": base.noise(1, 3, 32, 32), "input_ids": ids, "attention_mask": torch.ones_like(ids)}, ["logits"]


@case
def llava_siglip_text_only() -> Any:
    ids = base.tokens(2, 9, 3, 95)
    text = {"model_type": "mistral", "sliding_window": 4}
    return llava({}, text), {"input_ids": ids, "attention_mask": torch.ones_like(ids)}, ["logits"]
