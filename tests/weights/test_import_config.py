"""config.json → spec: nothing is guessed and nothing is dropped silently."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from vlmgraph.diagnostics import DiagnosticError
from vlmgraph.weights.import_config import config_tables, families, fitting, import_config, named
from vlmgraph.weights.layouts import layout_names
from vlmgraph.weights.tables import read_tables

LLAVA: dict[str, Any] = {
    "model_type": "llava", "image_token_index": 32000, "ignore_index": -100, "projector_hidden_act": "gelu", "torch_dtype": "float16",
    "vision_feature_layer": -2, "vision_feature_select_strategy": "default",
    "text_config": {"_name_or_path": "x", "max_position_embeddings": 4096, "model_type": "llama", "rms_norm_eps": 1e-05,
        "vocab_size": 32064},
    "vision_config": {"hidden_size": 1024, "image_size": 336, "intermediate_size": 4096, "model_type": "clip_vision_model",
        "num_attention_heads": 16,
                      "num_hidden_layers": 24, "patch_size": 14, "projection_dim": 768, "vocab_size": 32000},
}  # fmt: skip


def read(tmp_path: Path, config: Any) -> Any:
    path = tmp_path / "config.json"
    path.write_text(config if isinstance(config, str) else json.dumps(config, indent=2))
    return import_config(path)


def refused(tmp_path: Path, config: Any) -> list[Any]:
    with pytest.raises(DiagnosticError) as error:
        read(tmp_path, config)
    return list(error.value.diagnostics)


def changed(path: str, value: Any) -> dict[str, Any]:
    config = json.loads(json.dumps(LLAVA))
    *parents, last = path.split(".")
    table = config
    for name in parents:
        table = table.setdefault(name, {})
    table[last] = value
    return config


def test_published_file_with_partial_parts(tmp_path: Path) -> None:
    """The file of llava-1.5-7b leaves most of the language model to its class."""
    spec = read(tmp_path, LLAVA).spec
    llm, vision = spec["components"]["llm"], spec["components"]["vision"]
    assert (llm["layers"], llm["width"], llm["mlp"], llm["heads"], llm["kv_heads"], llm["vocab"]) == (32, 4096, 11008, 32, 32, 32064)
    assert (llm["norm_eps"], llm["max_positions"], llm["position"]["theta"]) == (1e-5, 4096, 10000.0)
    assert (vision["layers"], vision["width"], vision["patch"], vision["act"]) == (24, 1024, 14, "quick_gelu")
    assert spec["extends"] == "llava-1.5" and spec["tokens"]["<image>"] == 32000
    assert spec["inputs"]["pixel_values"] == "image[N, 3, 336, 336]?"


@pytest.mark.parametrize("strategy, edge", [("default", "vision.hidden[-3][1:]"), ("full", "vision.hidden[-3]")])
def test_feature_layer_and_strategy(tmp_path: Path, strategy: str, edge: str) -> None:
    config = changed("vision_feature_select_strategy", strategy) | {"vision_feature_layer": -3}
    assert read(tmp_path, config).spec["graph"]["edges"] == [f"pixel_values -> {edge} -> projector -> splice.vision"]


@pytest.mark.parametrize(
    "path, value, code",
    [
        ("vision_feature_select_strategy", "pooled", "VG0604"),
        ("vision_feature_layer", [-2, "5"], "VG0604"),
        ("vision_feature_layer", [], "VG0604"),
        ("text_config.hidden_act", "laplace", "VG0604"),
        ("text_config.attention_bias", "qkv", "VG0604"),
        ("text_config.rope_scaling", {"type": "su", "factor": 2.0}, "VG0604"),
        ("text_config.model_type", "mamba", "VG0603"),
        ("vision_config.num_channels", 4, "VG0604"),
        ("vision_config.hidden_act", "mish", "VG0604"),
        ("text_config", "llama", "VG0604"),
        ("secret_option", 3, "VG0605"),
        ("text_config.num_hiden_layers", 3, "VG0605"),
        ("text_config.hidden_size", "many", "VG0604"),
        ("text_config.num_hidden_layers", 2.5, "VG0604"),
        ("vision_config.image_size", "336", "VG0604"),
        ("image_token_index", True, "VG0604"),
        ("model_type", "llava_max", "VG0603"),
        ("model_type", ["llava"], "VG0603"),
        ("model_type", None, "VG0603"),
    ],
)
def test_what_is_refused_is_named(tmp_path: Path, path: str, value: Any, code: str) -> None:
    found = refused(tmp_path, changed(path, value))
    assert code in {d.code for d in found}, found
    first = next(d for d in found if d.code == code)
    key = path.rpartition(".")[2]
    assert key in first.message or key == "model_type"
    assert first.primary is not None
    line = (tmp_path / "config.json").read_text().splitlines()[first.primary.span.line - 1]
    assert f'"{key}"' in line or '"factor"' in line or '"type"' in line


def test_misspelt_key_has_a_suggestion(tmp_path: Path) -> None:
    (found,) = refused(tmp_path, changed("text_config.num_hiden_layers", 3))
    assert found.fix == "did you mean 'num_hidden_layers'?"


def test_all_findings_at_once(tmp_path: Path) -> None:
    found = refused(tmp_path, changed("text_config.what", 1) | {"why": 2, "vision_feature_select_strategy": "x"})
    assert {d.code for d in found} == {"VG0604", "VG0605"} and len(found) == 3


@pytest.mark.parametrize("text", ["", "{", "[]", '"llava"', "nul", '{"model_type": "llava",}', "[" * 100_000, "\x00\x01"])
def test_not_a_configuration(tmp_path: Path, text: str) -> None:
    (found,) = refused(tmp_path, text)
    assert found.code == "VG0602" and "config.json" in found.message


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(DiagnosticError, match="VG0602"):
        import_config(tmp_path / "config.json")


def test_older_flat_file(tmp_path: Path) -> None:
    """Qwen2-VL was published with its text keys at the top and other names."""
    config = {
        "model_type": "qwen2_vl", "hidden_size": 3584, "intermediate_size": 18944, "num_attention_heads": 28, "num_hidden_layers": 28,
        "num_key_value_heads": 4,
        "vocab_size": 152064, "rms_norm_eps": 1e-06, "rope_theta": 1000000.0, "rope_scaling": {"type": "mrope", "mrope_section": [16, 24,
        24]}, "hidden_act": "silu",
        "max_position_embeddings": 32768, "max_window_layers": 28, "sliding_window": 32768, "use_sliding_window": False,
        "tie_word_embeddings": True,
        "image_token_id": 151655, "video_token_id": 151656, "vision_start_token_id": 151652, "vision_end_token_id": 151653,
        "vision_token_id": 151654,
        "bos_token_id": 151643, "eos_token_id": 151645, "attention_dropout": 0.0, "initializer_range": 0.02, "use_cache": True,
        "torch_dtype": "bfloat16",
        "vision_config": {"depth": 32, "embed_dim": 1280, "mlp_ratio": 4, "num_heads": 16, "in_chans": 3, "hidden_size": 3584,
            "patch_size": 14,
                          "spatial_merge_size": 2, "spatial_patch_size": 14, "temporal_patch_size": 2},
    }  # fmt: skip
    spec = read(tmp_path, config).spec
    llm = spec["components"]["llm"]
    assert (llm["width"], llm["layers"], llm["kv_heads"], llm["norm_eps"], llm["tie"]) == (3584, 28, 4, 1e-6, True)
    assert llm["position"] == {"type": "position.mrope", "theta": 1000000.0, "sections": [16, 24, 24]}
    assert spec["blocks"]["tower"]["components"]["vision"]["mlp"]["hidden"] == 5120


def test_hostile_values_stay_values(tmp_path: Path) -> None:
    """A text where a number belongs is refused, so that none gets into a type or an edge."""
    for path in ("vision_config.image_size", "vision_feature_layer", "vision_config.patch_size", "image_token_index"):
        found = refused(tmp_path, changed(path, "1]; import os; x[0"))
        assert {d.code for d in found} == {"VG0604"}, path


@pytest.mark.parametrize("family", [pytest.param(t, id=t["layout"]) for tables in families().values() for t in tables])
def test_family_tables_are_whole(family: dict[str, Any]) -> None:
    assert family["layout"] in layout_names()
    for part in family.get("parts", {}).values():
        assert set(part["model_types"]) <= set(config_tables())
    check_table(family)


@pytest.mark.parametrize("name", sorted(n for n in config_tables() if n))
def test_config_tables_are_whole(name: str) -> None:
    check_table(config_tables()[name])


def check_table(table: dict[str, Any]) -> None:
    """Every key that has a default is used somewhere: mapped, filled in, or held to values."""
    known = set(table.get("defaults", {}))
    text = json.dumps([table.get("set", {}), table.get("when", []), table.get("below", {})])
    for section in ("fields", "values", "only", "otherwise"):
        assert set(table.get(section, {})) <= known, section
    assert not known & set(table.get("ignore", {}))
    for key in known:
        used = key in table.get("fields", {}) or key in table.get("only", {}) or key in text or key in by_families(table["model_type"])
        assert used or key in UNUSED.get(table["model_type"], ()), key


def by_families(kind: str) -> set[str]:
    """Keys of a configuration class that families map, each in its own way."""
    parts = [part for tables in families().values() for table in tables for part in table.get("parts", {}).values()]
    return {key for part in parts if kind in part["model_types"] for key in part.get("fields", {})}


UNUSED: dict[str, tuple[str, ...]] = {
    # widths that the edges give, or that other parts repeat
    "clip_vision_model": ("projection_dim",), "clip_text_model": ("projection_dim",), "opt": ("word_embed_proj_dim",),
    "blip_2_qformer": ("encoder_hidden_size",), "qwen2_vl_vision": ("hidden_size",),
    "idefics_perciever": ("use_resampler",),  # the key of the whole model decides
    "sam_vision_model": ("output_channels",),  # the neck's, which stands beside the tower
    "janus_vision_model": ("projection_dim", "num_image_tokens"), "janus_vqgan": ("image_token_embed_dim",),
    "mllama_vision_model": ("intermediate_layers_indices",),  # an edge of the whole model has them
}  # fmt: skip

CLASSES = {
    "clip": "CLIPConfig", "clip_vision_model": "CLIPVisionConfig", "clip_text_model": "CLIPTextConfig", "llava": "LlavaConfig",
    "llama": "LlamaConfig", "idefics3": "Idefics3Config", "smolvlm": "SmolVLMConfig",
    "opt": "OPTConfig", "blip-2": "Blip2Config", "blip_2_vision_model": "Blip2VisionConfig", "blip_2_qformer": "Blip2QFormerConfig",
    "idefics": "IdeficsConfig", "qwen2_vl": "Qwen2VLConfig", "qwen2_5_vl": "Qwen2_5_VLConfig", "deepseek_vl": "DeepseekVLConfig",
    "deepseek_vl_hybrid": "DeepseekVLHybridConfig", "sam_vision_model": "SamVisionConfig", "cohere": "CohereConfig", "phi": "PhiConfig",
    "janus": "JanusConfig", "janus_vision_model": "JanusVisionConfig",
    "janus_vqgan": "JanusVQVAEConfig", "t5": "T5Config",
    "instructblip": "InstructBlipConfig", "instructblip_qformer": "InstructBlipQFormerConfig",
    "florence2": "Florence2Config", "florence_vision": "Florence2VisionConfig", "bart": "BartConfig",
    "blip": "BlipConfig", "blip_vision_model": "BlipVisionConfig", "blip_text_model": "BlipTextConfig",
    "aimv2": "Aimv2Config", "aimv2_text_model": "Aimv2TextConfig", "kosmos-2": "Kosmos2Config",
    "siglip": "SiglipConfig", "siglip_vision_model": "SiglipVisionConfig", "siglip_text_model": "SiglipTextConfig",
    "mllama": "MllamaConfig", "mllama_vision_model": "MllamaVisionConfig", "mllama_text_model": "MllamaTextConfig",
    "metaclip_2": "MetaClip2Config", "metaclip_2_vision_model": "MetaClip2VisionConfig", "metaclip_2_text_model": "MetaClip2TextConfig",
}  # fmt: skip
PARTS = {
    "idefics_vision": ("IdeficsConfig", "vision_config"), "idefics_perciever": ("IdeficsConfig", "perceiver_config"),
    "aimv2_vision_model": ("Aimv2Config", "vision_config"), "kosmos_2_vision_model": ("Kosmos2Config", "vision_config"),
    "kosmos_2_text_model": ("Kosmos2Config", "text_config"),
    "qwen2_vl_text": ("Qwen2VLConfig", "text_config"), "qwen2_vl_vision": ("Qwen2VLConfig", "vision_config"),
    "qwen2_5_vl_vision": ("Qwen2_5_VLConfig", "vision_config"), "idefics3_vision": ("Idefics3Config", "vision_config"),
}  # fmt: skip
# there where a rule needs them
SCALING = set(read_tables("shared")["rope"]["defaults"]) - {"rope_parameters.rope_theta", "rope_parameters.rope_type"}
OWN_DEFAULTS = {
    "blip-2": {"image_token_index"},  # null in the class; the published files have it
    "blip_2_vision_model": {"num_channels"},
    "llava": {"tie_word_embeddings"},  # where it is absent the text part decides
    "llama": {"num_key_value_heads", "head_dim", "rope_parameters.partial_rotary_factor", *SCALING},  # the class works these out
    "opt": {"word_embed_proj_dim"},
    "instructblip": {"image_token_index"},
    "siglip_text_model": {"projection_size"},
    # the class's are those of the first T5, whose blocks are others
    "t5": {"num_decoder_layers", "feed_forward_proj", "dense_act_fn", "is_gated_act", "scale_decoder_outputs"},
    "qwen2_vl_text": {"rope_parameters.mrope_section", "layer_types", *SCALING},
    "sam_vision_model": {"mlp_dim"},  # the class works it out
    "mllama": {"transformers_version"},  # each writes its own
    "mllama_text_model": {"rope_parameters.partial_rotary_factor", *SCALING},
    "cohere": {"num_key_value_heads", *SCALING},
    "phi": {"num_key_value_heads", *SCALING},
}


@pytest.mark.parametrize("name", [*CLASSES, *PARTS])
def test_defaults_are_those_of_the_classes(name: str) -> None:
    transformers = pytest.importorskip("transformers", minversion="5.0", reason="the defaults are those of transformers 5")
    if name in CLASSES:
        table, found = (
            {**config_tables(), **{n: tables[0] for n, tables in families().items()}}[name],
            getattr(transformers, CLASSES[name])().to_dict(),
        )
    else:
        owner, part = PARTS[name]
        table, found = config_tables()[name], getattr(transformers, owner)().to_dict()[part]
    flat = dict(found)
    for key, value in found.items():
        if isinstance(value, dict):
            flat |= {f"{key}.{k}": v for k, v in value.items()}
    for key, value in table["defaults"].items():
        if key in OWN_DEFAULTS.get(name, ()):
            continue
        assert key in flat, f"{name} has no {key}"
        assert (flat[key] if flat[key] is not None else "") == value, key
    # and the class has no key that the table would not know
    known = {*table["defaults"], *table.get("ignore", {}), *table.get("aliases", {}), *config_tables()[""]["ignore"]}
    missing = [k for k, v in found.items() if k not in known and not isinstance(v, dict)]
    assert not missing


def test_classes_of_one_model_type_are_told_apart() -> None:
    """By the class that wrote the file; a file that names none is read by the first table."""
    tables = [{"architectures": ["A", "B"], "layout": "1"}, {"architectures": ["C"], "layout": "2"}]
    for written, layout in ((["C"], "2"), (["B"], "1"), (["Other", "C"], "2"), (None, "1"), ([], "1")):
        assert fitting(tables, {"architectures": written})["layout"] == layout
    assert not any(named({"architectures": ["D"]}, table) for table in tables)
