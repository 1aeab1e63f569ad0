"""Idefics2 (Laurençon et al. 2024, arXiv 2405.02246): images at their own aspect ratio, a resampler with grouped heads, Mistral."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from torch import Tensor

import vlmgraph
from tests.architectures.common import (
    close,
    fresh,
    graph,
    lively,
    measured,
    meta,
    next_token_loss,
    noise,
    padded,
    placed,
    processor,
    published,
    random_ids,
    spec,
    trains,
)  # fmt: skip
from vlmgraph import codegen
from vlmgraph.diagnostics import DiagnosticError
from vlmgraph.report.measure import report
from vlmgraph.weights.import_config import import_config

AROUND, IMAGE, END, N = 317, 318, 319, 5  # of the tiny size: tokens, and latents of an image


@pytest.fixture(scope="module")
def model():
    return lively("idefics2")


def encode(model, images: Tensor, mask: Tensor | None = None) -> Tensor:
    given = {"pixel_values": images} | ({} if mask is None else {"pixel_attention_mask": mask})
    with torch.no_grad():
        return model.programs["encode_image"](**given)["resampler"]


def real(height: int, width: int, *sizes: tuple[int, int]) -> Tensor:
    """[1, M, height, width], 1 in the upper left corner of each size."""
    mask = torch.zeros(1, len(sizes), height, width, dtype=torch.long)
    for i, (rows, columns) in enumerate(sizes):
        mask[0, i, :rows, :columns] = 1
    return mask


def test_published_parameters() -> None:
    counts = published("idefics2")
    assert counts["total"] == 8_402_768_112 and counts["vision"] == 417_792_240
    assert (counts["projection"], counts["resampler"]) == (91_750_400, 651_468_800)
    assert counts["embed"] + counts["llm"] == 7_110_672_384 and counts["head"] == 131_084_288
    assert measured("idefics2").stages[0].by_component["embed"] == 3 * 4096, "of the table the added rows train"


def test_as_many_parameters_as_in_transformers() -> None:
    """At the published widths, of fewer layers."""
    tf = pytest.importorskip("transformers", minversion="5.0")
    tower = {
        "hidden_size": 1152,
        "intermediate_size": 4304,
        "num_hidden_layers": 2,
        "num_attention_heads": 16,
        "image_size": 980,
        "patch_size": 14,
    }
    words = {"model_type": "mistral", "vocab_size": 32003, "num_hidden_layers": 1}
    with torch.device("meta"):
        config = tf.Idefics2Config(vision_config=tower, text_config=words, perceiver_config={"resampler_depth": 1})
        theirs = tf.Idefics2ForConditionalGeneration(config)
    small = {"vision.layers": 2, "resampler.layers": 1, "llm.layers": 1, "expect.params": {"remove": True}}
    ours = vlmgraph.compile(vlmgraph.read_spec("idefics2", overrides=small), device="meta")
    split = {"embed.added.weight", "head.added.weight"}  # rows of their tables
    counts = sorted(p.numel() for n, p in ours.named_parameters() if n not in split | {"embed.tokens.weight", "head.proj.weight"})
    assert sorted([*counts, 32003 * 4096, 32003 * 4096]) == sorted(p.numel() for p in theirs.parameters())


def test_64_tokens_of_any_size() -> None:
    """The published size on the meta device; the window, heads and epsilons that no count tells."""
    model = meta("idefics2")
    for height, width in ((378, 378), (980, 735)):
        image = torch.empty(1, 2, 3, height, width, device="meta")
        assert model.programs["encode_image"](pixel_values=image)["resampler"].shape == (2, 64, 4096)
    parts = graph("idefics2").components
    assert (parts["llm"].rules, parts["llm"].window) == (("causal", "window"), 4096)
    assert (parts["resampler"].norm_eps, parts["vision"].norm_eps, parts["vision"].act) == (1e-5, 1e-6, "gelu_tanh")


@pytest.mark.parametrize(("size", "tokens", "quarters"), [((735, 980), 320, True), ((735, 980), 64, False)])
def test_visual_tokens(size: tuple[int, int], tokens: int, quarters: bool) -> None:
    tables: dict[str, Any] = {"pixel_values": {**spec("idefics2").data["processor"]["pixel_values"], "quarters": quarters}}
    made = report(graph("idefics2"), images=[size], processor=tables)
    assert made.by_image[0]["tokens"]["splice.vision"] == tokens
    # 52 x 70 patches of 14 pixels, five times where it is cut; a prompt of so many tokens and some words
    assert (made.dims["H"], made.dims["W"]) == (980, 735) and made.dims["T"] > tokens
    layer = 2 * 3640 * (4 * 1152**2 + 2 * 1152 * 4304) + 4 * 3640**2 * 1152
    work = next(p.flops for p in made.programs if p.name == "encode_image")
    assert 27 * layer < work / (5 if quarters else 1) < 1.35 * 27 * layer


def test_only_whole_patches_of_pixels_are_seen(model) -> None:
    """37 x 30 real pixels are 2 x 2 patches: what stands in the rest of their rows and columns, and behind, changes nothing."""
    images, mask = noise(1, 1, 3, 56, 42), real(56, 42, (37, 30))
    out = encode(model, images, mask)
    beside = noise(1, 1, 3, 56, 42, seed=7)
    beside[..., :28, :28] = images[..., :28, :28]
    assert torch.equal(encode(model, beside, mask), out)
    close(encode(model, images[..., :28, :28]), out, 2e-6)
    inside = images.clone()
    inside[..., 27, 27] += 1
    assert (encode(model, inside, mask) - out).abs().max() > 1e-3
    assert (encode(model, images, real(56, 42, (42, 30))) - out).abs().max() > 1e-3, "three rows of patches are others"


def test_an_image_is_spread_over_the_whole_table(model) -> None:
    """2 x 1 patches take rows 0 and 2 of a table of 4 x 4, not 0 and 1; a whole grid is read in order."""
    patches = {n: model.vision.position.places(*n, None, torch.device("cpu"))[0].tolist() for n in ((2, 1), (4, 4), (1, 3))}
    assert patches == {(2, 1): [0, 8], (4, 4): list(range(16)), (1, 3): [0, 1, 2]}


def test_images_of_a_batch_do_not_see_each_other(model) -> None:
    """Each of three sizes in one padded array gives what it gives alone; zeros are no image, wherever they stand."""
    sizes = [(56, 28), (28, 42), (30, 56)]
    images, mask = noise(1, 3, 3, 56, 56), real(56, 56, *sizes)
    images = images * mask[:, :, None]
    out = encode(model, images, mask)
    for i, (height, width) in enumerate(sizes):
        close(out[i : i + 1], encode(model, images[:, i : i + 1, :, :height, :width]), 2e-6)
    blank = torch.zeros(1, 1, 3, 56, 56)
    wider = torch.cat([images[:, :1], blank, images[:, 1:]], 1), torch.cat([mask[:, :1], mask[:, :1], mask[:, 1:]], 1)
    assert torch.equal(encode(model, *wider), out)


def test_order_of_tokens_does_not_matter_to_the_resampler(model) -> None:
    """It has no positions: what the tower says of a place is all there is."""
    tokens, mask = noise(2, 9, 48), torch.ones(2, 9, dtype=torch.bool)
    mask[1, 6:] = False
    order = torch.tensor([3, 0, 5, 1, 4, 2, 8, 7, 6])
    with torch.no_grad():
        close(model.resampler(tokens[:, order], mask[:, order]), model.resampler(tokens, mask), 2e-6)


def test_latents_start_as_ones() -> None:
    fresh_model = fresh("idefics2")
    assert torch.equal(fresh_model.resampler.queries, torch.ones(N, 48))
    out = encode(fresh_model, noise(1, 1, 3, 42, 28))
    close(out, out[:, :1].expand_as(out), 1e-6)


def given(model) -> dict[str, Tensor]:
    """Two samples: two images and one, the second prompt padded at the left."""
    images, mask = noise(2, 2, 3, 42, 56), torch.cat([real(42, 56, (42, 28), (28, 56)), real(42, 56, (28, 42), (0, 0))])
    first = placed(random_ids(1, 18), IMAGE, (0, 2, N), (0, 8, N))
    second, seen = padded(placed(random_ids(1, 12, seed=3), IMAGE, (0, 1, N)), torch.ones(1, 12, dtype=torch.long), left=6)
    attention = torch.cat([torch.ones(1, 18, dtype=torch.long), seen])
    ids = torch.cat([placed(first, AROUND, (0, 7, 1)), second])
    return {"pixel_values": images * mask[:, :, None], "pixel_attention_mask": mask, "input_ids": ids, "attention_mask": attention}


def test_images_go_to_their_sample_in_reading_order(model) -> None:
    inputs = given(model)
    with torch.no_grad():
        out = model(**inputs)["logits"]
        alone = model(pixel_values=inputs["pixel_values"][1:, :1, :, :28, :42], input_ids=inputs["input_ids"][1:, 6:])["logits"]
        swapped = model(
            **{**inputs, "pixel_values": inputs["pixel_values"].flip(1), "pixel_attention_mask": inputs["pixel_attention_mask"].flip(1)}
        )
    close(out[1:, 6:], alone, 5e-6)
    assert (swapped["logits"][0, 2] - out[0, 2]).abs().max() > 1e-3
    close(swapped["logits"][1:, 6:], out[1:, 6:], 5e-6)


def test_text_alone_needs_no_vision(model) -> None:
    ids = random_ids(2, 7)
    with torch.no_grad():
        out = model(input_ids=ids)["logits"]
        by_hand = model.head(model.llm(model.embed(ids)))
    assert torch.equal(out, by_hand)
    with pytest.raises(DiagnosticError, match="nothing is given for it"):
        model(input_ids=placed(ids, IMAGE, (0, 2, N)))


def test_decoding_with_a_cache(model) -> None:
    inputs = given(model)
    assert torch.equal(model.generate(**inputs, max_new_tokens=5), model.generate(**inputs, max_new_tokens=5, use_cache=False))


@torch.no_grad()
def test_generated_source_is_the_same(model) -> None:
    space: dict[str, Any] = {"__name__": "generated"}
    source = codegen.source(model)
    exec(compile(source, "model.py", "exec"), space)
    theirs = space["Model"]().eval()
    theirs.load_state_dict(model.state_dict())
    inputs = given(model)
    assert torch.equal(theirs(**inputs)["logits"], model(**inputs)["logits"])
    unmasked = {name: value for name, value in inputs.items() if name != "pixel_attention_mask"}
    assert torch.equal(theirs(**unmasked)["logits"], model(**unmasked)["logits"]) and "import vlmgraph" not in source
    assert torch.equal(theirs(input_ids=inputs["input_ids"][1:, 12:])["logits"], model(input_ids=inputs["input_ids"][1:, 12:])["logits"])


def test_placeholders_are_no_targets(model) -> None:
    inputs = given(model)
    labels = inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, -100)
    with torch.no_grad():
        loss = model.programs["objective.lm"](**inputs, labels=labels)["loss"]
        logits = model(**inputs)["logits"]
    close(loss, next_token_loss(logits, labels, [IMAGE]).to(loss.dtype), 1e-6)


def test_stages() -> None:
    """Tower, connector, decoder and the added rows train, the table of words and the head's stay; pictures are small at first."""
    inputs = given(None)
    model = fresh("idefics2")
    names = trains(model, "pretrain", {**inputs, "labels": inputs["input_ids"]})
    assert {n for n, _ in model.named_parameters()} - names == {"embed.tokens.weight", "head.proj.weight"}
    entry = {
        stage: processor("idefics2", None, stage=stage).entries.media["pixel_values"] for stage in ("pretrain", "documents", "instruct")
    }
    assert [(e.longest, e.quarters) for e in entry.values()] == [(384, False), (980, False), (980, True)]


@pytest.mark.slow
def test_learns_digits_of_any_aspect_ratio() -> None:
    """Four digits, each stretched to a size of its own and padded: words for them are learnt from 540 pictures, asked of 180 others."""
    data = pytest.importorskip("sklearn.datasets").load_digits(n_class=4)
    source = torch.Generator().manual_seed(0)
    order = torch.randperm(len(data.target), generator=source)
    shapes, names = torch.tensor(data.images, dtype=torch.float32)[order, None] / 8 - 1, torch.tensor(data.target)[order]

    def batch(chosen: Tensor) -> dict[str, Tensor]:
        images, mask = torch.zeros(len(chosen), 1, 3, 56, 56), torch.zeros(len(chosen), 1, 56, 56, dtype=torch.long)
        for i, one in enumerate(chosen.tolist()):
            height, width = torch.randint(40, 57, (2,), generator=source).tolist()
            images[i, 0, :, :height, :width] = torch.nn.functional.interpolate(shapes[one, None], (height, width), mode="bilinear")
            mask[i, 0, :height, :width] = 1
        ids = torch.tensor([[1, AROUND, *[IMAGE] * N, AROUND, 50, 0]] * len(chosen))
        ids[:, -1] = 200 + names[chosen]
        return {"pixel_values": images, "pixel_attention_mask": mask, "input_ids": ids}

    model = fresh("idefics2")
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    for _ in range(250):
        inputs = batch(torch.randint(540, (16,), generator=source))
        logits = model(**{**inputs, "input_ids": inputs["input_ids"][:, :-1]})["logits"][:, -1]
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(logits, inputs["input_ids"][:, -1]).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    with torch.no_grad():
        inputs = batch(torch.arange(540, 720))
        logits = model(**{**inputs, "input_ids": inputs["input_ids"][:, :-1]})["logits"][:, -1]
    assert (logits.argmax(-1) == inputs["input_ids"][:, -1]).float().mean() > 0.7


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        (("vision_config", "num_channels"), 1, "num_channels = 1 is not supported"),
        (("vision_config", "image_size"), [56, 56], "image_size = .* is not supported"),
        (("perceiver_config", "hidden_act"), "mish", 'perceiver_config.hidden_act = "mish" is not supported'),
        (("perceiver_config", "qk_norm"), True, "no rule explains perceiver_config.qk_norm"),
        (
            ("text_config", "rope_parameters"),
            {"rope_type": "proportional", "rope_theta": 1e4, "factor": 2.0},
            'rope_type = "proportional" is not supported',
        ),
        (("text_config", "model_type"), "gpt2", "for which idefics2 has no rules"),
        (("image_splitting",), True, "no rule explains image_splitting"),
    ],
)
def test_what_is_not_computed_is_refused(path: tuple[str, ...], value: object, said: str, tmp_path: Path) -> None:
    config: dict[str, Any] = {
        "model_type": "idefics2",
        "vision_config": {},
        "perceiver_config": {},
        "text_config": {"model_type": "mistral"},
    }
    table = config
    for name in path[:-1]:
        table = table[name]
    table[path[-1]] = value
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(DiagnosticError, match=said):
        import_config(tmp_path / "config.json")


def test_a_configuration_as_published(tmp_path: Path) -> None:
    """Sub-configurations under the old model type; the resampler's epsilon is its own where it is as wide as the decoder."""
    config = {
        "model_type": "idefics2", "image_token_id": 32001, "tie_word_embeddings": False,
        "perceiver_config": {"model_type": "idefics2", "resampler_n_latents": 64, "resampler_depth": 3, "num_key_value_heads": 4},
        "text_config": {"model_type": "mistral", "vocab_size": 32003, "max_position_embeddings": 32768, "rms_norm_eps": 1e-5},
        "vision_config": {
            "model_type": "idefics2", "hidden_size": 1152, "image_size": 980, "intermediate_size": 4304, "num_attention_heads": 16,
            "num_hidden_layers": 27, "patch_size": 14,
        },
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config))
    read = vlmgraph.read_spec(import_config(tmp_path / "config.json").spec)
    assert [d for d in vlmgraph.check(read) if d.severity == "error"] == []  # the ids of words are for a tokenizer's file to say
    made = vlmgraph.compile(read, device="meta")
    assert sum(p.numel() for p in made.parameters()) == 8_402_768_112
    assert made.resampler.final_norm.eps == 1e-6 and made.llm.final_norm.eps == 1e-5 and made.llm.window == 4096


def test_whole_calls_as_in_transformers(tmp_path: Path) -> None:
    """Ids, masks and pixels of prompts: pictures side by side, words right behind a picture, several samples, with and without quarters."""
    pytest.importorskip("transformers", minversion="5.0")
    import transformers as tf
    from transformers.models.idefics2.image_processing_pil_idefics2 import Idefics2ImageProcessorPil

    from tests.processor.test_parity_text import pair, same

    names = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<unk>"}
    ours, tokenizer = pair(tmp_path, "idefics2", names, start="<s>")
    tokenizer.padding_side = "left"
    rng = np.random.default_rng(4)
    shown = [PIL.Image.fromarray(rng.integers(0, 256, (h, w, 3), dtype=np.uint8)) for h, w in ((60, 90), (64, 50), (20, 33))]
    texts = ["User:<image>What is in it?<image> the<end_of_utterance>\nAssistant:", "the <image>\n", "no picture at all"]
    by_text = [[shown[0], shown[1]], [shown[2]], []]
    for quarters in (True, False):
        entry = ours.entries.media["pixel_values"]
        ours.entries.media["pixel_values"] = entry.model_copy(update={"quarters": quarters})
        image = Idefics2ImageProcessorPil(size={"shortest_edge": 30, "longest_edge": 70}, do_image_splitting=quarters)
        reference = tf.Idefics2Processor(image, tokenizer, image_seq_len=5)
        for said, given in (
            (texts[:2], by_text[:2]),
            (["<image><image>x", "a<image>"], [shown[:2], shown[2:]]),
            (["<image>\n\nin<image>"], [shown[:2]]),
        ):
            wanted = reference(text=said, images=given, padding=True, return_tensors="np")
            got = ours(said, given)
            same(got, wanted, "input_ids", "attention_mask", "pixel_attention_mask")
            assert np.abs(got["pixel_values"] - wanted["pixel_values"]).max() <= 1.01 * 2 / 255


def test_conversation_as_published() -> None:
    """No space where a message begins with a picture; the closing newline behind every end of an utterance; answers are trained."""
    made = processor("idefics2", None)
    said = [
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What?"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "A cat."}]},
        {"role": "user", "content": [{"type": "text", "text": "And "}, {"type": "image"}, {"type": "text", "text": "?"}]},
    ]
    written = "User:<image>What?<end_of_utterance>\nAssistant: A cat.<end_of_utterance>\nUser: And <image>?<end_of_utterance>\n"
    assert made.apply_chat(said) == written + "Assistant:"
    row = made(messages=said, images=[PIL.Image.new("RGB", (30, 20)), PIL.Image.new("RGB", (20, 30))], train=True)
    learnt = row["labels"][row["labels"] >= 0]
    assert made.decode(learnt, skip_special=False) == "A cat.<end_of_utterance>"
    ids = row["input_ids"][0]
    assert (ids == 32001).sum() == 2 * 5 * 64 and (ids == 32000).sum() == 2 * 6 and ids[0] == 1
