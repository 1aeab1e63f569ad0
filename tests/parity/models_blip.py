"""Cases of BLIP: one model type, three classes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

CASES: dict[str, Callable[[], Any]] = {}


def case(make: Callable[[], Any]) -> Callable[[], Any]:
    CASES[make.__name__] = make
    return make


def blip(kind: str, words: dict[str, Any] | None = None, picture: dict[str, Any] | None = None, **fields: Any) -> Any:
    import transformers as tf

    from tests.parity.models import filled, vision

    text = {
        "vocab_size": 97, "hidden_size": 40, "intermediate_size": 68, "num_hidden_layers": 2, "num_attention_heads": 5,
        "max_position_embeddings": 23, "bos_token_id": 94, "sep_token_id": 95, "eos_token_id": 95, "pad_token_id": 0, **(words or {}),
    }  # fmt: skip
    config = tf.BlipConfig(text_config=text, vision_config=vision(**(picture or {})), **fields)
    return filled(getattr(tf, kind)(config))


def padded(rows: int, length: int, real: int) -> tuple[torch.Tensor, torch.Tensor]:
    from tests.parity.models import tokens

    ids, mask = tokens(rows, length, 3, 94), torch.ones(rows, length, dtype=torch.long)
    ids[-1, real:], mask[-1, real:] = 0, 0
    return ids, mask


@case
def blip_captioning() -> Any:
    """Padding on the right, the tanh form of GELU in the words, the exact one in the picture, epsilons that are felt."""
    from tests.parity.models import noise

    ids, mask = padded(2, 9, 6)
    model = blip("BlipForConditionalGeneration", {"hidden_act": "gelu_new", "layer_norm_eps": 1e-2}, {"layer_norm_eps": 1e-2})
    return model, {"pixel_values": noise(2, 3, 32, 32), "input_ids": ids, "attention_mask": mask}, ["logits"]


@case
def blip_matching() -> Any:
    """Padding; a picture whose last pixels no patch covers; another width of the joint space."""
    from tests.parity.models import noise

    ids, mask = padded(3, 8, 5)
    model = blip(
        "BlipForImageTextRetrieval", {"hidden_act": "quick_gelu"}, {"image_size": 36, "hidden_act": "relu"}, image_text_hidden_size=19
    )
    return model, {"pixel_values": noise(3, 3, 36, 36), "input_ids": ids, "attention_mask": mask}, ["itm_score"]


@case
def blip_matching_without_a_mask() -> Any:
    from tests.parity.models import noise, tokens

    model = blip("BlipForImageTextRetrieval", {"num_attention_heads": 8}, {"hidden_act": "silu"})
    return model, {"pixel_values": noise(2, 3, 32, 32), "input_ids": tokens(2, 7, 3, 94)}, ["itm_score"]
