"""Tiny random models of the reference implementations, with inputs: no two dims alike, so that a wrong wiring cannot pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from tests.parity import (
    models_aimv2,
    models_aria,
    models_blip,
    models_florence,
    models_gemma,
    models_hybrid,
    models_idefics2,
    models_idefics3,
    models_kosmos,
    models_mantis,
    models_maya,
    models_mixed,
    models_mllama,
    models_native,
    models_options,
    models_others,
    models_tiles,
    models_towers,
    models_videollama,
)

CASES: dict[str, Callable[[], tuple[Any, dict[str, Tensor], list[str]]]] = {}


def case(make: Callable[[], Any]) -> Callable[[], Any]:
    CASES[make.__name__] = make
    return make


def filled(model: Any, seed: int = 5) -> Any:
    """Every parameter a value that matters: norms and gates off one and zero, biases off zero."""
    noise = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            value = torch.randn(parameter.shape, generator=noise)
            if parameter.dim() > 1:
                parameter.copy_(value * 0.09)
            else:
                parameter.add_(value * 0.12)
    return model.eval().float()


def noise(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def tokens(batch: int, length: int, low: int, high: int, seed: int = 2) -> Tensor:
    return torch.randint(low, high, (batch, length), generator=torch.Generator().manual_seed(seed))


def placed(ids: Tensor, token: int, *runs: tuple[int, int, int]) -> Tensor:
    """`token` at (row, start, count)."""
    for row, start, count in runs:
        ids[row, start : start + count] = token
    return ids


def padded_left(ids: Tensor, mask: Tensor, row: int, count: int, pad: int = 0) -> None:
    ids[row] = torch.roll(ids[row], count)
    ids[row, :count], mask[row, :count] = pad, 0


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


def text(**fields: Any) -> dict[str, Any]:
    return {
        "model_type": "llama", "vocab_size": 97, "hidden_size": 40, "intermediate_size": 68, "num_hidden_layers": 2,
        "num_attention_heads": 5, "num_key_value_heads": 1,
        "max_position_embeddings": 256, "rms_norm_eps": 1e-5, "pad_token_id": 0, **fields,
    }  # fmt: skip


def llava(ids: Tensor, mask: Tensor | None, pictures: int, words: dict[str, Any] | None = None, **fields: Any) -> Any:
    import transformers as tf

    config = tf.LlavaConfig(
        vision_config=tf.CLIPVisionConfig(**vision()), text_config=text(**(words or {})), image_token_index=95, **fields
    )
    inputs = {"input_ids": ids, **({} if mask is None else {"attention_mask": mask})}
    if pictures:
        inputs["pixel_values"] = noise(pictures, 3, 32, 32)
    return filled(tf.LlavaForConditionalGeneration(config)), inputs, ["logits"]


@case
def llava_full_strategy() -> Any:
    """Class token kept, another layer, another RoPE base."""
    ids = placed(tokens(2, 23, 3, 95), 95, (0, 1, 17), (1, 4, 17))
    words = {"rope_parameters": {"rope_type": "default", "rope_theta": 500.0}}
    return llava(ids, None, 2, words, vision_feature_select_strategy="full", vision_feature_layer=-1)


@case
def llava_left_padding_two_images() -> Any:
    """Two images in one row, one in the other, which is padded on the left."""
    ids, mask = placed(tokens(2, 40, 3, 95), 95, (0, 2, 16), (0, 20, 16), (1, 1, 16)), torch.ones(2, 40, dtype=torch.long)
    padded_left(ids, mask, 1, 7)
    return llava(ids, mask, 3)


@case
def llava_text_only() -> Any:
    return llava(tokens(2, 11, 3, 95), torch.ones(2, 11, dtype=torch.long), 0)


@case
def llava_tied() -> Any:
    ids = placed(tokens(1, 20, 3, 95), 95, (0, 2, 16))
    return llava(ids, None, 1, {"num_key_value_heads": 5}, tie_word_embeddings=True)


def clip(end: int, activation: str) -> Any:
    import transformers as tf

    words = {"vocab_size": 71, "hidden_size": 28, "intermediate_size": 52, "num_hidden_layers": 2, "num_attention_heads": 2,
    "max_position_embeddings": 17,
             "hidden_act": activation, "eos_token_id": end, "bos_token_id": 69, "pad_token_id": 0}  # fmt: skip
    config = tf.CLIPConfig(text_config=words, vision_config=vision(hidden_act=activation), projection_dim=20)
    ids = tokens(4, 9, 3, 69)
    ids[:, 0] = 69
    for row, at in enumerate((8, 3, 5, 7)):
        ids[row, at:] = 70
    return (
        filled(tf.CLIPModel(config)),
        {"pixel_values": noise(3, 3, 32, 32), "input_ids": ids},
        ["logits_per_image", "logits_per_text", "image_embeds", "text_embeds"],
    )


@case
def clip_gelu() -> Any:
    return clip(70, "gelu")


@case
def clip_without_end_token() -> Any:
    """Files older than the stated end token have 2 in its place."""
    return clip(2, "quick_gelu")


def blip_2(**words: Any) -> Any:
    import transformers as tf

    opt = tf.OPTConfig(
        vocab_size=97,
        hidden_size=40,
        num_hidden_layers=2,
        ffn_dim=68,
        num_attention_heads=5,
        max_position_embeddings=64,
        word_embed_proj_dim=40,
        **words,
    )
    reader = {"vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 36,
    "encoder_hidden_size": 24,
              "cross_attention_frequency": 2, "max_position_embeddings": 21}  # fmt: skip
    config = tf.Blip2Config(
        vision_config=vision(), qformer_config=reader, text_config=opt.to_dict(), num_query_tokens=5, image_token_index=96
    )
    return filled(tf.Blip2ForConditionalGeneration(config))


@case
def blip_2_left_padding() -> Any:
    ids, mask = placed(tokens(2, 14, 3, 96), 96, (0, 0, 5), (1, 0, 5)), torch.ones(2, 14, dtype=torch.long)
    padded_left(ids, mask, 1, 3, pad=1)
    return blip_2(), {"pixel_values": noise(2, 3, 32, 32), "input_ids": ids, "attention_mask": mask}, ["logits"]


@case
def blip_2_flan_t5() -> Any:
    """Queries and prompt into the encoder, its padding on the left; two depths; exact GELU, as released."""
    import transformers as tf

    words = {
        "model_type": "t5", "vocab_size": 97, "d_model": 40, "d_kv": 9, "d_ff": 60, "num_layers": 2, "num_decoder_layers": 3,
        "num_heads": 4, "feed_forward_proj": "gated-gelu", "dense_act_fn": "gelu", "tie_word_embeddings": False,
        "decoder_start_token_id": 0, "relative_attention_num_buckets": 8, "relative_attention_max_distance": 20,
    }  # fmt: skip
    queries = {"vocab_size": 50, "hidden_size": 20, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 36,
               "encoder_hidden_size": 24}  # fmt: skip
    config = tf.Blip2Config(vision_config=vision(), qformer_config=queries, text_config=words, num_query_tokens=5, image_token_index=96)
    ids = placed(tokens(2, 14, 3, 95), 96, (0, 0, 5), (1, 0, 5))
    mask = torch.ones_like(ids)
    padded_left(ids, mask, 1, 3)
    answer = torch.cat([torch.zeros(2, 1, dtype=torch.long), tokens(2, 5, 3, 95, seed=8)], 1)
    inputs = {"pixel_values": noise(2, 3, 32, 32), "input_ids": ids, "attention_mask": mask, "decoder_input_ids": answer}
    return filled(tf.Blip2ForConditionalGeneration(config)), inputs, ["logits"]


def idefics(**fields: Any) -> Any:
    import transformers as tf

    config = tf.IdeficsConfig(
        vocab_size=97, additional_vocab_size=3, hidden_size=40, intermediate_size=68, num_hidden_layers=6, num_attention_heads=5,
        use_resampler=True, pad_token_id=0,
        perceiver_config={"resampler_n_latents": 4, "resampler_depth": 2, "resampler_n_heads": 3, "resampler_head_dim": 7,
        **fields.pop("perceiver", {})},
        vision_config={"embed_dim": 24, "intermediate_size": 44, "num_hidden_layers": 2, "num_attention_heads": 3, "image_size": 32,
        "patch_size": 8}, **fields,
    )  # fmt: skip
    return filled(tf.IdeficsForVisionText2Text(config))


@case
def idefics_three_images() -> Any:
    """Tokens before any image, an image of some tokens only, ids among the added rows, a gated layer before layers 0 and 3."""
    ids = tokens(2, 12, 3, 100)
    seen = torch.zeros(2, 12, 3)
    seen[:, 2:6, 0], seen[0, 6:, 1], seen[1, 6:, 1:] = 1, 1, 1
    inputs = {
        "pixel_values": noise(2, 3, 3, 32, 32),
        "image_attention_mask": seen,
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
    }
    return idefics(cross_layer_interval=3, qk_layer_norms=False), inputs, ["logits"]


@case
def idefics_normed() -> Any:
    ids = tokens(1, 9, 3, 97)
    inputs = {
        "pixel_values": noise(1, 1, 3, 32, 32),
        "image_attention_mask": torch.ones(1, 9, 1),
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
    }
    return idefics(cross_layer_interval=1, qk_layer_norms=True, perceiver={"qk_layer_norms_perceiver": True}), inputs, ["logits"]


def qwen2_vl(tie: bool = False) -> Any:
    import transformers as tf

    tower = {
        "depth": 2,
        "embed_dim": 24,
        "hidden_size": 40,
        "num_heads": 2,
        "mlp_ratio": 3,
        "patch_size": 6,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
    }
    words = {"vocab_size": 97, "hidden_size": 40, "intermediate_size": 68, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 1,
             "rope_parameters": {"rope_type": "default", "mrope_section": [1, 3, 1], "rope_theta": 3000.0}, "bos_token_id": 1,
                 "eos_token_id": 2}  # fmt: skip
    config = tf.Qwen2VLConfig(
        vision_config=tower,
        text_config=words,
        image_token_id=96,
        video_token_id=95,
        vision_start_token_id=94,
        vision_end_token_id=93,
        tie_word_embeddings=tie,
    )
    return filled(tf.Qwen2VLForConditionalGeneration(config))


def kinds(ids: Tensor) -> Tensor:
    return (ids == 96).long() + 2 * (ids == 95).long()


@case
def qwen2_vl_images_and_video() -> Any:
    """Two images of different sizes and a video over two rows, the shorter padded on the left.

    The video has no more frames than tokens a side: behind longer ones transformers 5.23 and later leave fewer positions than the
    original code, whose rule the weights were trained with.
    """
    ids, mask = tokens(2, 26, 3, 93), torch.ones(2, 26, dtype=torch.long)
    placed(ids, 96, (0, 2, 6), (0, 11, 4))
    placed(ids, 95, (1, 3, 8))
    ids[0, 1], ids[0, 10], ids[1, 2] = 94, 94, 94
    padded_left(ids, mask, 1, 5)
    patch = 3 * 2 * 6 * 6
    inputs = {
        "input_ids": ids, "attention_mask": mask, "mm_token_type_ids": kinds(ids),
        "pixel_values": noise(24 + 16, patch), "image_grid_thw": torch.tensor([[1, 4, 6], [1, 4, 4]]),
        "pixel_values_videos": noise(2 * 16, patch, seed=7), "video_grid_thw": torch.tensor([[2, 4, 4]]),
    }  # fmt: skip
    return qwen2_vl(), inputs, ["logits"]


@case
def qwen2_vl_text_only_tied() -> Any:
    ids = tokens(2, 9, 3, 93)
    return qwen2_vl(True), {"input_ids": ids, "attention_mask": torch.ones_like(ids)}, ["logits"]


def janus(tie: bool) -> Any:
    import transformers as tf

    tower = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "mlp_ratio": 1.5, "image_size": 32, "patch_size": 8,
    "projection_dim": 40, "depth": 3,
             "num_image_tokens": 16}  # fmt: skip
    codes = {"embed_dim": 6, "num_embeddings": 29, "latent_channels": 12, "base_channels": 32, "channel_multiplier": [1, 2, 1],
    "num_res_blocks": 1, "projection_dim": 40,
             "image_token_embed_dim": 40, "num_hidden_layers": 2, "double_latent": False, "num_patches": 3}  # fmt: skip
    return filled(
        tf.JanusForConditionalGeneration(
            tf.JanusConfig(text_config=text(), vision_config=tower, vq_config=codes, image_token_id=95, tie_word_embeddings=tie)
        )
    )


@case
def janus_deeper_aligner() -> Any:
    ids = placed(tokens(2, 22, 3, 95), 95, (0, 3, 16), (1, 0, 16))
    return janus(True), {"pixel_values": noise(2, 3, 32, 32), "input_ids": ids, "attention_mask": torch.ones_like(ids)}, ["logits"]


@case
def janus_untied_text_only() -> Any:
    ids = tokens(2, 8, 3, 95)
    return janus(False), {"input_ids": ids, "attention_mask": torch.ones_like(ids)}, ["logits"]


CASES |= models_native.CASES
CASES |= models_aria.CASES
CASES |= models_towers.CASES
CASES |= models_mixed.CASES
CASES |= models_tiles.CASES
CASES |= models_options.CASES
CASES |= models_others.CASES
CASES |= models_gemma.CASES
CASES |= models_videollama.CASES
CASES |= models_hybrid.CASES
CASES |= models_mantis.CASES
CASES |= models_maya.CASES
CASES |= models_idefics2.CASES
CASES |= models_idefics3.CASES
CASES |= models_aimv2.CASES
CASES |= models_blip.CASES
CASES |= models_mllama.CASES
CASES |= models_kosmos.CASES
CASES |= models_florence.CASES
