"""Pixtral 12B (Agrawal et al. 2024, arXiv 2410.07073): images at their own size, 2-D RoPE, row breaks, Mistral Nemo."""

from __future__ import annotations

import numpy as np
import PIL.Image
import pytest
import torch
from torch import Tensor

from tests.architectures.common import changed, close, fresh, graph, lively, meta, noise, placed, processor, published, random_ids, trains
from vlmgraph.diagnostics import DiagnosticError
from vlmgraph.nn.rope import RoPE2D, rotate
from vlmgraph.processor.config import Padded
from vlmgraph.processor.padded import padded, padded_size

IMAGE, BREAK, END = 302, 303, 304


@pytest.fixture(scope="module")
def model():
    return lively("pixtral")


def encode(model, images: Tensor, *sizes: tuple[int, int]) -> Tensor:
    with torch.no_grad():
        return model.programs["encode_image"](pixel_values=images, image_sizes=torch.tensor(sizes))["projector"]


def test_published_parameters() -> None:
    counts = published("pixtral")
    assert counts["total"] == 12_682_739_712 and counts["vision"] == 403_489_792 and counts["projector"] == 31_467_520
    assert counts["embed"] + counts["llm"] == 11_576_693_760 and counts["head"] == 671_088_640
    llm = graph("pixtral").components["llm"]
    assert llm.position.theta == 1e9 and llm.head == 128 and "final_norm" not in dict(meta("pixtral").vision.named_children())


def test_same_parameters_as_transformers() -> None:
    tf = pytest.importorskip("transformers", minversion="5.0")
    words = tf.MistralConfig(
        vocab_size=131072, hidden_size=5120, intermediate_size=14336, num_hidden_layers=40, num_attention_heads=32,
        num_key_value_heads=8, head_dim=128,
    )  # fmt: skip
    with torch.device("meta"):
        theirs = tf.LlavaForConditionalGeneration(tf.LlavaConfig(vision_config=tf.PixtralVisionConfig(), text_config=words))
    ours = sorted(p.numel() for p in meta("pixtral").parameters())
    assert ours == sorted(p.numel() for p in theirs.parameters())


def test_images_packed_together_are_as_alone(model) -> None:
    """Every patch sees all of its own image and none of another, whatever the padding holds."""
    images = noise(3, 3, 70, 56)
    sizes = [(70, 14), (28, 56), (42, 42)]
    together = encode(model, images, *sizes)
    alone = [encode(model, images[i : i + 1, :, :h, :w], (h, w)) for i, (h, w) in enumerate(sizes)]
    close(together, torch.cat(alone), 2e-6)
    dirty = images.clone()
    dirty[0, :, :, 14:] = 9.0
    assert torch.equal(encode(model, dirty, *sizes), together)
    dirty[1, :, :14, :14] += 1
    differs = (encode(model, dirty, *sizes) != together).any(-1).tolist()
    assert differs == [False] * 5 + [True] * 8 + [False] * 9


def test_scores_depend_on_differences_alone() -> None:
    """Pairs of a head turn with the row or with the column, by even and odd frequencies; moving all rows or columns changes no score."""
    rope = RoPE2D(64, 10000.0, split="alternate")
    row, column = torch.meshgrid(torch.arange(5), torch.arange(7), indexing="ij")
    places = torch.stack([row.flatten(), column.flatten()])[:, None]
    q, k = noise(1, 2, 35, 64), noise(1, 2, 35, 64, seed=2)

    def scores(by: tuple[int, int]) -> Tensor:
        turn = rope(places + torch.tensor(by)[:, None, None])
        return rotate(q, turn) @ rotate(k, turn).transpose(2, 3)

    close(scores((11, 0)), scores((0, 0)))
    close(scores((0, 23)), scores((0, 0)))
    speed = 10000.0 ** (-torch.arange(32, dtype=torch.float64) / 32)
    angle = torch.cat([places[0, 0, :, None] * speed[0::2], places[1, 0, :, None] * speed[1::2]], -1)
    close(rope(places)[0][0], torch.cat([angle, angle], -1).cos())


def test_breaks_and_ends_keep_their_words(model) -> None:
    """One image of 2 x 3 patches: [IMG] x 3, break, [IMG] x 3, end. Only [IMG] takes features, in raster order."""
    ids = placed(random_ids(1, 12), IMAGE, (0, 2, 3), (0, 6, 3))
    ids[0, 5], ids[0, 9] = BREAK, END
    given = {"pixel_values": noise(1, 3, 28, 42), "image_sizes": torch.tensor([[28, 42]])}
    with torch.no_grad():
        words, features = model.embed(ids), encode(model, given["pixel_values"], (28, 42))
        out = model.splice(text=words, ids=ids, vision=features)["out"]
        assert torch.equal(out[ids == IMAGE], features) and torch.equal(out[ids != IMAGE], words[ids != IMAGE])
        before = model(**given, input_ids=ids)["logits"]
        with changed(model, "embed"):
            assert not torch.equal(model(**given, input_ids=ids)["logits"], before)


def test_text_alone_touches_no_tower(model) -> None:
    nodes = model.programs["forward"].graph(frozenset({"input_ids"})).nodes
    assert [n.component for n in nodes] == ["embed", "llm", "head"]


def test_sizes_that_do_not_fit(model) -> None:
    with pytest.raises(DiagnosticError, match=r"42, 14.*do not fit into 28 x 28"):
        encode(model, noise(1, 3, 28, 28), (42, 14))


def test_decoding_with_a_cache(model) -> None:
    ids = placed(random_ids(1, 11), IMAGE, (0, 2, 6))
    given = {"pixel_values": noise(1, 3, 28, 42), "image_sizes": torch.tensor([[28, 42]]), "input_ids": ids}
    cached = model.generate(**given, max_new_tokens=5)
    assert torch.equal(cached, model.generate(**given, max_new_tokens=5, use_cache=False))


@pytest.mark.parametrize(
    ("height", "width", "grid"),
    [(1024, 1024, (64, 64)), (512, 512, (32, 32)), (640, 800, (40, 50)), (100, 100, (7, 7)), (1, 1, (1, 1)), (300, 4000, (5, 64))],
)
def test_sizes(height: int, width: int, grid: tuple[int, int]) -> None:
    """Never larger than it was but for the last patch, never above 1024."""
    config = Padded()
    assert padded_size(height, width, config) == (16 * grid[0], 16 * grid[1])


def test_pictures_as_in_transformers() -> None:
    """The same sizes for any shape; pixels of random pictures within one 8-bit step but for the rounding of the two resizers."""
    tf = pytest.importorskip("transformers", minversion="5.0")
    theirs = tf.PixtralImageProcessorPil()
    rng = np.random.default_rng(3)
    shapes = [(1, 1), (17, 4), (300, 4000), (1500, 1031), (48, 160), (333, 777)]
    pictures = [PIL.Image.fromarray(rng.integers(0, 256, (h, w, 3), dtype=np.uint8)) for h, w in shapes]
    wanted = theirs(pictures, return_tensors="np")
    got = padded("x", Padded(also={"s": "sizes"}), pictures, [len(pictures)])
    assert np.array_equal(got["s"], wanted["image_sizes"]) and got["x"].shape == wanted["pixel_values"].shape
    step = 1 / 255 / 0.26130258
    assert np.abs(got["x"] - wanted["pixel_values"]).max() <= 1.01 * step


def test_prompt() -> None:
    """h rows of w [IMG] and a break, an end in the place of the last break: h (w + 1) tokens."""
    own = processor("pixtral", None)
    said = [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "image"}, {"type": "image"}]}]
    row = own(messages=said, images=[PIL.Image.new("RGB", (800, 640)), PIL.Image.new("RGB", (20, 40))])
    ids = row["input_ids"][0].tolist()
    first = [*([10] * 50 + [12]) * 39, *[10] * 50, 13]
    second = [10, 10, 12, 10, 10, 12, 10, 10, 13]
    assert ids[:2] == [1, 3] and ids[3 : 3 + 2040] == first and ids[2043:2052] == second and ids[-1] == 4
    assert row["image_sizes"].tolist() == [[640, 800], [48, 32]] and row["pixel_values"].shape == (2, 3, 640, 800)


def test_all_trains() -> None:
    model = fresh("pixtral")
    ids = placed(random_ids(1, 11), IMAGE, (0, 2, 6))
    given = {"pixel_values": noise(1, 3, 28, 42), "image_sizes": torch.tensor([[28, 42]]), "input_ids": ids, "labels": ids}
    assert trains(model, "joint", given) == {n for n, _ in model.named_parameters()}
