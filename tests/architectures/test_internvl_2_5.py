"""InternVL 2.5 (Chen et al. 2024, arXiv 2412.05271): InternViT, tiles with a thumbnail, pixel unshuffle, MLP, InternLM2.5."""

from __future__ import annotations

import numpy as np
import PIL.Image
import pytest
import torch
from torch import Tensor

from tests.architectures import by_hand
from tests.architectures.common import (
    changed,
    close,
    fresh,
    lively,
    measured,
    meta,
    noise,
    placed,
    processor,
    published,
    random_ids,
    trains,
)
from vlmgraph.nn.rearrange import PixelShuffle
from vlmgraph.processor.config import Tiles
from vlmgraph.processor.tiles import grids, tile_grid, tiles

IMAGE, N = 304, 4


@pytest.fixture(scope="module")
def model():
    return lively("internvl-2.5")


def encode(model, images: Tensor) -> Tensor:
    with torch.no_grad():
        return model.programs["encode_image"](pixel_values=images)["projector"]


def test_published_parameters() -> None:
    counts = published("internvl-2.5")
    assert counts["total"] == 8_075_365_376 and counts["vision"] == 304_012_288 and counts["head"] == 379_097_088
    assert counts["norm"] + counts["projector"] == 33_570_816 and counts["embed"] + counts["llm"] == 7_358_685_184
    image = torch.empty(5, 3, 448, 448, device="meta")
    assert meta("internvl-2.5").programs["encode_image"](pixel_values=image)["projector"].shape == (5, 256, 4096)


def test_same_parameters_as_transformers() -> None:
    tf = pytest.importorskip("transformers", minversion="5.0")
    words = tf.LlamaConfig(
        vocab_size=92553, hidden_size=4096, intermediate_size=14336, num_hidden_layers=32, num_attention_heads=32, num_key_value_heads=8
    )
    config = tf.InternVLConfig(vision_config=tf.InternVLVisionConfig(attention_bias=True), text_config=words, tie_word_embeddings=False)
    with torch.device("meta"):
        theirs = tf.InternVLForConditionalGeneration(config)
    assert sorted(p.numel() for p in meta("internvl-2.5").parameters()) == sorted(p.numel() for p in theirs.parameters())


def test_features_by_hand(model) -> None:
    """LayerScale on both branches, no norm at the end, class token dropped; 2 x 2 patches by row, column, channel; norm, two layers."""
    images = noise(2, 3, 56, 56)
    s = by_hand.state(model)
    v = by_hand.below(s, "vision.")
    patches = (
        torch.nn.functional.conv2d(images.double(), v["patch.proj.weight"], v["patch.proj.bias"], stride=14).flatten(2).transpose(1, 2)
    )
    x = torch.cat([v["cls"].expand(2, 1, -1), patches], 1) + v["position.weight"]
    for i in range(2):
        block = by_hand.below(v, f"layers.{i}.")
        y = by_hand.layer_norm(block, "norms.attention", x, 1e-6)
        q, k, w = (by_hand.linear(block, f"attention.{n}", y) for n in "qkv")
        y = by_hand.linear(block, "attention.out", by_hand.softmax_attention(q, k, w, 5, False))
        x = x + block["scales.attention.weight"] * y
        y = by_hand.gelu(by_hand.linear(block, "mlp.fc1", by_hand.layer_norm(block, "norms.mlp", x, 1e-6)))
        x = x + block["scales.mlp.weight"] * by_hand.linear(block, "mlp.fc2", y)
    grid = x[:, 1:].unflatten(1, (4, 4))
    merged = torch.cat([grid[:, a::2, b::2] for a in (0, 1) for b in (0, 1)], -1).flatten(1, 2)
    y = by_hand.linear(s, "projector.fc1", by_hand.layer_norm(s, "norm", merged, 1e-5))
    close(encode(model, images), by_hand.linear(s, "projector.fc2", by_hand.gelu(y)))


def test_without_scales_the_tower_is_its_embeddings() -> None:
    model = fresh("internvl-2.5")
    scales = [p for n, p in model.vision.named_parameters() if ".scales." in n]
    assert len(scales) == 4 and all(bool((p == 0.1).all()) for p in scales)
    with torch.no_grad():
        for parameter in scales:
            parameter.zero_()
        out = model.vision(noise(1, 3, 56, 56), taps=(0,))
    assert torch.equal(out["out"], out["hidden.0"])


def test_unshuffle_is_a_bijection() -> None:
    """No value is lost or doubled: 16 tokens become 4 of four times the width."""
    x = torch.arange(16 * 3.0).view(1, 16, 3)
    out = PixelShuffle((2, 2), "hwc")(x)
    assert out.shape == (1, 4, 12) and sorted(out.flatten().tolist()) == x.flatten().tolist()
    assert out[0, 1].tolist() == x[0, [2, 3, 6, 7]].flatten().tolist()


def test_tiles_do_not_see_each_other(model) -> None:
    """Tiles meet in the language model alone, where they stand in the order given."""
    images, ids = noise(3, 3, 56, 56), placed(random_ids(1, 18), IMAGE, (0, 2, 3 * N))
    close(encode(model, images), torch.cat([encode(model, image[None]) for image in images]), 2e-6)
    with torch.no_grad():
        before = model(pixel_values=images, input_ids=ids)["logits"]
        after = model(pixel_values=images[[0, 2, 1]], input_ids=ids)["logits"]
        assert torch.equal(before[:, : 2 + N], after[:, : 2 + N]) and bool((before[:, 2 + N :] != after[:, 2 + N :]).any(-1).all())
        with changed(model, "vision.cls"):
            assert not torch.equal(model(pixel_values=images, input_ids=ids)["logits"], before)


@pytest.mark.parametrize(
    ("width", "height", "grid"),
    [(448, 448, (1, 1)), (896, 896, (2, 2)), (1920, 1080, (4, 2)), (800, 600, (4, 3)), (1000, 3000, (2, 6)), (400, 400, (1, 1))],
)
def test_grids(width: int, height: int, grid: tuple[int, int]) -> None:
    """(columns, rows); of one ratio the larger grid only where the picture has over half of its area."""
    assert tile_grid(height, width, Tiles(size=448)) == grid
    assert len(grids(1, 12)) == 35 and len(grids(1, 6)) == 14


def test_pictures_as_in_transformers() -> None:
    """The same tiles in the same order, and pixels within one 8-bit step."""
    pytest.importorskip("transformers", minversion="5.0")
    from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil

    rng = np.random.default_rng(3)
    shapes = [(1, 1), (17, 4), (300, 900), (61, 56), (150, 100), *(tuple(rng.integers(1, 400, 2)) for _ in range(20))]
    pictures = [PIL.Image.fromarray(rng.integers(0, 256, (h, w, 3), dtype=np.uint8)) for h, w in shapes]
    theirs = GotOcr2ImageProcessorPil(size={"height": 56, "width": 56}, crop_to_patches=True, image_mean=[0.5] * 3, image_std=[0.5] * 3)
    wanted = theirs(pictures, return_tensors="np")
    got = tiles("x", Tiles(size=56, stats=0.5), pictures, [len(pictures)])
    assert got["x.pieces"].tolist() == list(wanted["num_patches"]) and got["x"].shape == wanted["pixel_values"].shape
    assert np.abs(got["x"] - wanted["pixel_values"]).max() <= 1.01 * 2 / 255


def test_prompt() -> None:
    """One pair of marks around all tiles of a picture: 1920 x 1080 becomes 4 x 2 tiles and a thumbnail."""
    own = processor("internvl-2.5", None)
    said = [{"role": "user", "content": [{"type": "image"}, {"type": "image"}, {"type": "text", "text": "?"}]}]
    row = own(messages=said, images=[PIL.Image.new("RGB", (1920, 1080)), PIL.Image.new("RGB", (30, 30))])
    ids = row["input_ids"][0].tolist()
    start = ids.index(92544)
    assert ids[start : start + 9 * 256 + 2] == [92544, *[92546] * (9 * 256), 92545]
    assert ids.count(92546) == 10 * 256 and ids.count(92544) == 2 and row["pixel_values"].shape == (10, 3, 448, 448)


def test_decoding_with_a_cache(model) -> None:
    given = {"pixel_values": noise(1, 3, 56, 56), "input_ids": placed(random_ids(1, 9), IMAGE, (0, 2, N))}
    assert torch.equal(model.generate(**given, max_new_tokens=5), model.generate(**given, max_new_tokens=5, use_cache=False))


@pytest.mark.parametrize(("stage", "parts"), [("mlp", "norm projector"), ("vit", "vision norm projector"), ("full", "")])
def test_stages(stage: str, parts: str) -> None:
    model = fresh("internvl-2.5")
    ids = placed(random_ids(1, 9), IMAGE, (0, 2, N))
    names = trains(
        model, stage, {"pixel_values": noise(1, 3, 56, 56), "input_ids": ids, "labels": ids}, lr=1e-2 if stage == "mlp" else 2e-3
    )
    assert names == {n for n, _ in model.named_parameters() if not parts or n.split(".")[0] in parts.split()}
    trainable = {s.stage: s.trainable for s in measured("internvl-2.5").stages}
    assert trainable == {"mlp": 33_570_816, "vit": 33_570_816 + 304_012_288, "full": 8_075_365_376}
