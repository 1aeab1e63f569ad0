"""DeepSeek-VL 7B (arXiv 2403.05525): SigLIP and SAM, joined token by token in front of DeepSeek-LLM."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import vlmgraph
from tests.architectures.by_hand import gelu, linear, state
from tests.architectures.common import (
    changed,
    close,
    fresh,
    graph,
    lively,
    measured,
    meta,
    noise,
    placed,
    processor,
    published,
    random_ids,
    spec,
    trains,
)  # fmt: skip
from vlmgraph.api import elaborate
from vlmgraph.diagnostics import DiagnosticError
from vlmgraph.lower.model import CompiledModel
from vlmgraph.processor.model import model_processor
from vlmgraph.report.measure import report
from vlmgraph.weights.import_config import import_config

IMAGE = 302
VISION = {"model_type": "siglip_vision_model", "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24,
          "num_attention_heads": 16, "image_size": 384, "patch_size": 16, "vision_use_head": False}  # fmt: skip
SAM = {"model_type": "sam_vision_model", "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12}
TEXT = {"model_type": "llama", "vocab_size": 102400, "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 30,
        "num_attention_heads": 32, "max_position_embeddings": 16384, "rms_norm_eps": 1e-6}  # fmt: skip


@pytest.fixture(scope="module")
def model() -> CompiledModel:
    return lively("deepseek-vl")


def pictures(count: int = 1) -> dict[str, Tensor]:
    return {"pixel_values": noise(count, 3, 42, 42), "high_res_pixel_values": noise(count, 3, 60, 60, seed=3)}


def multimodal() -> dict[str, Tensor]:
    return {**pictures(), "input_ids": placed(random_ids(1, 16), IMAGE, (0, 3, 9))}


def encoded(model: CompiledModel, **inputs: Tensor) -> Tensor:
    with torch.no_grad():
        return model.programs["encode_image"](**inputs)["aligner"]


def test_parameters(tmp_path: Path) -> None:
    """The spec's, those of a configuration that is read, and the reference's."""
    counts = published("deepseek-vl")
    assert counts == {
        "vision": 303_688_704, "sam": 89_670_912 - 787_456, "neck": 787_456, "neck_hd": 787_456, "down": 5_898_240, "mix": 1,
        "high": 2_099_200, "low": 2_099_200, "aligner": 20_979_712 - 2 * 2_099_200, "embed": 419_430_400,
        "llm": 6_490_935_296 - 419_430_400, "head": 419_430_400, "total": 7_331_390_721,
    }  # fmt: skip
    config = {"model_type": "deepseek_vl_hybrid", "vision_config": VISION, "high_res_vision_config": SAM, "text_config": TEXT,
              "tie_word_embeddings": False}  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config))
    again = elaborate(vlmgraph.read_spec(import_config(tmp_path / "config.json").spec))
    assert report(again).total == counts["total"]
    ours, read = (g.components["sam"] for g in (graph("deepseek-vl"), again))
    assert list(ours.sequence) == list(read.sequence) == ["window", "window", "full"] * 4
    assert read.variants["window"].attention == ours.variants["window"].attention


def test_parameters_are_those_of_the_reference() -> None:
    tf = pytest.importorskip("transformers", minversion="5.0", reason="the reference is that of transformers 5")
    config = tf.DeepseekVLHybridConfig(vision_config=VISION, high_res_vision_config=SAM, text_config=TEXT, tie_word_embeddings=False)
    with torch.device("meta"):
        reference = tf.DeepseekVLHybridForConditionalGeneration(config)
    assert sum(p.numel() for p in reference.parameters()) == published("deepseek-vl")["total"]


@pytest.mark.parametrize(
    ("key", "value"), [("hidden_act", "mish"), ("image_size", [1024, 768]), ("num_channels", 1), ("num_pos_feats_of_mine", 3)]
)
def test_what_is_not_computed_is_refused(key: str, value: Any, tmp_path: Path) -> None:
    config = {
        "model_type": "deepseek_vl_hybrid",
        "vision_config": VISION,
        "high_res_vision_config": {**SAM, key: value},
        "text_config": TEXT,
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(DiagnosticError, match=rf"high_res_vision_config\.{key} = "):
        import_config(tmp_path / "config.json")


def test_tokens_of_the_published_size() -> None:
    """576 for any picture; 1024 pixels become 64 patches a side, resampled to 96, halved twice to the 24 of the other tower."""
    built = meta("deepseek-vl")
    low, high = (torch.empty(1, 3, side, side, device="meta") for side in (384, 1024))
    assert tuple(built.programs["encode_image"](pixel_values=low, high_res_pixel_values=high)["aligner"].shape) == (1, 576, 4096)
    types = graph("deepseek-vl").types()
    assert [types[name].dims[-2].constant for name in ("sam", "fit", "down", "vision")] == [64**2, 96**2, 24**2, 24**2]
    (row,) = report(graph("deepseek-vl"), images=[(997, 31)]).by_image
    assert set(row["tokens"].values()) == {576}


@torch.no_grad()
def test_the_branch_behind_the_first_whole_layer(model: CompiledModel) -> None:
    """Out of layer 2, through a neck of its own and the shared convolutions, times a number that is zero at first."""
    inputs = pictures()
    hidden = model.sam(inputs["high_res_pixel_values"], taps=(3,))

    def way(neck: Any, x: Tensor) -> Tensor:
        x = neck(x).transpose(1, 2).unflatten(2, (5, 5)).double()
        for layer in model.down.layers:
            x = F.interpolate(x, 12, mode="bilinear") if x.shape[-1] == 5 else x
            x = F.conv2d(x, layer.conv.weight.double(), stride=2, padding=1)
        return x.flatten(2).transpose(1, 2)

    main, branch = way(model.neck, hidden["out"]), way(model.neck_hd, hidden["hidden.3"])
    high = linear(state(model.high), "proj", main + model.mix.gate.double() * branch)
    low = linear(state(model.low), "proj", model.vision(inputs["pixel_values"]).double())
    close(encoded(model, **inputs), linear(state(model.aligner), "fc1", gelu(torch.cat([high, low], -1))))
    with changed(model, "mix.gate", by=0.0):
        model.mix.gate.zero_()
        without = encoded(model, **inputs)
        with changed(model, "neck_hd"):
            assert torch.equal(encoded(model, **inputs), without)
    with changed(model, "neck_hd"):
        assert not torch.equal(encoded(model, **inputs), without)
    assert float(fresh("deepseek-vl").mix.gate) == 0.0


@torch.no_grad()
def test_the_high_part_stands_first(model: CompiledModel) -> None:
    """Columns 0 to 19 of the last layer read SAM, the others SigLIP."""
    inputs = pictures()
    weight, kept = model.aligner.fc1.weight, model.aligner.fc1.weight.clone()
    high, low = "high_res_pixel_values", "pixel_values"
    for zeroed, read, unread in ((slice(20, None), high, low), (slice(20), low, high)):
        weight[:, zeroed] = 0
        base = encoded(model, **inputs)
        assert torch.equal(encoded(model, **{**inputs, unread: inputs[unread] + 1}), base)
        assert not torch.equal(encoded(model, **{**inputs, read: inputs[read] + 1}), base)
        weight.copy_(kept)


def test_towers_look_at_the_same_places() -> None:
    """A picture with one bright cell: the same token of both paths leads, read without the mixing of attention."""
    own = fresh("deepseek-vl").requires_grad_(False)
    for row, column in ((0, 0), (0, 2), (2, 1)):
        low, high = torch.zeros(1, 3, 42, 42), torch.zeros(1, 3, 60, 60)
        low[..., 14 * row : 14 * row + 14, 14 * column : 14 * column + 14] = 1
        high[..., 20 * row : 20 * row + 20, 20 * column : 20 * column + 20] = 1
        patches = own.sam.patch(high)[0] - own.sam.patch(0 * high)[0]
        cells = own.fit(patches).abs().sum(-1).unflatten(1, (12, 12)).unfold(1, 4, 4).unfold(2, 4, 4).sum((-1, -2))
        seen = (own.vision.patch(low)[0] - own.vision.patch(0 * low)[0]).abs().sum(-1)
        assert int(cells.flatten(1).argmax()) == int(seen.argmax()) == 3 * row + column


@torch.no_grad()
def test_texts_alone_are_the_language_model(model: CompiledModel) -> None:
    ids = random_ids(2, 7)
    close(model(input_ids=ids)["logits"], model.head(model.llm(model.embed(ids))), 1e-6)


@pytest.mark.parametrize("given", ["pixel_values", "high_res_pixel_values"])
def test_one_resolution_alone_is_refused(model: CompiledModel, given: str) -> None:
    """Half of the channels would stand where the other half belongs."""
    inputs = multimodal()
    with pytest.raises(DiagnosticError, match="VG0724"):
        model(input_ids=inputs["input_ids"], **{given: inputs[given]})


@pytest.mark.parametrize("size", [(1, 1), (7, 300), (2000, 150), (90, 60)])
def test_the_processor_is_the_reference_s(size: tuple[int, int], tmp_path: Path) -> None:
    """Both resolutions, the small picture made from the large one; all from the file that the reference saves."""
    tf = pytest.importorskip("transformers", minversion="5.0", reason="the reference is that of transformers 5")
    own = spec("deepseek-vl", "tiny")
    theirs = tf.models.deepseek_vl_hybrid.image_processing_pil_deepseek_vl_hybrid.DeepseekVLHybridImageProcessorPil(
        size={"height": 42, "width": 42}, high_res_size={"height": 60, "width": 60}, image_mean=[0.5] * 3, image_std=[0.5] * 3
    )
    theirs.save_pretrained(tmp_path)
    picture = PIL.Image.fromarray(np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))
    wanted = theirs(picture, return_tensors="np")
    got = model_processor(own, graph("deepseek-vl", "tiny"), tmp_path).ask("What?", images=[picture])
    for name in ("pixel_values", "high_res_pixel_values"):
        assert np.abs(got[name] - wanted[name]).max() < 1e-5
    assert int((got["input_ids"] == IMAGE).sum()) == 9


def test_the_small_picture_is_made_from_the_large_one() -> None:
    """As published: the short side is cut off to whole pixels at 60, where the margins get SAM's mean colour; then all of it shrinks."""
    ready = processor("deepseek-vl")
    got = ready.ask("What?", images=[PIL.Image.new("RGB", (200, 100), (255, 0, 0))])
    high, low = got["high_res_pixel_values"][0], got["pixel_values"][0]
    assert np.abs(high[:, :15]).max() < 0.02 and np.abs(high[:, 45:]).max() < 0.02 and high[0, 20, 5] > 1
    margin = (np.array([122, 116, 104]) / 255 - 0.5) / 0.5
    assert np.abs(low[:, 3, 5] - margin).max() < 0.01 and abs(low[0, 21, 5] - 1) < 0.01
    with pytest.raises(DiagnosticError, match="no input `pixel_values`"):
        ready(text="What?", pixel_values=[PIL.Image.new("RGB", (20, 10))])


@pytest.mark.parametrize(
    ("stage", "parts"),
    [
        ("adaptor", ("mix.", "high.", "low.", "aligner.")),
        ("joint", ("mix.", "high.", "low.", "aligner.", "embed.", "llm.", "head.")),
        ("sft", ("vision.", "mix.", "high.", "low.", "aligner.", "embed.", "llm.", "head.")),
    ],
)
def test_stages(stage: str, parts: tuple[str, ...]) -> None:
    inputs: dict[str, Any] = multimodal()
    own = fresh("deepseek-vl")
    assert trains(own, stage, {**inputs, "labels": inputs["input_ids"]}) == {n for n, _ in own.named_parameters() if n.startswith(parts)}
    trainable = {row.stage: row.trainable for row in measured("deepseek-vl").stages}
    assert trainable == {"adaptor": 20_979_713, "joint": 6_931_345_409, "sft": 7_235_034_113}
