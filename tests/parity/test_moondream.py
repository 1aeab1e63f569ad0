"""moondream2 at its launch: SigLIP and Phi of transformers under the names that moondream's code gives them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import vlmgraph

pytest.importorskip("transformers", minversion="5.0", reason="the reference implementations are those of transformers 5")

import transformers as tf
from safetensors.torch import load_file, save_file

from tests.parity import models as base
from tests.parity.test_parity import TOLERANCE, error


class Launch(nn.Module):
    """vikhyat/moondream at 61e5c3d: features after the tower's norm, one perceptron, in front of Phi."""

    def __init__(self, **words: Any) -> None:
        super().__init__()
        self.tower = tf.SiglipVisionConfig(**base.vision(vision_use_head=False))
        given = {"vocab_size": 97, "hidden_size": 40, "intermediate_size": 68, "num_hidden_layers": 2, "num_attention_heads": 5}
        self.words = {**given, "pad_token_id": 0, "max_position_embeddings": 256, **words}
        self.vision = tf.SiglipVisionModel(self.tower)
        self.fc1, self.fc2 = nn.Linear(24, 160), nn.Linear(160, 40)
        self.text = tf.PhiForCausalLM(tf.PhiConfig(**self.words))
        base.filled(self)
        for parameter in self.text.model.layers.parameters():
            parameter.data *= 3  # else every state leads to the same word

    def embedded(self, pixel_values: Tensor, input_ids: Tensor) -> Tensor:
        features = self.fc2(nn.functional.gelu(self.fc1(self.vision(pixel_values).last_hidden_state)))
        return self.text.get_input_embeddings()(input_ids).masked_scatter((input_ids == 96)[..., None], features)

    def names(self) -> dict[str, Tensor]:
        """The file's keys."""
        found, visual = {}, "vision_encoder.encoder.model.visual."
        for key, value in self.vision.state_dict().items():
            key = key.removeprefix("vision_model.")
            if "self_attn" in key and "out_proj" not in key:
                continue
            for old, new in (
                ("embeddings.patch_embedding", "patch_embed.linear"), ("embeddings.position_embedding.weight", "pos_embed"),
                ("encoder.layers", "blocks"), ("layer_norm", "norm"), ("self_attn.out_proj", "attn.proj"), ("post_layernorm", "norm"),
            ):  # fmt: skip
                key = key.replace(old, new)
            found[visual + key] = value.flatten(1) if key == "patch_embed.linear.weight" else value[None] if key == "pos_embed" else value
        for i, layer in enumerate(self.vision.get_submodule("encoder.layers")):
            q, k, v = layer.self_attn.q_proj, layer.self_attn.k_proj, layer.self_attn.v_proj
            for p in ("weight", "bias"):
                found[f"{visual}blocks.{i}.attn.qkv.{p}"] = torch.cat([getattr(part, p).data for part in (q, k, v)])
        for i, layer in enumerate(self.text.model.layers):
            at = layer.self_attn
            for p in ("weight", "bias"):
                parts = {"ln": layer.input_layernorm, "mixer.out_proj": at.dense, "mlp.fc1": layer.mlp.fc1, "mlp.fc2": layer.mlp.fc2}
                found |= {f"text_model.transformer.h.{i}.{name}.{p}": getattr(part, p).data for name, part in parts.items()}
                qkv = torch.cat([getattr(part, p).data for part in (at.q_proj, at.k_proj, at.v_proj)])
                found[f"text_model.transformer.h.{i}.mixer.Wqkv.{p}"] = qkv
        ends = {"lm_head.ln": self.text.model.final_layernorm, "lm_head.linear": self.text.lm_head}
        found |= {f"text_model.{name}.{p}": getattr(part, p).data for name, part in ends.items() for p in ("weight", "bias")}
        found["text_model.transformer.embd.wte.weight"] = self.text.model.embed_tokens.weight.data
        both = (("fc1", self.fc1), ("fc2", self.fc2))
        return found | {f"vision_encoder.projection.mlp.{n}.{p}": getattr(part, p).data for n, part in both for p in ("weight", "bias")}

    def write(self, folder: Path) -> None:
        config = {"model_type": "moondream1", "architectures": ["Moondream"], "vision_config": self.tower.to_dict(),
                  "phi_config": {"model_type": "phi-msft", **self.words}}  # fmt: skip
        (folder / "config.json").write_text(json.dumps(config))
        save_file({key: value.contiguous().clone() for key, value in self.names().items()}, folder / "model.safetensors")


WORDS: list[dict[str, Any]] = [
    {},
    {"hidden_act": "quick_gelu", "layer_norm_eps": 1e-3, "rope_parameters": {"rope_type": "linear", "rope_theta": 300.0, "factor": 2.5,
                                                                           "partial_rotary_factor": 0.8}},
]  # fmt: skip


@torch.no_grad()
@pytest.mark.parametrize("words", WORDS, ids=["as released", "other options"])
def test_same_outputs_words_and_file(words: dict[str, Any], tmp_path: Path) -> None:
    """Two pictures over two rows, the second padded on the left."""
    reference = Launch(**words).eval()
    reference.write(tmp_path)
    model = vlmgraph.load(tmp_path)
    ids, mask = base.placed(base.tokens(2, 40, 3, 95), 96, (0, 1, 16), (1, 1, 16)), torch.ones(2, 40, dtype=torch.long)
    base.padded_left(ids, mask, 1, 9)
    pixels = base.noise(2, 3, 32, 32)
    x = reference.embedded(pixels, ids)
    places = (mask.cumsum(1) - 1).clamp(min=0)
    wanted = reference.text(inputs_embeds=x, attention_mask=mask, position_ids=places).logits
    got = model(pixel_values=pixels, input_ids=ids, attention_mask=mask)["logits"]
    assert error(got[mask.bool()], wanted[mask.bool()]) < TOLERANCE
    options = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": None}
    theirs = reference.text.generate(inputs_embeds=x, attention_mask=mask, **options)
    ours = model.generate(pixel_values=pixels, input_ids=ids, attention_mask=mask, **options)[:, -8:]
    assert ours.tolist() == theirs[:, -8:].tolist() and theirs.unique().numel() > 2
    model.save(tmp_path / "again", format="transformers")
    first, second = load_file(tmp_path / "model.safetensors"), load_file(tmp_path / "again/model.safetensors")
    assert first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)
    assert (tmp_path / "config.json").read_bytes() == (tmp_path / "again/config.json").read_bytes()
