"""SigLIP in front of Cohere's decoder: in LLaVA's wrapper, and as Maya's own code puts them together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from tests.parity import models as base

CASES: dict[str, Callable[[], tuple[Any, dict[str, Tensor], list[str]]]] = {}


def case(make: Callable[[], Any]) -> Callable[[], Any]:
    CASES[make.__name__] = make
    return make


def words(**fields: Any) -> dict[str, Any]:
    """Cohere, tiny: grouped heads, pairs that are neighbours."""
    own = {k: v for k, v in base.text(num_attention_heads=4, num_key_value_heads=2).items() if k != "rms_norm_eps"}
    return {**own, "model_type": "cohere", "rope_parameters": {"rope_type": "default", "rope_theta": 3000.0}, **fields}


def llava(tower: dict[str, Any], text: dict[str, Any], **fields: Any) -> Any:
    import transformers as tf

    config = tf.LlavaConfig(vision_config=tf.SiglipVisionConfig(**base.vision(**tower)), text_config=text, image_token_index=95, **fields)
    return base.filled(tf.LlavaForConditionalGeneration(config))


@case
def llava_cohere_left_padding() -> Any:
    """The first patch left out, as LLaVA's rule for class tokens has it; two images in one row, one in the other, which is padded."""
    ids, mask = base.placed(base.tokens(2, 40, 3, 95), 95, (0, 2, 15), (0, 20, 15), (1, 1, 15)), torch.ones(2, 40, dtype=torch.long)
    base.padded_left(ids, mask, 1, 7)
    model = llava({"vision_use_head": False}, words())
    return model, {"pixel_values": base.noise(3, 3, 32, 32), "input_ids": ids, "attention_mask": mask}, ["logits"]


@case
def llava_cohere_other_options() -> Any:
    """All patches of another layer; a pooling head that nothing reads; biases in attention, another activation and epsilon, all heads
    with own keys, positions divided by a factor, an untied head."""
    ids = base.placed(base.tokens(1, 20, 3, 95), 95, (0, 2, 16))
    rope = {"rope_type": "linear", "rope_theta": 500.0, "factor": 2.5}
    text = words(attention_bias=True, hidden_act="gelu_new", layer_norm_eps=1e-3, num_key_value_heads=None, rope_parameters=rope)
    model = llava({}, text, vision_feature_layer=-1, vision_feature_select_strategy="full", tie_word_embeddings=False)
    for parameter in model.model.language_model.layers.parameters():
        parameter.data *= 3  # else every state leads to the same word
    return model, {"pixel_values": base.noise(1, 3, 32, 32), "input_ids": ids, "attention_mask": torch.ones_like(ids)}, ["logits"]


@case
def llava_cohere_text_only() -> Any:
    ids = base.tokens(2, 9, 3, 95)
    return llava({}, words()), {"input_ids": ids, "attention_mask": torch.ones_like(ids)}, ["logits"]


@case
def maya_original() -> Any:
    """transformers' own `CohereForCausalLM` with its factor on the logits, fed with what Maya's code feeds it."""
    ids, mask = base.placed(base.tokens(2, 22, 3, 95), 96, (0, 2, 15), (1, 1, 15)), torch.ones(2, 22, dtype=torch.long)
    base.padded_left(ids, mask, 1, 5)
    return maya(), {"pixel_values": base.noise(2, 3, 32, 32), "input_ids": ids, "attention_mask": mask}, ["logits"]


def maya() -> Any:
    """The module tree and the config.json of nahidalam/maya: llava/model/language_model/llava_cohere.py."""
    import transformers as tf

    class MayaConfig(tf.CohereConfig):  # type: ignore[name-defined,misc]
        model_type = "llava_cohere"

    class Tower(nn.Module):
        def __init__(self, config: Any) -> None:
            super().__init__()
            self.vision_tower = tf.SiglipVisionModel(config)

    class Maya(tf.CohereForCausalLM):  # type: ignore[name-defined,misc]
        config_class = MayaConfig

        def __init__(self, config: Any) -> None:
            super().__init__(config)
            tower = tf.SiglipVisionConfig(**config.vision_config)
            self.model.vision_tower = Tower(tower)
            wide = (tower.hidden_size, config.hidden_size, config.hidden_size)
            self.model.mm_projector = nn.Sequential(nn.Linear(*wide[:2]), nn.GELU(), nn.Linear(*wide[1:]))

        def forward(self, pixel_values: Any = None, input_ids: Any = None, **inputs: Any) -> Any:
            x = self.model.embed_tokens(input_ids)
            if pixel_values is not None:
                states = self.model.vision_tower.vision_tower(pixel_values, output_hidden_states=True).hidden_states[-2]
                x = x.masked_scatter((input_ids == 96)[..., None], self.model.mm_projector(states[:, 1:]))
            return super().forward(inputs_embeds=x, **inputs)

    own = {"mm_vision_tower": "google/siglip-base-patch16-256-multilingual", "mm_projector_type": "mlp2x_gelu",
           "mm_vision_select_layer": -2, "mm_vision_select_feature": "patch", "mm_use_im_patch_token": False,
           "image_aspect_ratio": "pad", "image_token_index": 96}  # fmt: skip
    text = {k: v for k, v in words().items() if k != "model_type"}
    tower = {**base.vision(vision_use_head=False), "model_type": "siglip_vision_model"}
    return base.filled(Maya(MayaConfig(**text, **own, vision_config=tower)))
