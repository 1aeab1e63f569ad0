"""Image and text towers, and InstructBLIP, whose bridge reads the instruction."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from tests.parity import models as base

CASES: dict[str, Callable[[], tuple[Any, dict[str, Tensor], list[str]]]] = {}
SCORES = ["logits_per_image", "logits_per_text", "image_embeds", "text_embeds"]


def case(make: Callable[[], Any]) -> Callable[[], Any]:
    CASES[make.__name__] = make
    return make


def siglip(tower: dict[str, Any], **words: Any) -> Any:
    import transformers as tf

    text = {"vocab_size": 71, "hidden_size": 28, "intermediate_size": 52, "num_hidden_layers": 2, "num_attention_heads": 2,
            "max_position_embeddings": 13, "projection_size": 24, **words}  # fmt: skip
    return base.filled(tf.SiglipModel(tf.SiglipConfig(text_config=text, vision_config=base.vision(**tower))))


@case
def siglip_border_left_out() -> Any:
    """Patches that do not divide the image; another width and activation in each tower; more places than words."""
    model = siglip({"image_size": 35, "hidden_act": "gelu"}, hidden_act="relu")
    return model, {"pixel_values": base.noise(3, 3, 35, 35), "input_ids": base.tokens(4, 9, 2, 71)}, SCORES


@case
def siglip_masked() -> Any:
    """A mask hides padding from the words, yet the last place is read."""
    ids = base.tokens(2, 13, 2, 71)
    mask = torch.ones_like(ids)
    ids[0, 6:], mask[0, 6:] = 1, 0
    inputs = {"pixel_values": base.noise(2, 3, 32, 32), "input_ids": ids, "attention_mask": mask}
    return siglip({"layer_norm_eps": 1e-3}, layer_norm_eps=1e-4), inputs, SCORES


@case
def metaclip_2_small_end_token() -> Any:
    """The first token 2 is the text, whatever ids are larger; two activations, padding behind."""
    import transformers as tf

    text = {"vocab_size": 71, "hidden_size": 28, "intermediate_size": 52, "num_hidden_layers": 2, "num_attention_heads": 2,
            "max_position_embeddings": 17, "hidden_act": "gelu", "eos_token_id": 2, "bos_token_id": 0, "pad_token_id": 1}  # fmt: skip
    config = tf.MetaClip2Config(text_config=text, vision_config=base.vision(hidden_act="quick_gelu"), projection_dim=20)
    ids = base.tokens(4, 9, 3, 71)
    ids[:, 0] = 0
    for row, at in enumerate((8, 3, 5, 7)):
        ids[row, at], ids[row, at + 1 :] = 2, 1
    ids[1, 6] = 2
    return base.filled(tf.MetaClip2Model(config)), {"pixel_values": base.noise(3, 3, 32, 32), "input_ids": ids}, SCORES


def instructblip(words: Any, frequency: int = 2) -> Any:
    """Two texts padded on different sides: the instruction of the bridge, and the decoder's."""
    import transformers as tf

    reader = {"vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 36,
              "encoder_hidden_size": 24, "cross_attention_frequency": frequency, "max_position_embeddings": 21}  # fmt: skip
    config = tf.InstructBlipConfig(
        vision_config=base.vision(), qformer_config=reader, text_config=words, num_query_tokens=5, image_token_index=96
    )
    ids, mask = base.placed(base.tokens(2, 14, 3, 96), 96, (0, 0, 5), (1, 0, 5)), torch.ones(2, 14, dtype=torch.long)
    base.padded_left(ids, mask, 1, 3, pad=1)
    asked = base.tokens(2, 8, 3, 50, seed=6)
    seen = torch.ones_like(asked)
    asked[0, 5:], seen[0, 5:] = 0, 0
    inputs = {
        "pixel_values": base.noise(2, 3, 32, 32), "input_ids": ids, "attention_mask": mask,
        "qformer_input_ids": asked, "qformer_attention_mask": seen,
    }  # fmt: skip
    return base.filled(tf.InstructBlipForConditionalGeneration(config)), inputs, ["logits"]


@case
def instructblip_left_padding() -> Any:
    return instructblip(base.text())


@case
def instructblip_opt() -> Any:
    """Over BLIP-2's decoder; the queries read the image in every layer."""
    words = {"model_type": "opt", "vocab_size": 97, "hidden_size": 40, "num_hidden_layers": 2, "ffn_dim": 68, "num_attention_heads": 5,
             "max_position_embeddings": 64, "word_embed_proj_dim": 40}  # fmt: skip
    return instructblip(words, frequency=1)
