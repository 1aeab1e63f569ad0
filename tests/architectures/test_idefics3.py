"""Idefics3 (Laurençon et al. 2024, arXiv 2408.12637): tiles named by row and column, pixel shuffle and one linear layer."""

from __future__ import annotations

import json
from pathlib import Path

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
    measured,
    moved,
    noise,
    padded,
    placed,
    processor,
    published,
    random_ids,
    spec,
    trains,
)  # fmt: skip
from vlmgraph import api
from vlmgraph.processor.model import model_processor
from vlmgraph.report.measure import report
from vlmgraph.weights.import_config import import_config

IMAGE, N = 318, 4  # of the tiny size: placeholder, tokens of a tile


@pytest.fixture(scope="module")
def model():
    return lively("idefics3")


def encode(model, images: Tensor, mask: Tensor | None = None) -> Tensor:
    given = {"pixel_values": images} | ({} if mask is None else {"pixel_attention_mask": mask})
    with torch.no_grad():
        return model.programs["encode_image"](**given)["projector"]


def logits(model, ids: Tensor, **given: Tensor) -> Tensor:
    with torch.no_grad():
        return model(input_ids=ids, **given)["logits"]


def test_published_parameters() -> None:
    counts = published("idefics3")
    assert counts["total"] == 8_462_086_384 and counts["vision"] == 412_926_192
    assert counts["projector"] == 4608 * 4096 and counts["embed"] == counts["head"] == 128_259 * 4096
    tf = pytest.importorskip("transformers", minversion="5.0")
    words = {"model_type": "llama", "vocab_size": 128_259, "hidden_size": 4096, "intermediate_size": 14336, "num_key_value_heads": 8}
    tower = {"num_hidden_layers": 27, "intermediate_size": 4304, "patch_size": 14, "image_size": 364}
    with torch.device("meta"):
        theirs = tf.Idefics3ForConditionalGeneration(tf.Idefics3Config(text_config=words, vision_config=tower))
    assert sum(p.numel() for p in theirs.parameters()) == counts["total"]


def test_published_configuration(tmp_path: Path) -> None:
    """The file as published, with what the training code left in it: the model of this spec, embedding and head in one table each."""
    left = {"_flash_attn_2_enabled": True, "neftune_noise_alpha": 0.0, "pixel_shuffle_factor": 2, "use_resampler": False,
        "perceiver_config": {"resampler_depth": 6}, "qk_layer_norms": False, "rope_interleaved": False}  # fmt: skip
    rope = {"factor": 8.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0, "original_max_position_embeddings": 8192, "rope_type": "llama3"}
    words = {"hidden_size": 4096, "intermediate_size": 14336, "max_position_embeddings": 131072, "model_type": "llama",
        "num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 8, "rms_norm_eps": 1e-5, "rope_scaling": rope,
        "rope_theta": 500000.0, "vocab_size": 128259}  # fmt: skip
    tower = {"hidden_size": 1152, "image_size": 364, "intermediate_size": 4304, "model_type": "idefics3", "num_attention_heads": 16,
        "num_hidden_layers": 27, "patch_size": 14, "size": {"longest_edge": 1820}}  # fmt: skip
    config = {"model_type": "idefics3", "image_seq_len": 169, "image_token_id": 128257, "scale_factor": 2, "pad_token_id": 128002,
        "text_config": words | left, "vision_config": tower, "tie_word_embeddings": False}  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config))
    found = api.elaborate(vlmgraph.read_spec(import_config(tmp_path / "config.json").spec))
    own = graph("idefics3").components
    assert report(found).total == 8_462_086_384
    assert found.components["vision"] == own["vision"] and found.components["real"] == own["real"]
    assert found.components["llm"].sense() == own["llm"].model_copy(update={"vocab": 128_259}).sense()


@pytest.mark.parametrize(("height", "width", "tiles"), [(1080, 1920, 13), (600, 800, 13), (1000, 1000, 17), (400, 1600, 5), (300, 300, 17)])
def test_published_tokens(height: int, width: int, tiles: int) -> None:
    """169 of every tile and of the whole picture, small ones enlarged."""
    found = report(graph("idefics3"), images=[(width, height)], processor=spec("idefics3").data["processor"]).by_image
    assert found[0]["tokens"] == {"splice.vision": 169 * tiles}


def test_four_patches_and_one_linear_layer(model) -> None:
    """Token (i, j) is the matrix times the patches (2i, 2j), (2i, 2j + 1), (2i + 1, 2j), (2i + 1, 2j + 1), one behind the other."""
    images = noise(1, 2, 3, 56, 56)
    with torch.no_grad():
        grid = model.vision(images[0]).unflatten(1, (4, 4))
        rows = [torch.cat([grid[:, 2 * i + a, 2 * j + b] for a in (0, 1) for b in (0, 1)], -1) for i in (0, 1) for j in (0, 1)]
        wanted = torch.stack(rows, 1) @ model.projector.proj.weight.T
    close(encode(model, images), wanted, 1e-6)
    assert model.projector.proj.bias is None and wanted.shape == (2, N, 48)


def test_padding_is_left_out(model) -> None:
    """Three tiles and one in two samples: the logits of each alone, whatever their masks say of the zeros."""
    images, mask = noise(2, 3, 3, 56, 56), torch.ones(2, 3, 56, 56, dtype=torch.long)
    images[1, 1:], mask[1, 1:] = 0, 0
    ids = placed(random_ids(2, 20), IMAGE, (0, 1, N), (0, 7, N), (0, 14, N), (1, 3, N))
    both = logits(model, ids, pixel_values=images, pixel_attention_mask=mask)
    close(both[:1], logits(model, ids[:1], pixel_values=images[:1]), 2e-6)
    close(both[1:], logits(model, ids[1:], pixel_values=images[1:, :1]), 2e-6)
    assert encode(model, images).shape == (4, N, 48)


def test_positions_are_those_of_a_full_grid(model) -> None:
    """A whole tile has the rows 0, 1, 2, ... of the table; one that fills half of its height spreads over all rows of the grid."""
    places = model.vision.position.places
    assert places(4, 4, None, torch.device("cpu")).tolist() == [list(range(16))]
    half = torch.zeros(1, 4, 4, dtype=torch.bool)
    half[:, :2] = True
    assert places(4, 4, half.flatten(1), torch.device("cpu")).tolist() == [[0, 1, 2, 3, 8, 9, 10, 11, *[0] * 8]]


def test_a_patch_of_one_real_pixel_is_real(model) -> None:
    """28 + 1 rows of pixels are three rows of patches; pixels of the fourth move nothing but their own tokens."""
    images, mask = noise(1, 1, 3, 56, 56), torch.zeros(1, 1, 56, 56, dtype=torch.long)
    mask[..., :29, :] = 1
    before = encode(model, images, mask)
    other = images.clone()
    other[..., 42:, :] += 1
    assert moved(before[:, :2].reshape(1, 2, -1), encode(model, other, mask)[:, :2].reshape(1, 2, -1)) == [False, False]
    other[..., 28:29, :] += 1
    assert moved(before, encode(model, other, mask)) == [True] * N
    full = encode(model, images, torch.ones_like(mask))
    assert torch.equal(full, encode(model, images)) and not torch.equal(full, before)


def test_text_alone_is_the_decoder(model) -> None:
    """And what stands before a picture does not see it."""
    ids = random_ids(1, 9)
    with torch.no_grad():
        x = model.llm(model.embed(ids))
        close(logits(model, ids), model.head(x), 1e-6)
    ids = placed(random_ids(1, 14), IMAGE, (0, 5, N))
    out = [logits(model, ids, pixel_values=noise(1, 1, 3, 56, 56, seed=seed)) for seed in (1, 2)]
    assert moved(*out) == [False] * 5 + [True] * 9
    with changed(model, "embed.added"):
        assert torch.equal(logits(model, ids, pixel_values=noise(1, 1, 3, 56, 56)), out[0]), "the placeholder's row is never read"


def test_left_padding(model) -> None:
    ids = placed(random_ids(1, 12), IMAGE, (0, 2, N))
    row, mask = padded(ids, torch.ones_like(ids), left=3)
    image = noise(1, 1, 3, 56, 56)
    close(logits(model, row, pixel_values=image, attention_mask=mask)[:, 3:], logits(model, ids, pixel_values=image), 2e-6)


def test_prompt_as_in_transformers(tmp_path: Path) -> None:
    """Two texts, three pictures, one tokenizer file: the same ids, masks and tiles; names of tiles are text in pieces."""
    tf = pytest.importorskip("transformers", minversion="5.0")
    from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil

    from tests.processor.test_parity_text import library

    own, start = graph("idefics3", "tiny"), "<|begin_of_text|>"
    made = library(dict(own.tokens), start=start)
    made.save(str(tmp_path / "tokenizer.json"))
    usual = {"bos_token": start, "pad_token": "<|reserved_special_token_0|>", "padding_side": "left"}
    tokenizer = tf.PreTrainedTokenizerFast(tokenizer_object=made, clean_up_tokenization_spaces=False, **usual)
    half = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "size": {"longest_edge": 168}, "max_image_size": {"longest_edge": 56}}
    theirs = tf.Idefics3Processor(Idefics3ImageProcessorPil(**half), tokenizer, image_seq_len=N)
    ours = model_processor(spec("idefics3", "tiny"), own, tmp_path)
    pictures = [PIL.Image.effect_mandelbrot(size, (-2, -1, 1, 1), 50).convert("RGB") for size in ((90, 60), (40, 40), (200, 30))]
    texts = ["what is in <image>the <image>?", "<image>the end"]
    wanted = theirs(text=texts, images=[pictures[:2], pictures[2:]], padding=True, return_tensors="np")
    got = ours(texts, images=pictures)
    assert got["input_ids"].tolist() == wanted["input_ids"].tolist()
    for name in ("attention_mask", "pixel_attention_mask"):
        assert (got[name] == wanted[name]).all(), name
    assert got["pixel_values"].shape == wanted["pixel_values"].shape == (2, 7 + 10, 3, 56, 56)
    assert abs(got["pixel_values"] - wanted["pixel_values"]).max() <= 1.01 * 2 / 255
    assert (got["input_ids"] == IMAGE).sum() == N * (7 + 10 + 4)


def test_a_folder_with_another_tokenizer(tmp_path: Path) -> None:
    """Its placeholder is known from config.json; of the spec's other tokens those that it has are used, and no start token is made up."""
    pytest.importorskip("transformers", minversion="5.0")
    from tests.processor.test_parity_text import library

    tower = {"hidden_size": 40, "num_attention_heads": 5, "num_hidden_layers": 1, "image_size": 56, "patch_size": 14}
    words = {"model_type": "llama", "vocab_size": 340, "hidden_size": 48, "num_attention_heads": 6, "num_hidden_layers": 1}
    config = {"model_type": "idefics3", "image_token_id": 301, "vision_config": tower, "text_config": words}
    (tmp_path / "config.json").write_text(json.dumps(config))
    library({"<image>": 301, "<row_1_col_1>": 302, "<fake_token_around_image>": 303}).save(str(tmp_path / "tokenizer.json"))
    read = vlmgraph.read_spec(import_config(tmp_path / "config.json").spec, overrides={"processor.pixel_values.longest": 112})
    row = model_processor(read, api.elaborate(read), tmp_path)("<image>", images=PIL.Image.new("RGB", (20, 10)))
    ids = row["input_ids"][0].tolist()
    assert ids[:6] == [303, 302, 301, 301, 301, 301] and ids.count(301) == 3 * N and ids[-1] == 303


def test_conversation(model) -> None:
    """The published turn, and pictures whose tiles the model takes."""
    own = processor("idefics3")
    said = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What?"}]}]
    assert own.apply_chat(said) == "User:<image>What?<end_of_utterance>\nAssistant:"
    assert own.apply_chat([{"role": "user", "content": "Hi."}]) == "User: Hi.<end_of_utterance>\nAssistant:"
    row = own(messages=said, images=PIL.Image.new("RGB", (60, 30)))
    assert row["pixel_values"].shape == (1, 7, 3, 56, 56) and (row["input_ids"] == IMAGE).sum() == 7 * N
    given = {name: torch.from_numpy(value) for name, value in row.items()}
    ids = model.generate(**given, max_new_tokens=3)
    assert torch.equal(ids, model.generate(**given, max_new_tokens=3, use_cache=False))


@pytest.mark.parametrize(
    ("stage", "parts"), [("connector", "projector embed.added head.added"), ("documents", "vision projector llm embed.added head.added")]
)
def test_stages(stage: str, parts: str) -> None:
    ids = placed(random_ids(1, 12), IMAGE, (0, 2, N))
    ids[0, 8:10] = torch.tensor([317, 319])  # rows that were added
    names = trains(fresh("idefics3"), stage, {"pixel_values": noise(1, 1, 3, 56, 56), "input_ids": ids, "labels": ids}, lr=5e-3)
    assert names == {n for n, _ in fresh("idefics3").named_parameters() if any(n.startswith(f"{p}.") for p in parts.split())}
    trainable = {s.stage: s.trainable for s in measured("idefics3").stages}
    assert trainable["connector"] == 4608 * 4096 + 2 * 3 * 4096


def test_resolution_grows_in_training() -> None:
    """One tile, then up to five along the long side."""
    sides = [table["processor.pixel_values.longest"] for table in spec("idefics3").data["stages"]["connector"]["set"]]
    assert sides == [364 * n for n in (1, 2, 3, 4, 5)]
