"""Published formats: a folder the reference wrote opens here, computes the same, and goes back byte by byte."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

import vlmgraph
from vlmgraph.weights.safetensors_io import open_weights

pytest.importorskip("transformers", minversion="5.0", reason="the reference implementations are those of transformers 5")

from tests.parity.models import CASES, blip_2, janus, llava, noise, placed, text, tokens

TOLERANCE = 2e-5


def error(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    assert ours.shape == theirs.shape
    return ((ours.double() - theirs.double()).norm() / theirs.double().norm()).item()


def write(model: Any, folder: Path, **options: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.save_pretrained(folder, **options)


@pytest.mark.parametrize("name", list(CASES))
@torch.no_grad()
def test_same_outputs_and_same_file(name: str, tmp_path: Path) -> None:
    reference, inputs, names = CASES[name]()
    wanted = reference(**inputs)
    write(reference, tmp_path / "a")
    model = vlmgraph.load(tmp_path / "a")
    got = model(**inputs)
    real = inputs.get("attention_mask")
    for output in names:
        ours, theirs = got[output], wanted[output]
        if real is not None and output == "logits" and "decoder_input_ids" not in inputs:
            ours, theirs = ours[real.bool()], theirs[real.bool()]
        assert error(ours, theirs) < TOLERANCE, output
    for shown in inputs.keys() & {"pixel_values", "image_patches"}:  # what ignores the image proves nothing
        other = noise(*inputs[shown].shape, seed=9) * (inputs[shown] != 0)  # what pads stays zero
        moved = reference(**{**inputs, shown: inputs[shown] + other})
        assert error(moved[names[0]], wanted[names[0]]) > 100 * TOLERANCE
    model.save(tmp_path / "b", format="transformers")
    first, second = open_weights(tmp_path / "a"), open_weights(tmp_path / "b")
    assert set(first) == set(second)
    for key, tensor in first.items():
        a, b = tensor.load(), second[key].load()
        assert a.dtype == b.dtype and a.shape == b.shape and a.numpy().tobytes() == b.numpy().tobytes(), key
    assert (tmp_path / "a/config.json").read_bytes() == (tmp_path / "b/config.json").read_bytes()
    again = type(reference).from_pretrained(tmp_path / "b", dtype=torch.float32).eval()
    assert error(again(**inputs)[names[0]], wanted[names[0]]) == 0.0


@torch.no_grad()
def test_shards_and_half_precision(tmp_path: Path) -> None:
    ids = placed(tokens(1, 20, 3, 95), 95, (0, 2, 16))
    reference, inputs, _ = llava(ids, None, 1)
    write(reference.to(torch.bfloat16), tmp_path / "a", max_shard_size="40KB")
    assert len(list((tmp_path / "a").glob("model-*.safetensors"))) > 2
    model = vlmgraph.load(tmp_path / "a")
    assert model.dtype == torch.bfloat16
    model.save(tmp_path / "b", format="transformers")
    first, second = open_weights(tmp_path / "a"), open_weights(tmp_path / "b")
    assert set(first) == set(second) and all(torch.equal(t.load(), second[k].load()) for k, t in first.items())
    wide = vlmgraph.load(tmp_path / "a", dtype="float32")
    again = type(reference).from_pretrained(tmp_path / "a", dtype=torch.float32).eval()  # its buffers in full precision, as ours
    assert error(wide(**inputs)["logits"], again(**inputs)["logits"]) < TOLERANCE


@torch.no_grad()
def test_names_of_other_releases(tmp_path: Path) -> None:
    """The same weights under the prefixes that releases of the format use, each written back as it was."""
    from safetensors.torch import load_file, save_file

    ids = placed(tokens(1, 20, 3, 95), 95, (0, 2, 16))
    reference, inputs, _ = llava(ids, None, 1)
    write(reference, tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    plain = {k.replace("vision_tower.vision_model.", "vision_tower."): v for k, v in stored.items()}
    hub = {k.replace("vision_tower.", "vision_tower.vision_model."): v for k, v in plain.items()}

    def one(keys: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        moved = {}
        for key, value in keys.items():
            name = key.replace("language_model.model.", "model.language_model.").replace("language_model.lm_head", "lm_head")
            moved[name if name != key else f"model.{key}"] = value
        return moved

    wanted = reference(**inputs)["logits"]
    for form in (plain, hub, one(plain), one(hub)):
        save_file(form, tmp_path / "model.safetensors")
        model = vlmgraph.load(tmp_path)
        assert error(model(**inputs)["logits"], wanted) < TOLERANCE
        model.save(tmp_path / "back", format="transformers")
        assert set(load_file(tmp_path / "back/model.safetensors")) == set(form)


@torch.no_grad()
def test_janus_image_side(tmp_path: Path) -> None:
    """Codes of an image, the states that predict them, and pixels from codes."""
    reference = janus(True)
    write(reference, tmp_path)
    model, inner = vlmgraph.load(tmp_path), reference.model
    pixels = noise(2, 3, 16, 16).clamp(-1, 1)
    theirs = inner.vqmodel.encode(pixels)
    codes = getattr(theirs, "image_tokens", theirs[2] if isinstance(theirs, tuple) else None).reshape(2, -1)
    ours = model.programs["encode_codes"](gen_values=pixels)["image_ids"]
    assert torch.equal(ours, codes)
    assert codes.unique().numel() > 1
    wanted = inner.vqmodel.decode(codes)
    assert error(model.vq.decode(codes), wanted.permute(0, 3, 1, 2) if wanted.shape[-1] == 3 else wanted) < TOLERANCE
    embedded = inner.generation_aligner(inner.generation_embeddings(codes))
    assert error(model.gen_adaptor(model.gen_embed(codes)), embedded) < TOLERANCE
    states = noise(2, 5, 40)
    assert error(model.gen_head(states), inner.generation_head(states)) < TOLERANCE


@torch.no_grad()
@pytest.mark.parametrize(
    "name",
    [
        "llava_left_padding_two_images",
        "aria_partial_masks_left_padding",
        "qwen2_vl_images_and_video",
        "blip_2_left_padding",
        "janus_deeper_aligner",
        "idefics_normed",
        "idefics_three_images",
        "idefics2_sizes_left_padding",
        "llava_siglip_left_padding",
        "mllama_three_images_left_padding",
        "idefics3_partial_masks_left_padding",
        "smolvlm_qwen2_left_padding",
        "instructblip_left_padding",
        "instructblip_opt",
        "paligemma_prefix_and_answer",
        "paligemma_2_window",
        "fuyu_two_sizes_left_padding",
        "kosmos_left_padding",
    ],
)
def test_same_tokens_are_generated(name: str, tmp_path: Path) -> None:
    reference, inputs, _ = CASES[name]()
    write(reference, tmp_path)
    model = vlmgraph.load(tmp_path)
    options = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None}
    extra = {"generation_mode": "text"} if name.startswith("janus") else {}
    wanted = reference.generate(**inputs, **options, **extra, pad_token_id=0)[:, -6:]
    assert model.generate(**inputs, **options)[:, -6:].tolist() == wanted.tolist()


def test_unsupported_features_are_refused(tmp_path: Path) -> None:
    """A model whose configuration asks for another graph never loads as something else."""
    from vlmgraph.diagnostics import DiagnosticError

    words = text(rope_parameters={"rope_type": "proportional", "rope_theta": 10000.0, "factor": 2.0})
    reference, _, _ = llava(tokens(1, 5, 3, 95), None, 0, words)
    write(reference, tmp_path)
    with pytest.raises(DiagnosticError, match="VG0604"):
        vlmgraph.load(tmp_path)


def test_damage_is_found(tmp_path: Path) -> None:
    """A layer too many in the files, a layer missing, another vocabulary: each named, none loaded."""
    import json

    from safetensors.torch import load_file, save_file

    from vlmgraph.diagnostics import DiagnosticError

    write(blip_2(), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    for path, value, code, text_ in (
        (("text_config", "num_hidden_layers"), 1, "VG0610", "layers.1"),
        (("text_config", "num_hidden_layers"), 3, "VG0609", "layers.2"),
        (("text_config", "vocab_size"), 98, "VG0611", "embed_tokens"),
        (("num_query_tokens",), 6, "VG0611", "query_tokens"),
    ):
        changed = json.loads(json.dumps(config))
        table = changed
        for name in path[:-1]:
            table = table[name]
        table[path[-1]] = value
        (tmp_path / "config.json").write_text(json.dumps(changed))
        with pytest.raises(DiagnosticError) as error_:
            vlmgraph.load(tmp_path)
        assert code in str(error_.value) and text_ in str(error_.value) and "model.safetensors" in str(error_.value)
    (tmp_path / "config.json").write_text(json.dumps(config))
    stored = load_file(tmp_path / "model.safetensors")
    stored["query_tokens"] = stored["query_tokens"].to(torch.int64)
    save_file(stored, tmp_path / "model.safetensors")
    with pytest.raises(DiagnosticError, match="VG0612"):
        vlmgraph.load(tmp_path)


def test_fresh_models_have_no_published_form(tmp_path: Path) -> None:
    from vlmgraph.diagnostics import DiagnosticError

    model = vlmgraph.compile(vlmgraph.read_spec("llava-1.5", size="tiny"), device="meta")
    with pytest.raises(DiagnosticError, match="VG0615"):
        model.save(tmp_path, format="transformers")
