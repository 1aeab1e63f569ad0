"""Images of several sizes and images cut into tiles: Pixtral, InternVL."""

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


def pixtral(tower: dict[str, Any], words: dict[str, Any], **fields: Any) -> Any:
    import transformers as tf

    tower = {"hidden_size": 24, "intermediate_size": 44, "num_hidden_layers": 3, "num_attention_heads": 2, "patch_size": 6, **tower}
    words = base.text(**{"model_type": "mistral", "head_dim": 12, "num_key_value_heads": 1, **words})
    config = tf.LlavaConfig(
        vision_config=tf.PixtralVisionConfig(**tower), text_config=words, image_token_index=95, vision_feature_select_strategy="full",
        **fields,
    )  # fmt: skip
    return base.filled(tf.LlavaForConditionalGeneration(config))


@case
def pixtral_three_sizes_left_padding() -> Any:
    """Images of 2 x 3, 4 x 1 and 1 x 2 patches in one padded array, the middle one with pixels left over; a window of five tokens; another
    layer, another base of the wavelengths, tanh GELU."""
    ids, mask = base.tokens(2, 18, 3, 95), torch.ones(2, 18, dtype=torch.long)
    base.placed(ids, 95, (0, 1, 6), (0, 9, 4), (1, 2, 2))
    base.padded_left(ids, mask, 1, 5)
    tower = {"hidden_act": "gelu_pytorch_tanh", "rope_parameters": {"rope_type": "axial", "rope_theta": 300.0}}
    model = pixtral(tower, {"sliding_window": 5}, vision_feature_layer=-2, projector_hidden_act="silu")
    sizes = torch.tensor([[12, 18], [27, 6], [6, 12]])
    return model, {"pixel_values": base.noise(3, 3, 27, 18), "image_sizes": sizes, "input_ids": ids, "attention_mask": mask}, ["logits"]


@case
def pixtral_one_size_tied() -> Any:
    """No sizes: all of the array is image. LLaMA behind it, one table; no biases in the projector; the first layer of the tower."""
    ids = base.placed(base.tokens(1, 20, 3, 95), 95, (0, 2, 6), (0, 10, 6))
    words = {"model_type": "llama", "num_key_value_heads": 5, "head_dim": 8}
    tied = {"vision_feature_layer": 1, "multimodal_projector_bias": False, "tie_word_embeddings": True}
    model = pixtral({"hidden_act": "silu"}, words, **tied)
    return model, {"pixel_values": base.noise(2, 3, 12, 18), "input_ids": ids, "attention_mask": torch.ones_like(ids)}, ["logits"]


def internvl(tower: dict[str, Any], words: dict[str, Any], **fields: Any) -> Any:
    import transformers as tf

    tower = {**base.vision(), "image_size": [32, 32], "patch_size": [8, 8], **tower}
    config = tf.InternVLConfig(
        vision_config=tf.InternVLVisionConfig(**tower),
        text_config=base.text(**{"model_type": "qwen2", **words}),
        image_token_id=95,
        **fields,
    )
    return base.filled(tf.InternVLForConditionalGeneration(config))


@case
def internvl_tiles_left_padding() -> Any:
    """Three tiles over two rows; norms on whole queries and keys, RMS norms and biases as in the 6B tower; embeddings untied."""
    ids, mask = base.tokens(2, 15, 3, 95), torch.ones(2, 15, dtype=torch.long)
    base.placed(ids, 95, (0, 2, 8), (1, 1, 4))
    base.padded_left(ids, mask, 1, 4)
    tower = {"use_qk_norm": True, "norm_type": "rms_norm", "attention_bias": True, "hidden_act": "quick_gelu"}
    model = internvl(tower, {}, tie_word_embeddings=False, projector_hidden_act="relu")
    return model, {"pixel_values": base.noise(3, 3, 32, 32), "input_ids": ids, "attention_mask": mask}, ["logits"]


@case
def internvl_final_norm() -> Any:
    """A norm behind the tower; LLaMA; one token a tile; one table."""
    ids = base.placed(base.tokens(1, 9, 3, 95), 95, (0, 2, 2))
    model = internvl({"use_mean_pooling": False}, {"model_type": "llama"}, downsample_ratio=0.25)
    return model, {"pixel_values": base.noise(2, 3, 32, 32), "input_ids": ids, "attention_mask": torch.ones_like(ids)}, ["logits"]


@case
def internvl_earlier_layer() -> Any:
    """Another layer, before the norm behind the tower; text of a window."""
    ids = base.placed(base.tokens(1, 14, 3, 95), 95, (0, 2, 4))
    words = {"model_type": "mistral", "sliding_window": 4, "head_dim": 8}
    model = internvl({"use_mean_pooling": False}, words, vision_feature_layer=-2)
    return model, {"pixel_values": base.noise(1, 3, 32, 32), "input_ids": ids, "attention_mask": torch.ones_like(ids)}, ["logits"]


@case
def llava_qwen2() -> Any:
    """Qwen2 behind LLaVA's projector."""
    ids = base.placed(base.tokens(1, 20, 3, 95), 95, (0, 2, 16))
    return base.llava(ids, torch.ones_like(ids), 1, {"model_type": "qwen2"})


def llava_next(views: int, sizes: list[list[int]], ids: Tensor, mask: Tensor, words: dict[str, Any], **fields: Any) -> Any:
    import transformers as tf

    config = tf.LlavaNextConfig(
        vision_config=tf.CLIPVisionConfig(**base.vision()), text_config=base.text(**words), image_token_index=95,
        image_grid_pinpoints=[[32, 64], [64, 32], [64, 64], [96, 32]], **fields,
    )  # fmt: skip
    inputs = {"input_ids": ids, "attention_mask": mask}
    if sizes:
        inputs |= {"pixel_values": base.noise(len(sizes), views, 3, 32, 32), "image_sizes": torch.tensor(sizes)}
    return base.filled(tf.LlavaNextForConditionalGeneration(config)), inputs, ["logits"]


@case
def llava_next_three_sizes_left_padding() -> Any:
    """A wide, a tall and a square picture over two rows: margins at the sides, above and below, none; 2 to 4 tiles, padded views."""
    ids, mask = base.tokens(2, 112, 3, 95), torch.ones(2, 112, dtype=torch.long)
    counts = [16 + 2 * 9, 16 + 12 * 3, 16 + 8 * 9]  # maps of 2 x 8 (of 4 x 8), 12 x 2 (of 12 x 4) and 8 x 8 patches with a newline a row
    base.placed(ids, 95, (0, 1, counts[0]), (0, 40, counts[1]), (1, 1, counts[2]))
    base.padded_left(ids, mask, 1, 9)
    return llava_next(5, [[10, 40], [90, 20], [70, 70]], ids, mask, {"model_type": "mistral", "head_dim": 12, "sliding_window": None})


@case
def llava_next_earlier_layer_tied() -> Any:
    """Another layer, another activation, no biases in the projector, one table."""
    ids = base.placed(base.tokens(1, 60, 3, 95), 95, (0, 2, 16 + 4 * 9))
    tied = {"vision_feature_layer": -1, "projector_hidden_act": "relu", "multimodal_projector_bias": False, "tie_word_embeddings": True}
    return llava_next(3, [[32, 64]], ids, torch.ones_like(ids), {}, **tied)


@case
def llava_next_text_only() -> Any:
    ids = base.tokens(2, 9, 3, 95)
    return llava_next(0, [], ids, torch.ones_like(ids), {"model_type": "qwen2"})
