"""SigLIP in front of Gemma and Gemma 2: PaliGemma and PaliGemma 2."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from tests.parity import models as base

CASES: dict[str, Callable[[], tuple[Any, dict[str, Tensor], list[str]]]] = {}
IMAGE = 96


def case(make: Callable[[], Any]) -> Callable[[], Any]:
    CASES[make.__name__] = make
    return make


def paligemma(kind: str = "gemma", tower: dict[str, Any] | None = None, tie: bool = True, **words: Any) -> Any:
    import transformers as tf

    vision = {
        "model_type": "siglip_vision_model", "hidden_size": 24, "intermediate_size": 44, "num_hidden_layers": 2, "num_attention_heads": 3,
        "image_size": 32, "patch_size": 8, "vision_use_head": False, **(tower or {}),
    }  # fmt: skip
    text = {
        "model_type": kind, "vocab_size": 97, "hidden_size": 40, "intermediate_size": 68, "num_hidden_layers": 4,
        "num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 6, "max_position_embeddings": 256, "pad_token_id": 0, **words,
    }  # fmt: skip
    config = tf.PaliGemmaConfig(
        vision_config=vision, text_config=text, image_token_index=IMAGE, projection_dim=40, hidden_size=40, tie_word_embeddings=tie
    )
    return base.filled(tf.PaliGemmaForConditionalGeneration(config))


def prompt(length: int, answer: int, *runs: tuple[int, int, int], left: int = 0) -> dict[str, Tensor]:
    """Two rows whose last `answer` tokens are no prefix; the second is padded on the left."""
    ids = base.placed(base.tokens(2, length, 3, IMAGE), IMAGE, *runs)
    mask, types = torch.ones_like(ids), torch.zeros_like(ids)
    types[:, length - answer :] = 1
    if left:
        base.padded_left(ids, mask, 1, left)
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}


@case
def paligemma_prefix_and_answer() -> Any:
    """Two images in one row, the other padded on the left; answers see what stands before them."""
    return paligemma(), {**prompt(42, 5, (0, 0, 16), (0, 16, 16), (1, 0, 16), left=4), "pixel_values": base.noise(3, 3, 32, 32)}, ["logits"]


@case
def paligemma_options() -> Any:
    """Biases of the attention, another activation and RoPE base, own head, grouped heads, pixels behind the last whole patch."""
    tower = {"image_size": 35, "hidden_act": "gelu", "layer_norm_eps": 1e-5}
    model = paligemma(
        tower=tower, tie=False, attention_bias=True, hidden_act="silu", num_key_value_heads=2, rms_norm_eps=1e-4, rope_theta=300.0
    )
    return model, {**prompt(24, 3, (0, 0, 16), (1, 0, 16)), "pixel_values": base.noise(2, 3, 35, 35)}, ["logits"]


@case
def paligemma_prompt_alone() -> Any:
    """All of it is prefix: what generation starts from."""
    return paligemma(), {**prompt(22, 0, (0, 0, 16), (1, 0, 16), left=2), "pixel_values": base.noise(2, 3, 32, 32)}, ["logits"]


@case
def paligemma_2_window() -> Any:
    """A window of five: the prefix sees itself whole all the same, the answer does not see its begin in every other layer."""
    model = paligemma("gemma2", num_key_value_heads=2, sliding_window=5, query_pre_attn_scalar=11)
    return model, {**prompt(31, 9, (0, 0, 16), (1, 0, 16), left=3), "pixel_values": base.noise(2, 3, 32, 32)}, ["logits"]


@case
def paligemma_2_options() -> Any:
    """Another order of the layers, tight bounds, biases of the attention, own head."""
    kinds = ["full_attention", "sliding_attention", "sliding_attention", "full_attention"]
    model = paligemma(
        "gemma2", tie=False, sliding_window=4, layer_types=kinds, attn_logit_softcapping=0.7, final_logit_softcapping=1.5,
        attention_bias=True, hidden_activation="gelu", query_pre_attn_scalar=3,
    )  # fmt: skip
    return model, {**prompt(24, 6, (0, 0, 16), (1, 0, 16)), "pixel_values": base.noise(2, 3, 32, 32)}, ["logits"]


@case
def paligemma_2_unbounded_text_only() -> Any:
    """No bounds, no image, no types: every token sees those before it."""
    model = paligemma("gemma2", sliding_window=4, attn_logit_softcapping=None, final_logit_softcapping=None)
    words = prompt(13, 0, left=3)
    return model, {name: words[name] for name in ("input_ids", "attention_mask")}, ["logits"]
