"""KOSMOS-2: images in places that a mask marks."""

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


def kosmos(ids: Tensor, mask: Tensor | None, *starts: tuple[int, int], words: dict[str, Any] | None = None, **fields: Any) -> Any:
    """Six embeddings of each image, at its row and place."""
    import transformers as tf

    text = {
        "vocab_size": 97,
        "layers": 2,
        "embed_dim": 40,
        "ffn_dim": 68,
        "attention_heads": 5,
        "max_position_embeddings": 64,
        **(words or {}),
    }
    config = tf.Kosmos2Config(text_config=text, vision_config=base.vision(), latent_query_num=6, **fields)
    marks = torch.zeros_like(ids)
    for row, start in starts:
        marks[row, start : start + 6] = 1
    inputs = {"pixel_values": base.noise(len(starts), 3, 32, 32), "input_ids": ids, "image_embeds_position_mask": marks}
    return base.filled(tf.Kosmos2ForConditionalGeneration(config)), inputs | ({} if mask is None else {"attention_mask": mask}), ["logits"]


@case
def kosmos_left_padding() -> Any:
    """Images at different places; one row is padded, which moves its positions."""
    ids, mask = base.tokens(2, 19, 3, 97), torch.ones(2, 19, dtype=torch.long)
    base.padded_left(ids, mask, 1, 4, pad=1)
    return kosmos(ids, mask, (0, 2), (1, 7))


@case
def kosmos_padding_tokens_in_sight() -> Any:
    """Without a mask tokens of the padding's id are read, at no position; the padding token is another, nothing is scaled or tied."""
    ids = base.tokens(2, 15, 3, 97)
    ids[0, 10] = ids[1, 12:] = ids[1, 3] = 5
    words = {
        "pad_token_id": 5,
        "scale_embedding": False,
        "activation_function": "relu",
        "layer_norm_eps": 1e-3,
        "tie_word_embeddings": False,
    }
    return kosmos(ids, None, (0, 1), (1, 2), words=words, tie_word_embeddings=False)


@case
def kosmos_two_images_in_a_row() -> Any:
    """Two images in one text, none in the other; queries of another number of heads, tied by the text's word alone."""
    ids = base.tokens(2, 21, 3, 97)
    return kosmos(ids, torch.ones_like(ids), (0, 2), (0, 11), words={"attention_heads": 4}, tie_word_embeddings=False)
