"""AIMv2: the dual encoder, and the encoder by itself."""

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


def vision(**fields: Any) -> dict[str, Any]:
    return {
        "hidden_size": 24,
        "intermediate_size": 44,
        "num_hidden_layers": 3,
        "num_attention_heads": 3,
        "image_size": 32,
        "patch_size": 8,
        **fields,
    }


def lit(mask: bool, words: dict[str, Any] | None = None, sight: dict[str, Any] | None = None, **fields: Any) -> Any:
    import transformers as tf

    text = {"vocab_size": 71, "hidden_size": 28, "intermediate_size": 52, "num_hidden_layers": 2, "num_attention_heads": 2,
            "max_position_embeddings": 17, "eos_token_id": 70, **(words or {})}  # fmt: skip
    config = tf.Aimv2Config(text_config=text, vision_config=vision(**(sight or {})), projection_dim=20, **fields)
    ids = base.tokens(4, 9, 3, 69)
    for row, at in enumerate((8, 3, 5, 7)):
        ids[row, at:] = 70
    inputs = {"pixel_values": base.noise(3, 3, 32, 32), "input_ids": ids}
    if mask:
        inputs["attention_mask"] = (torch.arange(9)[None] <= torch.tensor([8, 3, 5, 7])[:, None]).long()
    return base.filled(tf.Aimv2Model(config)), inputs, ["logits_per_image", "logits_per_text", "image_embeds", "text_embeds"]


@case
def aimv2_with_a_mask() -> Any:
    """The text tower is causal."""
    return lit(True)


@case
def aimv2_without_a_mask() -> Any:
    """The text tower is not causal; biases everywhere, another activation, a scale above its bound."""
    more = {"qkv_bias": True, "mlp_bias": True, "hidden_act": "gelu", "rms_norm_eps": 1e-3}
    return lit(False, more, more, max_logit_scale=5.0)


@case
def aimv2_native() -> Any:
    """Images of another aspect ratio, the last pixels of which make no patch; a scale below one."""
    model, inputs, names = lit(True, sight={"is_native": True})
    torch.nn.init.constant_(model.logit_scale, -0.3)
    return model, {**inputs, "pixel_values": base.noise(2, 3, 27, 40)}, names


def encoder(height: int = 32, width: int = 32, **fields: Any) -> Any:
    import transformers as tf

    names = ["last_hidden_state", "pooler_output"] if fields.get("use_head", True) else ["last_hidden_state"]
    return (
        base.filled(tf.Aimv2VisionModel(tf.Aimv2VisionConfig(**vision(**fields)))),
        {"pixel_values": base.noise(2, 3, height, width)},
        names,
    )


@case
def aimv2_encoder() -> Any:
    return encoder(use_head=False)


@case
def aimv2_encoder_pooled_native() -> Any:
    return encoder(24, 48, is_native=True, qkv_bias=True, hidden_act="gelu_pytorch_tanh")
