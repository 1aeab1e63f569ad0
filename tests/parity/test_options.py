"""One key of a configuration changed at a time: the same numbers as transformers, or a diagnostic that names the key; nothing else."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import vlmgraph
from vlmgraph.diagnostics import DiagnosticError

pytest.importorskip("transformers", minversion="5.0", reason="the reference implementations are those of transformers 5")

from tests.parity.models import CASES, filled

MODELS = (
    "clip_gelu", "llava_full_strategy", "llava_siglip_left_padding", "llava_qwen2", "llava_next_three_sizes_left_padding", "siglip_masked",
    "metaclip_2_small_end_token", "pixtral_one_size_tied", "internvl_final_norm", "paligemma_prompt_alone", "paligemma_2_window",
    "qwen2_vl_images_and_video", "deepseek_vl_with_pooling_head", "fuyu_tied_quarter_turned", "idefics_normed", "instructblip_left_padding",
    "blip_2_left_padding", "visual_bert_text_only", "minimax_tied_gelu", "qwen2_5_vl_text_only_tied", "janus_untied_text_only",
)  # fmt: skip
QUICK = [
    ("clip_gelu", "vision_config.hidden_act", "relu2"), ("clip_gelu", "vision_config.hidden_act", "mish"),
    ("llava_qwen2", "text_config.hidden_act", "gelu_new"), ("llava_qwen2", "text_config.rms_norm_eps", 0.1),
    ("llava_full_strategy", "text_config.mlp_bias", True), ("llava_full_strategy", "text_config.attention_bias", True),
    ("llava_full_strategy", "text_config.head_dim", 12), ("llava_full_strategy", "multimodal_projector_bias", False),
    ("llava_full_strategy", "projector_hidden_act", "mish"), ("qwen2_vl_images_and_video", "vision_config.hidden_act", "relu"),
    ("idefics_normed", "vision_config.hidden_act", "relu"), ("instructblip_left_padding", "vision_config.hidden_act", "relu"),
    ("internvl_final_norm", "vision_config.norm_type", "rms_norm"),
]  # fmt: skip
INPUTS = (
    "image_size",
    "patch_size",
    "temporal_patch_size",
    "in_channels",
    "in_chans",
    "num_channels",
    "spatial_merge_size",
    "num_query_tokens",
)
"""Keys that go with other inputs; tests of their own change them."""


def alternatives(key: str, value: Any) -> list[Any]:
    """Other values that a configuration class may take for a key."""
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, str):
        kinds = {"norm_type": ["rms_norm"], "vision_feature_select_strategy": ["full", "default"], "alpha_type": ["vector"]}
        return ["relu", "gelu", "mish"] if "act" in key else kinds.get(key, [])
    if isinstance(value, float):
        return [value * 50 if "eps" in key else value * 2 + 0.5]
    if not isinstance(value, int) or key.endswith(("_token_id", "_token_index")):
        return []
    if key in ("depth", "num_hidden_layers"):
        return [value + 1]
    if "heads" in key:
        return [1 if value != 1 else 5]
    return [value * 2 if "hidden_size" in key or key in ("head_dim", "embed_dim") else value + 4]


def entries(table: dict[str, Any], known: set[str], prefix: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for key, value in table.items():
        if isinstance(value, dict) and key not in ("id2label", "label2id", "rope_parameters"):
            yield from entries(value, known, (*prefix, key))
        elif key not in known and key not in INPUTS:
            yield (*prefix, key), value


def outcome(name: str, path: tuple[str, ...], value: Any, folder: Path) -> str:
    """What became of one changed key: "computed", "refused", "invalid" where the class itself refuses it, or what is wrong."""
    model, inputs, names = CASES[name]()
    config = copy.deepcopy(model.config.to_dict())
    table = config
    for part in path[:-1]:
        table = table[part]
    table[path[-1]] = value
    try:
        reference = filled(type(model)(type(model.config).from_dict(config)))
        wanted = reference(**inputs)
    except Exception:  # of any kind: the class may fail where it is made or where it is called
        return "invalid"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        reference.save_pretrained(folder)
    try:
        got = vlmgraph.load(folder)(**inputs)
    except DiagnosticError as error:
        said = [str(error), *(note for found in error.diagnostics for note in found.notes)]
        return "refused" if any(path[-1] in text for text in said) else f"refused without its name: {error}"
    real = inputs.get("attention_mask")
    for output in names:
        ours, theirs = got[output], wanted[output]
        if real is not None and output == "logits":
            ours, theirs = ours[real.bool()], theirs[real.bool()]
        if ours.shape != theirs.shape or (ours - theirs).norm() > 2e-5 * theirs.norm():
            return f"{output} differs"
    return "computed"


@torch.no_grad()
@pytest.mark.parametrize(("name", "key", "value"), QUICK)
def test_a_changed_key(name: str, key: str, value: Any, tmp_path: Path) -> None:
    refused = value == "mish" or key == "vision_config.norm_type"
    assert outcome(name, tuple(key.split(".")), value, tmp_path) == ("refused" if refused else "computed")


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize("name", MODELS)
def test_every_key(name: str, tmp_path: Path) -> None:
    from transformers import PreTrainedConfig

    known = set(PreTrainedConfig().to_dict()) - {"tie_word_embeddings"} | {"model_type", "transformers_version"}
    found: dict[str, str] = {}
    for path, before in entries(CASES[name]()[0].config.to_dict(), known):
        for value in alternatives(path[-1], before):
            found[f"{'.'.join(path)} = {value!r}"] = outcome(name, path, value, tmp_path / str(len(found)))
    assert set(found.values()) <= {"computed", "refused", "invalid"}, found
    assert list(found.values()).count("computed") > 5
