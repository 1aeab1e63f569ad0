"""LLaVA-NeXT (Liu et al. 2024, blog of 2024-01-30): a base view and tiles of any resolution, unpadded, a newline behind every row."""

from __future__ import annotations

import numpy as np
import PIL.Image
import pytest
import torch
from torch import Tensor

from tests.architectures.common import close, fresh, graph, lively, measured, noise, placed, processor, published, random_ids, trains
from vlmgraph.diagnostics import DiagnosticError
from vlmgraph.processor.any_resolution import any_resolution
from vlmgraph.processor.config import AnyResolution

IMAGE, SIDE = 300, 3  # of the tiny size: placeholder, patches along a tile


@pytest.fixture(scope="module")
def model():
    return lively("llava-next")


def encode(model, images: Tensor, *sizes: tuple[int, int]) -> Tensor:
    with torch.no_grad():
        return model.programs["encode_image"](pixel_values=images, image_sizes=torch.tensor(sizes))["views"]


def views_by_hand(model, images: Tensor) -> Tensor:
    """Every view through tower and projector by itself: [M, side, side, d]."""
    with torch.no_grad():
        return model.projector(model.vision(images, taps=(2,))["hidden.2"][:, 1:]).unflatten(1, (SIDE, SIDE))


@pytest.mark.parametrize(("size", "total", "width"), [(None, 7_063_431_168, 4096), ("13b", 13_351_499_776, 5120)], ids=["7b", "13b"])
def test_published_parameters(size: str | None, total: int, width: int) -> None:
    """LLaVA-1.5 and one vector."""
    counts = published("llava-next", size)
    assert counts["total"] == total == published("llava-1.5", size)["total"] + width and counts["views"] == width


@pytest.mark.parametrize(
    ("height", "width", "tokens"),
    [
        (480, 640, 576 + 36 * 49),
        (672, 672, 576 + 48 * 49),
        (336, 336, 576 + 24 * 25),
        (300, 1000, 576 + 22 * 73),
        (1000, 300, 576 + 72 * 23),
        (100, 200, 1752),
        (200, 100, 888),
    ],
)
def test_published_tokens(height: int, width: int, tokens: int) -> None:
    assert graph("llava-next").components["views"].length(height, width) == tokens


def test_order_of_tiles_and_newlines(model) -> None:
    """A canvas of 2 x 2: base view, then rows across both tiles, each with the newline behind it."""
    images = noise(1, 5, 3, 42, 42)
    v, line = views_by_hand(model, images[0]), model.views.newline.detach()
    whole = torch.cat([torch.cat([v[1], v[2]], 1), torch.cat([v[3], v[4]], 1)], 0)
    rows = torch.cat([whole, line.expand(6, 1, -1)], 1)
    close(encode(model, images, (84, 84)), torch.cat([v[0].flatten(0, 1), rows.flatten(0, 1)]), 2e-6)


def test_margins_are_dropped_on_one_axis(model) -> None:
    """84 x 28 on 84 x 42: 6 x 2 patches are the picture's; int(.) of an odd margin of one column drops none."""
    images = noise(2, 3, 3, 42, 42)
    v, line = views_by_hand(model, images[0]), model.views.newline.detach()
    whole = torch.cat([v[1], v[2]], 0)
    assert len(encode(model, images[:1], (84, 28))) == 9 + 6 * 4
    narrow = encode(model, images[:1], (84, 14))
    rows = torch.cat([whole[:, 1:2], line.expand(6, 1, -1)], 1)
    close(narrow, torch.cat([v[0].flatten(0, 1), rows.flatten(0, 1)]), 2e-6)
    assert torch.equal(encode(model, images[:1], (14, 84))[:9], narrow[:9]), "the base view is the same"


def test_without_newline_only_ends_of_rows_change(model) -> None:
    images = noise(1, 5, 3, 42, 42)
    before = encode(model, images, (84, 84))
    kept = model.views.newline.detach().clone()
    with torch.no_grad():
        model.views.newline.zero_()
    after = encode(model, images, (84, 84))
    with torch.no_grad():
        model.views.newline.copy_(kept)
    assert (before != after).any(-1).nonzero().flatten().tolist() == [9 + 7 * row + 6 for row in range(6)]


def test_padded_views_are_cut(model) -> None:
    """Two images of 2 and of 4 tiles in one array: each gives what it gives alone, whatever stands behind its last tile."""
    images = noise(2, 5, 3, 42, 42)
    together = encode(model, images, (42, 84), (84, 84))
    alone = torch.cat([encode(model, images[:1, :3], (42, 84)), encode(model, images[1:], (84, 84))])
    close(together, alone, 2e-6)
    with pytest.raises(DiagnosticError, match="2 x 2 tiles and a base view, but there are 3"):
        encode(model, images[:1, :3], (84, 84))


def test_a_base_view_alone_has_one_newline(model) -> None:
    out = encode(model, noise(1, 1, 3, 42, 42), (42, 42))
    assert out.shape == (10, 48) and torch.equal(out[-1], model.views.newline)


def test_pictures_as_in_transformers() -> None:
    """The same views in the same order, pixels within one 8-bit step, and as many tokens as the reference's processor writes."""
    tf = pytest.importorskip("transformers", minversion="5.0")
    from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil

    canvases = [[42, 84], [84, 42], [84, 84], [126, 42], [42, 126]]
    rng = np.random.default_rng(3)
    shapes = [(1, 1), (17, 4), (200, 400), (61, 56), *(tuple(rng.integers(1, 300, 2)) for _ in range(20))]
    pictures = [PIL.Image.fromarray(rng.integers(0, 256, (h, w, 3), dtype=np.uint8)) for h, w in shapes]
    size = {"height": 42, "width": 42}
    wanted = LlavaNextImageProcessorPil(size=size, crop_size=size, image_grid_pinpoints=canvases)(pictures, return_tensors="np")
    got = any_resolution("x", AnyResolution(size=42, canvases=canvases, also={"s": "sizes"}), pictures, [len(pictures)])
    assert np.array_equal(got["s"], wanted["image_sizes"]) and got["x"].shape == wanted["pixel_values"].shape
    assert np.abs(got["x"] - wanted["pixel_values"]).max() <= 1.01 / 255 / 0.26130258
    assert tf is not None


def test_prompt() -> None:
    own = processor("llava-next", None)
    row = own("<image> and <image>", images=[PIL.Image.new("RGB", (640, 480)), PIL.Image.new("RGB", (336, 336))])
    assert (row["input_ids"] == 32000).sum() == 2340 + 1176 and row["pixel_values"].shape == (2, 5, 3, 336, 336)
    assert row["image_sizes"].tolist() == [[480, 640], [336, 336]]


def given() -> dict[str, Tensor]:
    count = 9 + 3 * 7
    ids = placed(random_ids(1, count + 6), IMAGE, (0, 2, count))
    return {"pixel_values": noise(1, 3, 3, 42, 42), "image_sizes": torch.tensor([[42, 84]]), "input_ids": ids}


def test_decoding_with_a_cache(model) -> None:
    assert torch.equal(model.generate(**given(), max_new_tokens=5), model.generate(**given(), max_new_tokens=5, use_cache=False))


def test_stages() -> None:
    """First the projector; then all of it, tower and newline too, but for what comes behind the layer that is read."""
    inputs = {**given(), "labels": given()["input_ids"]}
    assert {n.split(".")[0] for n in trains(fresh("llava-next"), "align", inputs, lr=1e-2)} == {"projector"}
    model = fresh("llava-next")
    unread = [n for n, _ in model.named_parameters() if n.startswith(("vision.layers.2.", "vision.final_norm"))]
    names = trains(model, "instruct", inputs, idle=unread)
    assert names == {n for n, _ in model.named_parameters()} and "views.newline" in names
    assert {s.stage: s.trainable for s in measured("llava-next").stages} == {"align": 20_979_712, "instruct": 7_063_431_168}
