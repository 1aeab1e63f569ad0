"""Cases of Florence-2."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

CASES: dict[str, Callable[[], Any]] = {}


def case(make: Callable[[], Any]) -> Callable[[], Any]:
    CASES[make.__name__] = make
    return make


def florence(words: dict[str, Any] | None = None, **picture: Any) -> Any:
    import transformers as tf

    from tests.parity.models import filled

    text = {
        "model_type": "bart", "vocab_size": 97, "d_model": 40, "encoder_layers": 2, "decoder_layers": 3, "encoder_attention_heads": 5,
        "decoder_attention_heads": 4, "encoder_ffn_dim": 68, "decoder_ffn_dim": 60, "max_position_embeddings": 40, **(words or {}),
    }  # fmt: skip
    vision = {
        "depths": [1, 2, 1, 1], "embed_dim": [12, 16, 24, 30], "num_heads": [2, 4, 3, 5], "num_groups": [3, 2, 4, 6], "window_size": 3,
        "projection_dim": 40, "max_temporal_embeddings": 5, "max_position_embeddings": 4, **picture,
    }  # fmt: skip
    return filled(tf.Florence2ForConditionalGeneration(tf.Florence2Config(text_config=text, vision_config=vision, image_token_id=96)))


def prompted(count: int, words: int = 6) -> dict[str, torch.Tensor]:
    """`count` placeholders in front of a prompt, the second one padded on the right."""
    from tests.parity.models import placed, tokens

    ids = placed(tokens(2, count + words, 3, 95), 96, (0, 0, count), (1, 0, count))
    mask = torch.ones_like(ids)
    ids[1, -2:], mask[1, -2:] = 1, 0
    answer = torch.cat([torch.full((2, 1), 2), tokens(2, 5, 3, 95, seed=8)], 1)
    return {"input_ids": ids, "attention_mask": mask, "decoder_input_ids": answer}


@case
def florence_2_wide_picture() -> Any:
    """A picture that is no square: maps of 24 x 16, 12 x 8, 6 x 4, 3 x 2, which the window does not divide; padding in the prompt."""
    from tests.parity.models import noise

    return florence(), {**prompted(7), "pixel_values": noise(2, 3, 96, 64)}, ["logits"]


@case
def florence_2_other_options() -> Any:
    """No biases of queries, keys and values, other activations, a narrower MLP, other kernels, norms in other places, scaled words, three
    stages."""
    from tests.parity.models import noise

    model = florence(
        {"activation_function": "relu", "scale_embedding": True}, qkv_bias=False, activation_function="gelu_pytorch_tanh", mlp_ratio=2.5,
        depths=[2, 0, 1], embed_dim=[12, 20, 34], num_heads=[4, 5, 1], num_groups=[2, 1, 17], patch_size=[5, 3, 2], patch_stride=[4, 3, 2],
        patch_padding=[1, 0, 1], patch_prenorm=[True, False, False], window_size=2, max_position_embeddings=3,
    )  # fmt: skip
    return model, {**prompted(10), "pixel_values": noise(2, 3, 67, 67)}, ["logits"]


@case
def florence_2_text_only() -> Any:
    model = florence({"decoder_start_token_id": 0, "encoder_ffn_dim": 30})
    return model, prompted(0), ["logits"]
