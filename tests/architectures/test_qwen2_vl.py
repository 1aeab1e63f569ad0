"""Qwen2-VL (arXiv 2409.12191): pictures and videos at their own resolution, three positions for every token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.architectures.by_hand import (
    below,
    depth,
    gelu,
    layer_norm,
    linear,
    quick_gelu,
    rms_norm,
    softmax_attention,
    state,
    swiglu,
)  # fmt: skip
from tests.architectures.common import (
    built_counts,
    close,
    declared_counts,
    fresh,
    graph,
    lively,
    measured,
    meta,
    next_token_loss,
    noise,
    published,
    random_ids,
    spec,
    trains,
)  # fmt: skip
from vlmgraph.diagnostics import DiagnosticError
from vlmgraph.lower.model import CompiledModel
from vlmgraph.nn.positions import MropePositions
from vlmgraph.processor import Processor, Video
from vlmgraph.processor.config import Native
from vlmgraph.processor.model import model_processor
from vlmgraph.processor.native import patches, smart_size
from vlmgraph.report.measure import report
from vlmgraph.train.stage import begin

PAD, SYSTEM, END, START, STOP, IMAGE, VIDEO = range(300, 307)
"""Ids of the tiny size. Its pictures are cut into patches of 14 x 14, four of which make a token, as in the published sizes."""
CUT = Native()
BUDGET = 28 * 28 * 1280


@pytest.fixture(scope="module")
def model() -> CompiledModel:
    return lively("qwen2-vl")


@pytest.fixture(scope="module")
def processor() -> Processor:
    return model_processor(spec("qwen2-vl", "tiny"), graph("qwen2-vl", "tiny"))


def frames(count: int, rows: int, columns: int, seed: int = 1) -> Tensor:
    """A video (or, of two equal frames, a picture) of so many patches a side: [count, 3, 14 rows, 14 columns]."""
    return noise(count, 3, 14 * rows, 14 * columns, seed=seed)


def image(rows: int, columns: int, seed: int = 1) -> Tensor:
    return frames(1, rows, columns, seed).repeat(2, 1, 1, 1)


def packed(*videos: Tensor) -> tuple[Tensor, Tensor]:
    """Patches of all of them one after the other, and their grids."""
    cut = [patches(v.numpy(), CUT) for v in videos]
    return torch.from_numpy(np.concatenate([p for p, _ in cut])), torch.tensor([g for _, g in cut])


@torch.no_grad()
def encode(model: CompiledModel, *videos: Tensor) -> Tensor:
    rows, grid = packed(*videos)
    return model.programs["encode_image"](pixel_values=rows, image_grid_thw=grid)["visual"]


@torch.no_grad()
def logits(model: CompiledModel, **inputs: Tensor) -> Tensor:
    return model(**inputs)["logits"]


# ---- what was published


TOWER = {"visual.norm": 2_560, "visual.vision": 629_678_080 + 1_505_280}


PARAMETERS: dict[str | None, dict[str, int]] = {
    None: {"visual.mlp": 44_575_744 - 2_560, "llm": 7_070_619_136 - 544_997_376, "embed": 544_997_376, "head": 544_997_376},
    "2b": {"visual.mlp": 665_271_296 - 631_185_920, "llm": 1_310_340_608, "embed": 151_936 * 1_536},
    "72b": {"visual.mlp": 68_170_752, "llm": 70_214_787_072, "embed": 152_064 * 8_192, "head": 152_064 * 8_192},
}


@pytest.mark.parametrize(("size", "total"), [(None, 8_291_375_616), ("2b", 2_208_985_600), ("72b", 73_405_560_320)])
def test_parameters(size: str | None, total: int) -> None:
    """Visual 675,759,104 of the 7B (blocks 629,678,080, patches 1,505,280, merger 44,575,744); the 2B shares its table with the head."""
    assert published("qwen2-vl", size) == {**TOWER, **PARAMETERS[size], "total": total}
    tied = meta("qwen2-vl", size).head.proj.weight is meta("qwen2-vl", size).embed.tokens.weight  # type: ignore[union-attr]
    assert tied == (size == "2b")


def test_both_counts_agree_at_tiny(model: CompiledModel) -> None:
    assert declared_counts("qwen2-vl", "tiny") == built_counts(model)


@pytest.mark.parametrize(
    ("size", "layers", "width", "heads", "kv_heads", "mlp", "vocab"),
    [
        (None, 28, 3584, 28, 4, 18_944, 152_064),
        ("2b", 28, 1536, 12, 2, 8_960, 151_936),
        ("72b", 80, 8192, 64, 8, 29_568, 152_064),
    ],
)
def test_dimensions(size: str | None, layers: int, width: int, heads: int, kv_heads: int, mlp: int, vocab: int) -> None:
    """Heads of 128, biases on queries, keys and values alone, norms with eps 1e-6 (the class's default of 1e-5 is no published size's)."""
    llm: Any = graph("qwen2-vl", size).components["llm"]
    assert (llm.layers, llm.width, llm.heads, llm.kv_heads, llm.mlp.hidden, llm.vocab) == (layers, width, heads, kv_heads, mlp, vocab)
    assert (llm.norm_eps, llm.position.theta, tuple(llm.position.sections)) == (1e-6, 1e6, (16, 24, 24))
    block: Any = meta("qwen2-vl", size).llm.layers[0]  # type: ignore[union-attr, index]
    assert block.attention.head_dim == 128
    assert [getattr(block.attention, n).bias is not None for n in ("q", "k", "v", "out")] == [True, True, True, False]
    tower: Any = graph("qwen2-vl", size).components["visual.vision"]
    assert (tower.layers, tower.width, tower.heads, tower.norm_eps, tower.cls) == (32, 1280, 16, 1e-6, False)
    vision: Any = meta("qwen2-vl", size).visual.vision  # type: ignore[union-attr]
    assert vision.final_norm is None and vision.position is None and tuple(vision.patch.proj.weight.shape) == (1280, 1176)
    assert vision.patch.proj.bias is None and all(getattr(vision.layers[0].attention, n).bias is not None for n in ("q", "k", "v", "out"))


# ---- how many tokens


SIZES = [
    # (height, width), budget, resized to, tokens
    ((224, 224), 12_845_056, (224, 224), 64),
    ((448, 448), 12_845_056, (448, 448), 256),
    ((600, 800), 12_845_056, (588, 812), 609),
    ((1080, 1920), 12_845_056, (1092, 1932), 2691),
    ((1080, 1920), BUDGET, (728, 1316), 1222),
    ((28, 28), 12_845_056, (56, 56), 4),
]


@pytest.mark.parametrize(("size", "budget", "resized", "tokens"), SIZES)
def test_tokens_of_an_image(size: tuple[int, int], budget: int, resized: tuple[int, int], tokens: int) -> None:
    """Section 2.1, by the spec's processor: the size it resizes to, and what the graph makes of so many patches."""
    table = {**spec("qwen2-vl").data["processor"]["pixel_values"], "max_pixels": budget}
    config = Native(**{k: v for k, v in table.items() if k != "type"})
    assert smart_size(*size, config) == resized
    counted = report(graph("qwen2-vl"), images=[size[::-1]], processor={"pixel_values": table}).by_image[0]["tokens"]
    assert counted["splice.image"] == tokens


@pytest.mark.parametrize("size", [None, "tiny"])
def test_expected_tokens_are_what_the_report_finds(size: str | None) -> None:
    """`[expect]` holds them by size; the report holds them against the processor and the graph."""
    tables = spec("qwen2-vl", size).data
    rows = report(graph("qwen2-vl", size), processor=tables["processor"]).expected
    found = {row.what: (row.expected, row.actual) for row in rows if row.what.startswith("visual_tokens ")}
    assert found == {f"visual_tokens {k}": (v, v) for k, v in tables["expect"]["visual_tokens"].items()}
    wrong = report(
        graph("qwen2-vl", size), processor={"pixel_values": {**tables["processor"]["pixel_values"], "max_pixels": 60_000}}
    ).expected
    assert {row.what for row in wrong if row.actual != row.expected} >= {"visual_tokens 600x800"}


def test_sizes_follow_the_formula() -> None:
    """Nearest multiples of 28; over the budget both sides shrink by one factor and are rounded down, below they grow and are rounded up."""
    config = Native(min_pixels=40_000, max_pixels=100_000)
    for height, width in [(30, 31), (100, 300), (200, 200), (333, 257), (500, 180), (1000, 40), (29, 2000)]:
        tall, wide = round(height / 28) * 28, round(width / 28) * 28
        if tall * wide > 100_000:
            beta = (height * width / 100_000) ** 0.5
            tall, wide = max(28, int(height / beta / 28) * 28), max(28, int(width / beta / 28) * 28)
        elif tall * wide < 40_000:
            beta = (40_000 / (height * width)) ** 0.5
            tall, wide = -(-height * beta // 28) * 28, -(-width * beta // 28) * 28
        assert smart_size(height, width, config) == (tall, wide)


def test_elongated_pictures_are_refused(processor: Processor) -> None:
    with pytest.raises(DiagnosticError, match="VG0707"):
        processor(images=[PIL.Image.new("RGB", (2010, 10))])
    assert processor(images=[PIL.Image.new("RGB", (2000, 10))])["image_grid_thw"].tolist() == [[1, 2, 58]]


@pytest.mark.parametrize(("size", "tokens"), [((224, 224), 64), ((56, 56), 4), ((300, 100), 44), ((60, 200), 14)])
def test_placeholders_are_as_many_as_tokens(model: CompiledModel, processor: Processor, size: tuple[int, int], tokens: int) -> None:
    """One token to the user becomes as many as the tower gives, between the start and the end of a picture (66 for 224 x 224)."""
    inputs = processor.ask("What?", images=[PIL.Image.new("RGB", size, (200, 30, 90))])
    ids = inputs["input_ids"][0].tolist()
    start = ids.index(START)
    assert ids[start : start + tokens + 2] == [START, *[IMAGE] * tokens, STOP] and ids.count(IMAGE) == tokens
    given = {k: torch.from_numpy(v) for k, v in inputs.items()}
    assert encode_given(model, given).shape == (tokens, 48)
    assert logits(model, **given).shape == (1, len(ids), 320)


@torch.no_grad()
def encode_given(model: CompiledModel, given: dict[str, Tensor]) -> Tensor:
    return model.programs["encode_image"](**{k: given[k] for k in ("pixel_values", "image_grid_thw")})["visual"]


def test_tokens_of_the_published_size() -> None:
    """224 x 224 through the tower of the 7B, on no device: 256 patches of 1176 values, 64 tokens of width 3584."""
    model = meta("qwen2-vl")
    rows = torch.empty(256, 1176, device="meta")
    out = model.programs["encode_image"](pixel_values=rows, image_grid_thw=torch.empty(1, 3, dtype=torch.long, device="meta"))["visual"]
    assert tuple(out.shape) == (64, 3584)


@pytest.mark.parametrize(("count", "steps"), [(2, 1), (4, 2), (5, 3)])
def test_tokens_of_a_video(processor: Processor, count: int, steps: int) -> None:
    """Two frames make one step of time; an odd last frame counts twice."""
    clip = [PIL.Image.new("RGB", (84, 56), (40 * i, 9, 9)) for i in range(count)]
    inputs = processor.ask("What?", videos=[clip])
    assert inputs["video_grid_thw"].tolist() == [[steps, 4, 6]]
    assert (inputs["input_ids"] == VIDEO).sum() == steps * 6


def test_videos_are_sampled_and_fit_their_budget() -> None:
    """Two frames a second; at most 16384 tokens, for which the frames get smaller."""
    published_ = model_processor(spec("qwen2-vl"), graph("qwen2-vl"))
    config: Any = published_.entries.media["pixel_values_videos"]
    assert (config.fps, config.max_tokens, config.temporal) == (2.0, 16_384, 2)
    frame = PIL.Image.new("RGB", (64, 48))
    small = model_processor(spec("qwen2-vl", "tiny"), graph("qwen2-vl", "tiny"))
    assert small(videos=[Video([frame] * 48, fps=8.0)])["video_grid_thw"][0, 0] == 6  # 6 seconds, 12 frames, 6 pairs
    config = config.model_copy(update={"max_tokens": 60, "min_pixels": 28 * 28})
    from vlmgraph.processor.native import video_patches

    _, (steps, rows, columns) = video_patches([PIL.Image.new("RGB", (280, 280))] * 8, config)
    assert steps == 4 and steps * rows * columns // 4 <= 60


# ---- the tower


def tower(model: CompiledModel, video: Tensor, heads: int = 5) -> Tensor:
    """The tower by hand, in raster order: [F, 3, H, W] → tokens [T * rows/2 * columns/2, width], each step of time by itself."""
    s = state(model.visual)
    count, _, height, width = video.shape
    rows, columns = height // 14, width // 14
    kernel = s["vision.patch.proj.weight"].view(-1, 3, 2, 14, 14)
    found = []
    for t in range(count // 2):
        clip = video[2 * t : 2 * t + 2].double().transpose(0, 1)[None]  # [1, 3, 2, H, W]
        x = F.conv3d(clip, kernel, stride=(2, 14, 14)).flatten(2).transpose(1, 2)  # [1, rows * columns, width], raster order
        place = torch.cartesian_prod(torch.arange(rows), torch.arange(columns)).double()
        for i in range(depth(below(s, "vision."))):
            block = below(s, f"vision.layers.{i}.")
            y = layer_norm(block, "norms.attention", x, 1e-6)
            q, k, v = (linear(block, f"attention.{n}", y) for n in "qkv")
            y = softmax_attention(turned(q, place, heads), turned(k, place, heads), v, heads, causal=False)
            x = x + linear(block, "attention.out", y)
            x = x + linear(block, "mlp.fc2", quick_gelu(linear(block, "mlp.fc1", layer_norm(block, "norms.mlp", x, 1e-6))))
        x = layer_norm(s, "norm", x, 1e-6)[0].view(rows, columns, -1)
        blocks = torch.cat([x[0::2, 0::2], x[0::2, 1::2], x[1::2, 0::2], x[1::2, 1::2]], -1).flatten(0, 1)
        found.append(linear(s, "mlp.fc2", gelu(linear(s, "mlp.fc1", blocks))))
    return torch.cat(found)


def turned(x: Tensor, place: Tensor, heads: int) -> Tensor:
    """2D RoPE: of the d/2 pairs (i, i + d/2) of a head the first half turns with the row, the second with the column."""
    x = x.unflatten(-1, (heads, -1))
    half = x.shape[-1] // 2
    speed = 10_000.0 ** (-torch.arange(half // 2, dtype=torch.float64) * 2 / half)
    angle = torch.cat([place[:, :1] * speed, place[:, 1:] * speed], -1)[:, None]
    a, b = x[..., :half], x[..., half:]
    return torch.cat([a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()], -1).flatten(2)


@pytest.mark.parametrize(("count", "rows", "columns"), [(2, 4, 6), (2, 2, 2), (6, 4, 2)])
def test_tower(model: CompiledModel, count: int, rows: int, columns: int) -> None:
    """Section 2.1: 3-D convolution over frame pairs, 2D-RoPE, attention inside a step of time, quick GELU, 2 x 2 merger."""
    video = frames(count, rows, columns)
    close(encode(model, video), tower(model, video))


def test_patches_are_a_convolution(model: CompiledModel) -> None:
    """One linear map of [3, 2, 14, 14] values is Conv3d with a stride of its kernel; a picture is two equal frames to it."""
    picture = frames(1, 4, 4)
    rows, grid = patches(picture.numpy(), CUT)
    twice, _ = patches(picture.repeat(2, 1, 1, 1).numpy(), CUT)
    assert grid == (1, 4, 4) and np.array_equal(rows, twice)
    weight = model.visual.vision.patch.proj.weight  # type: ignore[union-attr]
    both = F.conv3d(picture.repeat(2, 1, 1, 1).transpose(0, 1)[None], weight.view(-1, 3, 2, 14, 14), stride=(2, 14, 14))[0, :, 0]
    order = [(2 * i + a, 2 * j + b) for i in range(2) for j in range(2) for a in range(2) for b in range(2)]  # block after block
    close(torch.from_numpy(rows) @ weight.T, torch.stack([both[:, r, c] for r, c in order]))


def test_images_do_not_see_each_other(model: CompiledModel) -> None:
    """Packed together each gives what it gives alone, whatever stands beside it."""
    a, b, c = image(4, 6, 1), image(2, 4, 2), image(2, 2, 3)
    together = encode(model, a, b, c)
    close(together, torch.cat([encode(model, x) for x in (a, b, c)]))
    other = encode(model, a, b + 1, c)
    assert torch.equal(other[:6], together[:6]) and torch.equal(other[8:], together[8:])
    assert bool((other[6:8] != together[6:8]).any(-1).all())


def test_steps_of_time_do_not_see_each_other(model: CompiledModel) -> None:
    video = frames(4, 2, 4)
    before = encode(model, video)
    video[3] += 1
    after = encode(model, video)
    assert torch.equal(before[:2], after[:2]) and bool((before[2:] != after[2:]).any(-1).all())


def test_a_patch_sees_its_whole_image(model: CompiledModel) -> None:
    picture = image(4, 4)
    before = encode(model, picture)
    picture[:, :, :14, :14] += 1
    assert bool((encode(model, picture) != before).any(-1).all())


def test_an_image_is_a_video_of_two_equal_frames(model: CompiledModel) -> None:
    rows, grid = packed(image(4, 4))
    with torch.no_grad():
        as_video = model.programs["encode_video"](pixel_values_videos=rows, video_grid_thw=grid)["visual_video"]
    assert torch.equal(encode(model, frames(1, 4, 4)), as_video)


# ---- positions


def mrope(ids: Sequence[int] | Sequence[Sequence[int]], images: Any = (), videos: Any = (), mask: Any = None, next: str = "max") -> Any:
    op = MropePositions(IMAGE, VIDEO, 2, next)
    batch = torch.tensor(ids if isinstance(ids[0], list) else [ids])
    grids = [torch.tensor(g) if len(g) else None for g in (images, videos)]
    out = op(batch, grids[0], grids[1], None if mask is None else torch.tensor(mask))
    return {k: v.tolist() for k, v in out.items()}


def test_the_op_is_that_of_the_spec(model: CompiledModel) -> None:
    """What the examples below are computed with."""
    op: Any = model.positions
    assert (op.image, op.video, op.merge, op.rule) == (IMAGE, VIDEO, 2, "max")


def test_positions_of_text() -> None:
    """All three rows are 0, 1, 2, ...; nothing is gained or lost against the number of tokens."""
    out = mrope([5, 6, 7, 8])
    assert out["positions"] == [[[0, 1, 2, 3]]] * 3 and out["delta"] == [0] and out["next"] == [4]


def test_positions_of_an_image() -> None:
    """Text, start, an image of 2 x 3 tokens, end, two words: all rows begin at s; what follows begins at the largest + 1."""
    out = mrope([5, START, *[IMAGE] * 6, STOP, 7, 8], images=[[1, 4, 6]])
    t, h, w = (rows[0] for rows in out["positions"])
    assert t == [0, 1, 2, 2, 2, 2, 2, 2, 5, 6, 7]
    assert h == [0, 1, 2, 2, 2, 3, 3, 3, 5, 6, 7]
    assert w == [0, 1, 2, 3, 4, 2, 3, 4, 5, 6, 7]
    assert out["delta"] == [-3] and out["next"] == [8]


def test_positions_of_a_video() -> None:
    """Three steps of 1 x 2 tokens: the first row counts the steps."""
    out = mrope([START, *[VIDEO] * 6, STOP], videos=[[3, 2, 4]])
    assert [rows[0] for rows in out["positions"]] == [[0, 1, 1, 2, 2, 3, 3, 4], [0, 1, 1, 1, 1, 1, 1, 4], [0, 1, 2, 1, 2, 1, 2, 4]]


def test_a_long_video_takes_as_many_positions_as_steps() -> None:
    """Paper and original code: the largest of all three rows + 1 is next. transformers 5.23 forgets the frames: 4 in the place of 7."""
    ids = [5, START, *[VIDEO] * 10, 8]
    assert mrope(ids, videos=[[5, 2, 4]])["positions"][0][0][-1] == 7
    assert mrope(ids, videos=[[5, 2, 4]], next="max_hw")["positions"][0][0][-1] == 4


def test_positions_of_several_images_and_a_video() -> None:
    ids = [START, *[IMAGE] * 2, STOP, START, *[VIDEO] * 4, STOP, START, *[IMAGE] * 3, STOP]
    out = mrope(ids, images=[[1, 2, 4], [1, 6, 2]], videos=[[2, 4, 2]])
    assert [rows[0] for rows in out["positions"]] == [
        [0, 1, 1, 3, 4, 5, 5, 6, 6, 7, 8, 9, 9, 9, 12],
        [0, 1, 1, 3, 4, 5, 6, 5, 6, 7, 8, 9, 10, 11, 12],
        [0, 1, 2, 3, 4, 5, 5, 5, 5, 7, 8, 9, 9, 9, 12],
    ]


def test_positions_of_a_batch_padded_on_the_left() -> None:
    """Grids are dealt out row by row; padding takes no position, so each row counts as it does alone."""
    first, second = [START, *[IMAGE] * 2, STOP, 5], [START, IMAGE, STOP]
    out = mrope([first, [PAD, PAD, *second]], images=[[1, 2, 4], [1, 2, 2]], mask=[[1] * 5, [0, 0, 1, 1, 1]])
    alone = [mrope(first, images=[[1, 2, 4]]), mrope(second, images=[[1, 2, 2]])]
    assert [rows[0] for rows in out["positions"]] == [rows[0] for rows in alone[0]["positions"]]
    assert [rows[1][2:] for rows in out["positions"]] == [rows[0] for rows in alone[1]["positions"]]
    assert out["delta"] == [-0, 0] and out["next"] == [5, 3]


def test_grids_and_placeholders_must_agree(model: CompiledModel) -> None:
    rows, grid = packed(image(4, 4))
    ids = torch.tensor([[START, *[IMAGE] * 3, STOP]])
    with pytest.raises(DiagnosticError, match="VG0724"):
        model(input_ids=ids, pixel_values=rows, image_grid_thw=grid)


def test_bands_of_frequencies() -> None:
    """Section 2.1 as published: theta 1e6, 64 frequencies; 0-15 turn with time, 16-39 with height, 40-63 with width, each row's band in
    one piece; then the same again for the second half of the head."""
    rope: Any = meta("qwen2-vl").llm.rope  # type: ignore[union-attr]
    places = torch.tensor([[[3, 700]], [[5, 20]], [[11, 1]]])
    cos, sin = rope(places)
    speed = 1e6 ** (-torch.arange(64, dtype=torch.float64) / 64)
    row = torch.tensor([0] * 16 + [1] * 24 + [2] * 24)
    angle = places[row, 0].T.double() * speed
    close(cos[0], torch.cat([angle, angle], -1).cos(), 2e-5)
    close(sin[0], torch.cat([angle, angle], -1).sin(), 2e-5)


# ---- the decoder


def decoder(model: CompiledModel, x: Tensor, places: Tensor, sections: tuple[int, ...] = (2, 2, 2)) -> Tensor:
    """Qwen2 by hand: x [1, N, width], places [3, N] → states after the last norm. Two heads share keys and values."""
    s = state(model.llm)
    row = torch.repeat_interleave(torch.arange(3), torch.tensor(sections))
    half = len(row)
    angle = (places[row].T.double() * 1e6 ** (-torch.arange(half, dtype=torch.float64) / half))[:, None]

    def turn(y: Tensor, heads: int) -> Tensor:
        y = y.unflatten(-1, (heads, -1))
        a, b = y[..., :half], y[..., half:]
        return torch.cat([a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()], -1)

    for i in range(depth(s)):
        block = below(s, f"layers.{i}.")
        y = rms_norm(block, "norms.attention", x, 1e-6)
        q, k, v = (linear(block, f"attention.{n}", y) for n in "qkv")
        k, v = (z.repeat_interleave(2, 2).flatten(2) for z in (turn(k, 2), v.unflatten(-1, (2, -1))))
        x = x + linear(block, "attention.out", softmax_attention(turn(q, 4).flatten(2), k, v, 4, causal=True))
        x = x + swiglu(block, "mlp", rms_norm(block, "norms.mlp", x, 1e-6))
    return rms_norm(s, "final_norm", x, 1e-6)


def test_text_only_is_qwen2(model: CompiledModel) -> None:
    """With one position a token: the same as 1-D RoPE; no part of vision runs."""
    ids = random_ids(1, 9)
    nodes = model.programs["forward"].graph(frozenset({"input_ids"})).nodes
    assert not {n.component for n in nodes} & {"visual.vision", "visual.mlp", "visual.norm", "visual.merge", "splice"}
    wanted = decoder(model, model.embed(ids).double(), torch.arange(9).expand(3, 9)) @ state(model.head)["proj.weight"].T
    close(logits(model, input_ids=ids), wanted)


def multimodal() -> dict[str, Tensor]:
    """Words, an image of 2 x 3 tokens, words, a video of 3 x 1 x 2 tokens, words."""
    ids = torch.tensor([[7, START, *[IMAGE] * 6, STOP, 9, 11, START, *[VIDEO] * 6, STOP, 13, 17]])
    rows, grid = packed(image(4, 6))
    clips, video_grid = packed(frames(6, 2, 4, seed=2))
    return {"input_ids": ids, "pixel_values": rows, "image_grid_thw": grid, "pixel_values_videos": clips, "video_grid_thw": video_grid}


def test_the_whole_model(model: CompiledModel) -> None:
    """Features overwrite their placeholders in order, positions are those of the grids, and every band turns with its own row."""
    inputs = multimodal()
    x = model.embed(inputs["input_ids"]).double()
    x[0, 2:8], x[0, 12:18] = tower(model, image(4, 6)), tower(model, frames(6, 2, 4, seed=2))
    t = [0, 1, *[2] * 6, 5, 6, 7, 8, 9, 9, 10, 10, 11, 11, 12, 13, 14]
    h = [0, 1, 2, 2, 2, 3, 3, 3, 5, 6, 7, 8, *[9] * 6, 12, 13, 14]
    w = [0, 1, 2, 3, 4, 2, 3, 4, 5, 6, 7, 8, 9, 10, 9, 10, 9, 10, 12, 13, 14]
    wanted = decoder(model, x, torch.tensor([t, h, w])) @ state(model.head)["proj.weight"].T
    close(logits(model, **inputs), wanted)


def test_pictures_reach_what_follows_them(model: CompiledModel) -> None:
    inputs = multimodal()
    before = logits(model, **inputs)
    after = logits(model, **{**inputs, "pixel_values": inputs["pixel_values"] + 1})
    assert torch.equal(before[:, :2], after[:, :2]) and bool((before[:, 2:] != after[:, 2:]).any(-1).all())
    after = logits(model, **{**inputs, "pixel_values_videos": inputs["pixel_values_videos"] + 1})
    assert torch.equal(before[:, :12], after[:, :12]) and bool((before[:, 12:] != after[:, 12:]).any(-1).all())


# ---- decoding


def test_decoding_goes_on_behind_the_largest_position(model: CompiledModel) -> None:
    """A new token stands at cache length + delta in all three rows; delta is next - tokens, -9 here: the image spans 3 positions with
    6 tokens, the video 3 with 6."""
    inputs = multimodal()
    op: Any = model.positions
    out = op(inputs["input_ids"], inputs["image_grid_thw"], inputs["video_grid_thw"])
    assert out["delta"].tolist() == [-6] and out["next"].tolist() == [15]
    step = op(torch.tensor([[5]]), next=out["next"])
    assert step["positions"].tolist() == [[[21 - 6]]] * 3 and step["next"].tolist() == [16]


def batch() -> dict[str, Tensor]:
    """Three prompts: an image, a video longer than wide, text alone; the short ones padded on the left."""
    first = [7, START, *[IMAGE] * 6, STOP, 9, 11]
    second = [START, *[VIDEO] * 5, STOP, 13]
    third = [21, 22, 23]
    rows, grid = packed(image(4, 6))
    clips, video_grid = packed(frames(10, 2, 2, seed=2))
    width = len(first)
    ids = torch.tensor([[PAD] * (width - len(r)) + r for r in (first, second, third)])
    mask = torch.tensor([[0] * (width - len(r)) + [1] * len(r) for r in (first, second, third)])
    return {
        "input_ids": ids, "attention_mask": mask, "pixel_values": rows, "image_grid_thw": grid,
        "pixel_values_videos": clips, "video_grid_thw": video_grid,
    }  # fmt: skip


def test_cached_decoding_is_the_uncached(model: CompiledModel) -> None:
    for inputs in (multimodal(), batch()):
        cached = model.generate(**inputs, max_new_tokens=8)
        assert torch.equal(cached, model.generate(**inputs, max_new_tokens=8, use_cache=False))
        assert len(set(cached[0, -8:].tolist())) > 1


def test_prompts_in_a_batch_are_answered_as_alone(model: CompiledModel) -> None:
    whole = batch()
    together = model.generate(**whole, max_new_tokens=8)[:, -8:]
    media = [("pixel_values", "image_grid_thw"), ("pixel_values_videos", "video_grid_thw"), ()]
    for row, names in enumerate(media):
        ids = whole["input_ids"][row][whole["attention_mask"][row].bool()][None]
        alone = model.generate(input_ids=ids, **{n: whole[n] for n in names}, max_new_tokens=8)
        assert torch.equal(alone[0, -8:], together[row])


def test_each_step_computes_what_the_whole_sequence_would(model: CompiledModel) -> None:
    """Scores of the cached steps against one pass over prompt and answer, in which positions are counted anew."""
    inputs = multimodal()
    ids = model.generate(**inputs, max_new_tokens=5)
    whole = logits(model, **{**inputs, "input_ids": ids})[:, inputs["input_ids"].shape[1] - 1 : -1]
    assert torch.equal(whole.argmax(-1), ids[:, -5:])


# ---- boxes


def test_boxes(processor: Processor) -> None:
    """Coordinates over the side, times 1000, below 1000; tokens of their own around names and corners."""
    text = processor.codecs["boxes"].text(np.array([[56, 28, 112, 56]]), (112, 56), "the dog")
    assert text == "<|object_ref_start|>the dog<|object_ref_end|><|box_start|>(500,500),(999,999)<|box_end|>"
    [found] = processor.codecs["boxes"].parse(text, (112, 56))
    assert found.phrase == "the dog" and np.allclose(found.boxes, [[56, 28, 111.888, 55.944]])
    ids = processor(text=text)["input_ids"][0].tolist()
    assert [i for i in ids if i >= 300] == [307, 308, 309, 310]


def test_chat_template(processor: Processor) -> None:
    said = processor.apply_chat([{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Why?"}]}])
    assert said.startswith("<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n")
    assert said.endswith("<|image_pad|>Why?<|im_end|>\n<|im_start|>assistant\n")


# ---- training


def training() -> dict[str, Tensor]:
    inputs = multimodal()
    ids = inputs["input_ids"]
    return {**inputs, "labels": ids.masked_fill((ids == IMAGE) | (ids == VIDEO), -100)}


def test_objective(model: CompiledModel) -> None:
    """Cross entropy of the next token on text; placeholders are no words, also where labels hold them."""
    inputs = training()
    with torch.no_grad():
        loss = model.programs["objective.lm"](**inputs)["loss"]
        careless = model.programs["objective.lm"](**{**inputs, "labels": inputs["input_ids"]})["loss"]
    close(loss, next_token_loss(logits(model, **{k: v for k, v in inputs.items() if k != "labels"}), inputs["labels"]))
    close(careless, loss)


@pytest.mark.parametrize(
    ("stage", "parts"),
    [
        ("vit", ("visual.",)),
        ("joint", ("visual.", "llm.", "embed.", "head.")),
        ("sft", ("visual.mlp.", "visual.norm.", "llm.", "embed.", "head.")),
    ],
)
def test_stages(stage: str, parts: tuple[str, ...]) -> None:
    """Section 2.2: the tower with its merger, then all, then all but the tower."""
    model = fresh("qwen2-vl")
    assert trains(model, stage, training()) == {n for n, _ in model.named_parameters() if n.startswith(parts)}


def test_trained_parameters_of_the_published_size() -> None:
    """What the report counts for a stage is what trains in it."""
    trainable = {row.stage: row.trainable for row in measured("qwen2-vl").stages}
    assert trainable == {"vit": 675_759_104, "joint": 8_291_375_616, "sft": 8_291_375_616 - 631_183_360}
    model = meta("qwen2-vl")
    assert trainable == {stage: sum(model.get_parameter(n).numel() for n in begin(model, stage)) for stage in trainable}
    assert [s.after for s in graph("qwen2-vl").stages.values()] == ["", "vit", "joint"]
