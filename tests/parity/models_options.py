"""Options of LLaVA's wrappers and of decoders behind them: towers, layers joined, rope scaling, windows, biases, padding on both sides."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from tests.parity import models as base

CASES: dict[str, Callable[[], tuple[Any, dict[str, Tensor], list[str]]]] = {}
GEMMA = {"model_type": "gemma", "head_dim": 12, "hidden_act": "gelu_pytorch_tanh"}
GEMMA_2 = {
    "model_type": "gemma2", "head_dim": 12, "hidden_activation": "gelu_pytorch_tanh", "sliding_window": 6, "query_pre_attn_scalar": 9,
    "num_attention_heads": 4, "num_key_value_heads": 2,
}  # fmt: skip


def case(make: Callable[[], Any]) -> Callable[[], Any]:
    CASES[make.__name__] = make
    return make


def tower(kind: str, **fields: Any) -> Any:
    import transformers as tf

    return (tf.SiglipVisionConfig if kind == "siglip" else tf.CLIPVisionConfig)(**base.vision(**fields))


def llava(kind: str, words: dict[str, Any], own: dict[str, Any], **fields: Any) -> Any:
    import transformers as tf

    config = tf.LlavaConfig(vision_config=tower(kind, **own), text_config=base.text(**words), image_token_index=95, **fields)
    return base.filled(tf.LlavaForConditionalGeneration(config))


def rows(places: int, right: int = 0) -> dict[str, Tensor]:
    """Two rows with an image each, the second padded on the right."""
    ids = base.placed(base.tokens(2, 24, 3, 95), 95, (0, 2, places), (1, 0, places))
    mask = torch.ones_like(ids)
    if right:
        ids[1, -right:], mask[1, -right:] = 0, 0
    return {"input_ids": ids, "attention_mask": mask, "pixel_values": base.noise(2, 3, 32, 32)}


@case
def llava_layers_joined_yarn() -> Any:
    """Two layers of CLIP without class tokens; biases in all maps of LLaMA, wide heads, GELU; YaRN with all that it takes; padding on the
    right."""
    rope = {"rope_type": "yarn", "factor": 4.0, "rope_theta": 500.0, "original_max_position_embeddings": 64, "beta_fast": 9.0,
            "beta_slow": 0.7, "mscale": 1.3, "mscale_all_dim": 0.6, "truncate": False}  # fmt: skip
    words = {"attention_bias": True, "mlp_bias": True, "head_dim": 12, "hidden_act": "gelu", "rope_parameters": rope}
    return llava("clip", words, {}, vision_feature_layer=[-2, 1], projector_hidden_act="gelu_new"), rows(16, 4), ["logits"]


@case
def llava_full_layers_joined_dynamic() -> Any:
    """Three layers with class tokens; Qwen2 with a window in its last layer and a base that grows with a call of more than 16 tokens."""
    rope = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 500.0}
    words = {
        "model_type": "qwen2", "use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1, "hidden_act": "relu2",
        "max_position_embeddings": 16, "rope_parameters": rope,
    }  # fmt: skip
    fields = {"vision_feature_layer": [3, -3, 0], "vision_feature_select_strategy": "full"}
    return llava("clip", words, {}, **fields), rows(17, 3), ["logits"]


@case
def llava_siglip_gemma_2() -> Any:
    """All patches of two layers of SigLIP without its pooling head; Gemma 2 with LongRoPE in a call longer than the old context."""
    rope = {"rope_type": "longrope", "short_factor": [1.0] * 6, "long_factor": [1.0, 1.5, 3.0, 2.0, 8.0, 5.0], "rope_theta": 500.0,
            "original_max_position_embeddings": 16}  # fmt: skip
    fields = {"vision_feature_layer": [-2, 1], "vision_feature_select_strategy": "full"}
    return llava("siglip", {**GEMMA_2, "rope_parameters": rope}, {"vision_use_head": False}, **fields), rows(16), ["logits"]


@case
def llava_gemma() -> Any:
    return llava("clip", {**GEMMA, "tie_word_embeddings": False}, {}), rows(16, 5), ["logits"]


def next_rows(model: Any, side: int) -> dict[str, Tensor]:
    """A wide image and a small one, as many places as each has tokens, the shorter row padded on the left."""
    sizes, views = torch.tensor([[side, 2 * side], [20, 14]]), base.noise(2, 3, 3, side, side)
    counts = [len(found) for found in model.model.get_image_features(views, sizes, return_dict=True).pooler_output]
    ids = base.placed(base.tokens(2, max(counts) + 6, 3, 95), 95, (0, 1, counts[0]), (1, 2, counts[1]))
    mask = torch.ones_like(ids)
    base.padded_left(ids, mask, 1, 3)
    return {"input_ids": ids, "attention_mask": mask, "pixel_values": views, "image_sizes": sizes}


def llava_next(kind: str, words: dict[str, Any], side: int, own: dict[str, Any], **fields: Any) -> Any:
    import transformers as tf

    config = tf.LlavaNextConfig(
        vision_config=tower(kind, image_size=side, **own), text_config=base.text(**words), image_token_index=95,
        image_grid_pinpoints=[[side, 2 * side], [2 * side, side]], **fields,
    )  # fmt: skip
    return base.filled(tf.LlavaNextForConditionalGeneration(config))


@case
def llava_next_siglip_layers_joined() -> Any:
    """Three layers of SigLIP, whose picture has pixels behind the last patch; Qwen2."""
    fields = {"vision_feature_layer": [-2, 1, -1], "vision_feature_select_strategy": "full"}
    model = llava_next("siglip", {"model_type": "qwen2"}, 36, {"vision_use_head": False}, **fields)
    with torch.no_grad():
        return model, next_rows(model, 36), ["logits"]


@case
def llava_next_gemma() -> Any:
    """One layer of CLIP and the next; Gemma."""
    model = llava_next("clip", GEMMA, 32, {}, vision_feature_layer=[-2, -1], multimodal_projector_bias=False)
    with torch.no_grad():
        return model, next_rows(model, 32), ["logits"]


@case
def qwen2_vl_yarn_window() -> Any:
    """Three axes with YaRN, a window in the last layer, GELU, an untied head; text and one image."""
    import transformers as tf

    rope = {"rope_type": "yarn", "factor": 4.0, "mrope_section": [1, 3, 1], "rope_theta": 3000.0, "original_max_position_embeddings": 64}
    words = {
        "vocab_size": 97, "hidden_size": 40, "intermediate_size": 68, "num_hidden_layers": 3, "num_attention_heads": 4,
        "num_key_value_heads": 1, "rope_parameters": rope, "max_position_embeddings": 256, "hidden_act": "gelu", "bos_token_id": 1,
        "eos_token_id": 2, "use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1,
    }  # fmt: skip
    tower = {"depth": 2, "embed_dim": 24, "hidden_size": 40, "num_heads": 2, "mlp_ratio": 3, "patch_size": 6, "spatial_merge_size": 2,
             "temporal_patch_size": 2}  # fmt: skip
    config = tf.Qwen2VLConfig(
        vision_config=tower, text_config=words, image_token_id=96, video_token_id=95, vision_start_token_id=94, vision_end_token_id=93
    )
    ids = base.placed(base.tokens(1, 20, 3, 93), 96, (0, 5, 6))
    ids[0, 4] = 94
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "mm_token_type_ids": base.kinds(ids)}
    picture = {"pixel_values": base.noise(24, 3 * 2 * 6 * 6), "image_grid_thw": torch.tensor([[1, 4, 6]])}
    return base.filled(tf.Qwen2VLForConditionalGeneration(config)), {**inputs, **picture}, ["logits"]
