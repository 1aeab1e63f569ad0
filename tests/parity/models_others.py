"""Models without an image encoder, and others that stand alone."""

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


def fuyu(ids: Tensor, mask: Tensor | None, patches: int, words: dict[str, Any] | None = None, **fields: Any) -> Any:
    import transformers as tf

    text = {"model_type": "persimmon", "vocab_size": 97, "hidden_size": 48, "intermediate_size": 68, "num_hidden_layers": 2,
            "num_attention_heads": 3, "max_position_embeddings": 256, "pad_token_id": 0, **(words or {})}  # fmt: skip
    config = tf.FuyuConfig(text_config=text, patch_size=5, image_token_id=95, **fields)
    inputs = {"input_ids": ids, **({} if mask is None else {"attention_mask": mask})}
    if patches:
        inputs["image_patches"] = base.noise(1, patches, 75)
    return base.filled(tf.FuyuForCausalLM(config)), inputs, ["logits"]


@case
def fuyu_two_sizes_left_padding() -> Any:
    """Two rows of three patches, three rows of two in a shorter text; each row of patches ends with its newline."""
    ids = base.placed(base.tokens(2, 19, 3, 94), 95, (0, 0, 3), (0, 4, 3), (1, 0, 2), (1, 3, 2), (1, 6, 2))
    ids[0, [3, 7]] = ids[1, [2, 5, 8]] = 94
    mask = torch.ones_like(ids)
    base.padded_left(ids, mask, 1, 4)
    return fuyu(ids, mask, 12)


@case
def fuyu_tied_quarter_turned() -> Any:
    """One table for words and logits, another activation, a quarter of a head turned by another base."""
    rope = {"rope_type": "default", "rope_theta": 500.0, "partial_rotary_factor": 0.25}
    words = {"hidden_act": "gelu_new", "rope_parameters": rope, "layer_norm_eps": 1e-3}
    ids = base.placed(base.tokens(1, 14, 3, 94), 95, (0, 0, 4), (0, 5, 4))
    return fuyu(ids, None, 8, words, tie_word_embeddings=True)


@case
def fuyu_text_only() -> Any:
    return fuyu(base.tokens(2, 11, 3, 94), torch.ones(2, 11, dtype=torch.long), 0)
