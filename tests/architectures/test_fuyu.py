"""Fuyu-8B (Adept 2023): no image encoder; raw patches through one linear layer into Persimmon, a newline behind every row of them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from torch import Tensor

import vlmgraph
from tests.architectures.common import (
    changed,
    close,
    fresh,
    graph,
    lively,
    moved,
    noise,
    processor,
    published,
    random_ids,
    trains,
)
from vlmgraph.diagnostics import DiagnosticError
from vlmgraph.processor import Processor
from vlmgraph.processor.config import Patches
from vlmgraph.processor.model import model_processor
from vlmgraph.processor.patches import patch_grid, raw_patches, shrunk
from vlmgraph.report import report

PATCH, NEWLINE, ANSWER = 300, 301, 302  # of the tiny size


@pytest.fixture(scope="module")
def model():
    return lively("fuyu-8b")


@pytest.fixture(scope="module")
def patches() -> Tensor:
    return noise(1, 6, 300)


@pytest.fixture(scope="module")
def ids() -> Tensor:
    """Two rows of three patches, then words."""
    return torch.cat([torch.tensor([[PATCH] * 3 + [NEWLINE]] * 2).reshape(1, 8), torch.tensor([[1]]), random_ids(1, 5)], 1)


def logits(model, ids: Tensor, patches: Tensor | None = None) -> Tensor:
    with torch.no_grad():
        return model(input_ids=ids, **({} if patches is None else {"image_patches": patches}))["logits"]


# ---- published numbers


def test_published_parameters() -> None:
    counts = published("fuyu-8b")
    assert (counts["total"], counts["patch"], counts["head"]) == (9_408_238_592, 2700 * 4096 + 4096, 262_144 * 4096)
    tf = pytest.importorskip("transformers", minversion="5.0")
    with torch.device("meta"):
        reference = tf.FuyuForCausalLM(tf.FuyuConfig())
    assert sum(p.numel() for p in reference.parameters()) == counts["total"]


@pytest.mark.parametrize(
    ("height", "width", "tokens"),
    [(300, 300, 110), (480, 640, 368), (1080, 1920, 2340), (448, 448, 240), (512, 512, 342), (768, 768, 702), (1024, 1024, 1260)],
)
def test_published_tokens(height: int, width: int, tokens: int) -> None:
    """rows * (columns + 1): the newline behind the last row counts too."""
    rows, columns = patch_grid(height, width, Patches())
    assert rows * (columns + 1) == tokens


def test_the_report_counts_newlines() -> None:
    rows = report(graph("fuyu-8b"), processor=vlmgraph.read_spec("fuyu-8b").data["processor"]).expected
    assert all(row.actual == row.expected for row in rows)
    assert {row.what: row.actual for row in rows}["visual_tokens 2160x3840"] == 2340
    one = report(graph("fuyu-8b"), images=[(640, 480)], processor=vlmgraph.read_spec("fuyu-8b").data["processor"])
    assert (one.dims["P"], one.dims["T"]) == (352, 368 + 64), "a prompt of 64 tokens behind the picture and its newlines"


# ---- pictures


def test_a_picture_is_made_smaller_and_never_larger() -> None:
    config = Patches()
    assert shrunk(2160, 3840, config) == (1080, 1920) and shrunk(40, 50, config) == (40, 50)
    assert shrunk(2000, 500, config) == (1080, 270) and shrunk(1080, 1921, config) == (1079, 1920)
    assert shrunk(40, 50, Patches(size=448)) == (448, 448), "the mode of one size for all keeps no aspect"


def test_values_of_a_patch_run_over_row_column_colour() -> None:
    """A pixel (row, column, colour) of a patch is its value (p * row + column) * 3 + colour; what fills up is nearly black."""
    pixels = np.random.default_rng(0).integers(0, 256, (25, 33, 3), dtype=np.uint8)
    config = Patches(patch=10, max_size=(60, 90), stats=0.5)
    values, grid = raw_patches(PIL.Image.fromarray(pixels), config)
    assert grid == (1, 3, 4) and values.shape == (12, 300)
    whole = np.full((30, 40, 3), 1, dtype=np.uint8)
    whole[:25, :33] = pixels
    for patch, row, column, colour in ((0, 3, 4, 1), (5, 9, 0, 2), (11, 9, 9, 0), (7, 0, 2, 1)):
        pixel = whole[patch // 4 * 10 + row, patch % 4 * 10 + column, colour]
        assert values[patch, (10 * row + column) * 3 + colour] == pytest.approx(pixel / 255 * 2 - 1, abs=1e-6)
    assert values[11, -1] == pytest.approx(2 / 255 - 1, abs=1e-6)


@pytest.mark.parametrize("size", [(640, 427), (95, 61), (2500, 700)])
def test_pictures_as_the_published_processor_makes_them(size: tuple[int, int]) -> None:
    pytest.importorskip("transformers", minversion="5.0")
    from transformers.image_utils import SizeDict
    from transformers.models.fuyu.image_processing_pil_fuyu import FuyuImageProcessorPil

    noise_ = np.random.default_rng(1).integers(0, 256, (7, 9, 3), dtype=np.uint8)
    picture = PIL.Image.fromarray(noise_).resize(size, PIL.Image.Resampling.BICUBIC)
    theirs = FuyuImageProcessorPil()
    made = np.asarray(theirs.preprocess(picture)["images"][0][0])
    ours, (_, rows, columns) = raw_patches(picture, Patches(resample="bilinear", stats=0.5))
    used = made[:, : rows * 30, : columns * 30]
    cut = theirs.patchify_image(used, SizeDict(height=30, width=30))
    assert ours.shape == cut.shape
    assert np.abs(ours - cut).max() <= 2 / 255 * 1.001


def test_the_text_around_a_picture() -> None:
    """Rows with their newlines, <s>, the words, the token that begins the answer; padding on the left; nothing of the picture trains."""
    made = processor("fuyu-8b")
    pictures = [[PIL.Image.new("RGB", (30, 20))], [PIL.Image.new("RGB", (12, 10))]]
    out = made(text=["hi<0x04>"] * 2, images=pictures, train=True)
    first, second = out["input_ids"]
    assert first[:9].tolist() == [PATCH, PATCH, PATCH, NEWLINE] * 2 + [1] and first[-1] == ANSWER
    assert second[out["attention_mask"][1]][:4].tolist() == [PATCH, PATCH, NEWLINE, 1] and not out["attention_mask"][1, :5].any()
    assert out["image_patches"].shape == (1, 8, 300) and out["image_grid"].tolist() == [[1, 2, 3], [1, 1, 2]]
    assert (out["labels"][0, :9] == -100).all() and (out["labels"][0, 9:] != -100).all()
    assert made.ask("hi", images=pictures[0])["input_ids"][0].tolist() == first.tolist()
    with torch.no_grad():
        lively("fuyu-8b")(**{k: torch.from_numpy(v) for k, v in out.items()})


def test_rows_need_a_grid() -> None:
    spec = {"processor": {"image_patches": {"also": {"remove": True}}}}
    found = vlmgraph.check(vlmgraph.read_spec("fuyu-8b", size="tiny", overrides=spec))
    assert any("gives no grid whose rows could end" in d.message for d in found)
    wrong = vlmgraph.check(vlmgraph.read_spec("fuyu-8b", overrides={"processor.image_patches.patch": 28}))
    assert {d.code for d in wrong} and all("patch" in d.message for d in wrong)


# ---- the sequence


def test_patches_have_no_place_of_their_own(model, patches: Tensor) -> None:
    """One linear layer: a vector depends on its own pixels alone, linearly."""
    with torch.no_grad():
        before = model.programs["encode_image"](image_patches=patches)["patch"]
        close(before, patches @ model.patch.proj.weight.T + model.patch.proj.bias)


def test_swapping_two_patches_matters(model, patches: Tensor, ids: Tensor) -> None:
    assert not torch.allclose(logits(model, ids, patches)[:, -1], logits(model, ids, patches[:, [1, 0, 2, 3, 4, 5]])[:, -1], atol=1e-3)


def test_causal_over_the_picture_too(model, patches: Tensor, ids: Tensor) -> None:
    other = patches.clone()
    other[0, 4] += 1.0  # the middle of the second row: place 5
    assert moved(logits(model, ids, patches), logits(model, ids, other)) == [False] * 5 + [True] * 9


def test_a_row_of_patches_is_a_sequence_of_soft_words(model, patches: Tensor, ids: Tensor) -> None:
    """Vectors given as words, without a picture: the same logits, so nothing else knows of the picture."""
    with torch.no_grad():
        vectors = model.programs["encode_image"](image_patches=patches)["patch"]
        words = model.embed(ids)
        words[ids == PATCH] = vectors[0]
        soft = model.head(model.llm(words))
    assert torch.equal(logits(model, ids, patches), soft)


def test_text_never_touches_the_patch_layer(model) -> None:
    words = random_ids(2, 7)
    before = logits(model, words)
    with changed(model, "patch", by=5.0):
        assert torch.equal(logits(model, words), before)


# ---- Persimmon


def test_queries_and_keys_are_normalised_by_head_before_they_turn(model, ids: Tensor, patches: Tensor) -> None:
    """Scaling q or k of a head by a positive factor changes nothing but by epsilon; scaling v does."""
    before = logits(model, ids, patches)
    attention = model.llm.layers[0].attention
    assert attention.q_norm.weight.shape == attention.k_norm.bias.shape == (12,)
    for part, same in (("q", True), ("k", True), ("v", False)):
        linear = getattr(attention, part)
        with torch.no_grad():
            for tensor in (linear.weight, linear.bias):
                tensor[12:24] *= 4.0
            after = logits(model, ids, patches)
            for tensor in (linear.weight, linear.bias):
                tensor[12:24] /= 4.0
        assert torch.allclose(after, before, atol=2e-3, rtol=0) is same


def test_half_of_a_head_turns() -> None:
    llm = graph("fuyu-8b").components["llm"]
    assert llm.code.dim == 32 and llm.code.theta == 25_000 and llm.head == 64 and llm.activation == "squared_relu"
    model = fresh("fuyu-8b")
    cos, _ = model.llm.rope(torch.arange(4)[None])
    assert cos.shape[-1] == 6, "of 12"


def test_training(ids: Tensor, patches: Tensor) -> None:
    model = fresh("fuyu-8b")
    labels = ids.masked_fill(ids >= PATCH, -100)
    names = trains(model, "train", {"image_patches": patches, "input_ids": ids, "labels": labels})
    assert names == {n for n, _ in model.named_parameters()}


# ---- published files


def test_flat_configuration_of_the_hub(tmp_path: Path) -> None:
    """adept/fuyu-8b states the decoder at the top; beside a text_config those keys are left over from it."""
    from vlmgraph.weights.import_config import import_config

    flat = {"model_type": "fuyu", "hidden_size": 4096, "num_hidden_layers": 36, "num_attention_heads": 64, "intermediate_size": 16384,
            "vocab_size": 262144, "hidden_act": "relu2", "layer_norm_eps": 1e-5, "max_position_embeddings": 16384, "qk_layernorm": True,
            "rope_theta": 25000.0, "rope_scaling": None, "patch_size": 30, "num_channels": 3, "image_size": 300,
            "tie_word_embeddings": False}  # fmt: skip

    def read(config: dict[str, object]) -> vlmgraph.Spec:
        (tmp_path / "config.json").write_text(json.dumps(config))
        return vlmgraph.read_spec(import_config(tmp_path / "config.json").spec)

    made = vlmgraph.elaborate(read(flat))
    assert made.components["llm"].code.theta == 25_000 and made.tokens["|NEWLINE|"] == 71_019
    assert made.components == graph("fuyu-8b").components
    small = {**flat, "text_config": {"hidden_size": 48, "num_attention_heads": 4, "num_hidden_layers": 2, "vocab_size": 71_012}}
    llm = vlmgraph.elaborate(read(small)).components["llm"]
    assert (llm.width, llm.layers, llm.vocab) == (48, 2, 71_012)
    for key, value in (
        ("qk_layernorm", False),
        ("num_channels", 1),
        ("hidden_act", "mish"),
        ("rope_scaling", {"type": "ntk", "factor": 2.0}),
    ):
        with pytest.raises(DiagnosticError, match=key):
            read({**flat, key: value})


def test_configuration_of_the_published_processor(tmp_path: Path) -> None:
    """preprocessor_config.json goes over the spec's table; what cannot be honoured is named."""
    config = {"do_normalize": True, "do_pad": True, "do_rescale": True, "do_resize": True, "image_mean": 0.5, "image_std": 0.5,
              "image_processor_type": "FuyuImageProcessor", "padding_mode": "constant", "padding_value": 3.0, "resample": 2,
              "patch_size": {"height": 10, "width": 10}, "rescale_factor": 1 / 255, "size": {"height": 40, "width": 45}}  # fmt: skip
    spec = vlmgraph.read_spec("fuyu-8b", size="tiny")

    def made(**changes: object) -> Processor:
        (tmp_path / "preprocessor_config.json").write_text(json.dumps({**config, **changes}))
        return model_processor(spec, vlmgraph.elaborate(spec), tmp_path)

    out = made()(images=[PIL.Image.new("RGB", (90, 20), (255, 0, 0))])
    assert out["image_grid"].tolist() == [[1, 1, 5]], "45 x 10"
    assert out["image_patches"][0, 4, -1] == pytest.approx(6 / 255 - 1, abs=1e-6) and out["image_patches"][0, 0, 0] == pytest.approx(1)
    for key, value in (("padding_mode", "edge"), ("do_pad", False), ("padding_value", 0.5), ("size", {"longest_edge": 9}), ("tiles", 4)):
        with pytest.raises(DiagnosticError, match=key):
            made(**{key: value})
