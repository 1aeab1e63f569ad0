"""LLaVA-1.5 (Liu et al. 2023, arXiv 2310.03744): CLIP at 336 px, a two-layer MLP, Vicuna v1.5."""

from __future__ import annotations

import numpy as np
import PIL.Image
import pytest
import torch
from torch import Tensor

import vlmgraph
from tests.architectures import by_hand
from tests.architectures.common import (
    changed,
    close,
    fresh,
    graph,
    lively,
    measured,
    meta,
    moved,
    next_token_loss,
    noise,
    placed,
    processor,
    published,
    random_ids,
    spec,
    trains,
)
from vlmgraph.diagnostics import DiagnosticError
from vlmgraph.ir.dims import Dim
from vlmgraph.report.tokens import visual_dims
from vlmgraph.train import batching

IMAGE, PAD, N = 300, 301, 9  # of the tiny size: placeholder, padding, tokens of an image


@pytest.fixture(scope="module")
def model():
    return lively("llava-1.5")


@pytest.fixture(scope="module")
def images() -> Tensor:
    return noise(3, 3, 42, 42)


@pytest.fixture(scope="module")
def ids() -> Tensor:
    """Two images in the first row, one in the second."""
    return placed(random_ids(2, 26), IMAGE, (0, 2, N), (0, 13, N), (1, 5, N))


def features_by_hand(model, images: Tensor) -> Tensor:
    """hidden_states[-2] of the tower, its class token dropped, through Linear, GELU (erf), Linear: [N, 9, 48]."""
    s = by_hand.state(model)
    x = by_hand.clip_vision(by_hand.below(s, "vision."), images, heads=5)[-2][:, 1:]
    return by_hand.linear(s, "projector.fc2", by_hand.gelu(by_hand.linear(s, "projector.fc1", x)))


def logits_by_hand(model, ids: Tensor, images: Tensor | None) -> Tensor:
    """Features over the placeholders in reading order; consecutive positions; causal everywhere."""
    s = by_hand.state(model)
    x = s["embed.tokens.weight"][ids]
    if images is not None:
        x[ids == IMAGE] = features_by_hand(model, images).flatten(0, 1)
    positions = torch.arange(ids.shape[1]).expand_as(ids)
    return by_hand.llama(by_hand.below(s, "llm."), x, positions, heads=6) @ s["head.proj.weight"].T


# ---- published numbers


@pytest.mark.parametrize(
    ("size", "total", "projector"), [(None, 7_063_427_072, 20_979_712), ("13b", 13_351_494_656, 31_467_520)], ids=["7b", "13b"]
)
def test_published_parameters(size: str | None, total: int, projector: int) -> None:
    counts = published("llava-1.5", size)
    assert (counts["total"], counts["vision"], counts["projector"]) == (total, 303_507_456, projector)


@pytest.mark.parametrize(("size", "total"), [(None, 7_062_902_784), ("13b", 13_350_839_296)], ids=["7b", "13b"])
def test_vicunas_own_vocabulary(size: str | None, total: int) -> None:
    """32000 ids; 32064 rows, <image> and <pad> exist only in the converted checkpoint."""
    rows = {None: 4096, "13b": 5120}[size]
    assert total == measured("llava-1.5", size).total - 2 * 64 * rows
    small = {"llm.vocab": 32000, "tokens": {"<image>": 0, "<pad>": 0}, "expect": {"remove": True}}
    model = vlmgraph.compile(vlmgraph.read_spec("llava-1.5", size=size, overrides=small), device="meta")
    assert sum(p.numel() for p in model.parameters()) == total


def test_published_visual_tokens() -> None:
    """(336 / 14)^2 = 576 for every image: of 577, the class token goes."""
    assert list(visual_dims(graph("llava-1.5")).values()) == [Dim.of(576)]
    model, image = meta("llava-1.5"), torch.empty(2, 3, 336, 336, device="meta")
    assert model.vision(image).shape == (2, 577, 1024)
    assert model.programs["encode_image"](pixel_values=image)["projector"].shape == (2, 576, 4096)
    ids = torch.empty(1, 2 * 576 + 9, dtype=torch.long, device="meta")
    assert model(pixel_values=image, input_ids=ids)["logits"].shape == (1, 2 * 576 + 9, 32064)


def test_published_constants() -> None:
    """Vicuna v1.5: RMS epsilon 1e-5 and 4096 positions (v1.1 has 1e-6 and 2048); CLIP: epsilon 1e-5."""
    model, llm = meta("llava-1.5"), graph("llava-1.5").components["llm"]
    assert {m.eps for n, m in model.llm.named_modules() if n.endswith(("norms.attention", "norms.mlp", "final_norm"))} == {1e-5}
    assert {m.eps for m in model.vision.modules() if isinstance(m, torch.nn.LayerNorm)} == {1e-5}
    assert llm.max_positions == 4096 and len(model.llm.layers) == 32 and len(model.vision.layers) == 24
    assert not graph("llava-1.5").ties, "embeddings and head are two tables"


def test_inputs_go_by_the_names_of_transformers() -> None:
    assert list(graph("llava-1.5").inputs) == ["pixel_values", "input_ids", "attention_mask", "labels"]
    assert graph("llava-1.5").tokens["<image>"] == 32000 and graph("llava-1.5").tokens["<pad>"] == 32001


# ---- vision and projector (section 3.3)


def test_features_by_hand(model, images: Tensor) -> None:
    """Output of block L - 1 without the class token, Linear, GELU (erf), Linear, all with bias; QuickGELU inside the tower."""
    with torch.no_grad():
        close(model.programs["encode_image"](pixel_values=images)["projector"], features_by_hand(model, images))
    assert {n: tuple(p.shape) for n, p in model.projector.named_parameters()} == {
        "fc1.weight": (48, 40), "fc1.bias": (48,), "fc2.weight": (48, 48), "fc2.bias": (48,),
    }  # fmt: skip


def test_the_last_layer_is_dead(model, images: Tensor, ids: Tensor) -> None:
    """-2 is the output of the layer before the last: noise on the last one and the final norm changes no bit."""
    with torch.no_grad():
        before = model(pixel_values=images, input_ids=ids)["logits"]
        with changed(model, "vision.layers.2", "vision.final_norm", by=3.0):
            assert torch.equal(model(pixel_values=images, input_ids=ids)["logits"], before)
        with changed(model, "vision.layers.1", by=0.1):
            assert not torch.allclose(model(pixel_values=images, input_ids=ids)["logits"], before, atol=1e-3)


def test_hidden_states_begin_behind_the_first_norm(model, images: Tensor) -> None:
    """One more than layers: 0 is what ln_pre gives, i the output of block i."""
    with torch.no_grad():
        hidden = model.vision(images, taps=(0, 1, 2, 3))
    wanted = by_hand.clip_vision(by_hand.state(model.vision), images, heads=5)
    assert len(wanted) == 4 and graph("llava-1.5", "tiny").components["vision"].hidden_states() == 4
    for i, state in enumerate(wanted):
        close(hidden[f"hidden.{i}"], state)


def test_the_last_layer_is_not_run(model, images: Tensor) -> None:
    ran = []
    handles = [layer.register_forward_hook(lambda *_, i=i: ran.append(i)) for i, layer in enumerate(model.vision.layers)]
    try:
        model.programs["encode_image"](pixel_values=images)
    finally:
        for handle in handles:
            handle.remove()
    assert ran == [0, 1]


def test_the_class_token_is_dropped_after_the_tower(model, images: Tensor) -> None:
    """It takes part in attention, so its vector reaches the patches; its own place is not among the features."""
    encode = model.programs["encode_image"]
    with torch.no_grad():
        before = encode(pixel_values=images)["projector"]
        assert before.shape == (3, N, 48)
        with changed(model, "vision.cls"):
            assert not torch.allclose(encode(pixel_values=images)["projector"], before, atol=1e-3)
        handle = model.vision.layers[1].register_forward_hook(lambda _, __, y: torch.cat([y[:, :1] + 5.0, y[:, 1:]], 1))
        try:
            assert torch.equal(encode(pixel_values=images)["projector"], before)
        finally:
            handle.remove()


# ---- the sequence


def test_logits_by_hand(model, images: Tensor, ids: Tensor) -> None:
    """Three images over two rows, consecutive positions, causal over everything."""
    with torch.no_grad():
        close(model(pixel_values=images, input_ids=ids)["logits"], logits_by_hand(model, ids, images))


def test_features_stand_in_place_of_the_placeholders(model, images: Tensor, ids: Tensor) -> None:
    """In reading order over the batch; every other place keeps the embedding of its word."""
    with torch.no_grad():
        words, features = model.embed(ids), model.programs["encode_image"](pixel_values=images)["projector"]
        out = model.splice(text=words, ids=ids, vision=features)["out"]
    assert torch.equal(out[0, 2 : 2 + N], features[0]) and torch.equal(out[0, 13 : 13 + N], features[1])
    assert torch.equal(out[1, 5 : 5 + N], features[2])
    assert torch.equal(out[ids != IMAGE], words[ids != IMAGE])


def test_moving_the_placeholder_moves_the_same_features(model, images: Tensor) -> None:
    words = random_ids(1, 4, seed=8)
    early = torch.cat([words[:, :1], torch.full((1, N), IMAGE), words[:, 1:]], 1)
    late = torch.cat([words[:, :3], torch.full((1, N), IMAGE), words[:, 3:]], 1)
    with torch.no_grad():
        features = model.programs["encode_image"](pixel_values=images[:1])["projector"]
        spliced = [model.splice(text=model.embed(row), ids=row, vision=features)["out"] for row in (early, late)]
        assert torch.equal(spliced[0][:, 1 : 1 + N], spliced[1][:, 3 : 3 + N])
        first, second = (model(pixel_values=images[:1], input_ids=row)["logits"][:, -1] for row in (early, late))
    assert not torch.allclose(first, second, atol=1e-3)


def test_an_image_moves_its_own_places_and_what_follows(model, images: Tensor, ids: Tensor) -> None:
    """Causal everywhere, images included; rows of a batch do not mix."""
    other = images.clone()
    other[1] += noise(3, 42, 42, seed=4)
    with torch.no_grad():
        before, after = (model(pixel_values=x, input_ids=ids)["logits"] for x in (images, other))
    assert moved(before[:1], after[:1]) == [False] * 13 + [True] * 13
    assert torch.equal(before[1], after[1])


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_on_either_side_changes_nothing(model, images: Tensor, side: str) -> None:
    """The logits of real tokens; rotary positions are relative, so the offset of left padding does not count."""
    row = placed(random_ids(1, 14), IMAGE, (0, 3, N))
    filling = torch.full((1, 4), PAD)
    real, absent = torch.ones(1, 14, dtype=torch.long), torch.zeros(1, 4, dtype=torch.long)
    order = (filling, row) if side == "left" else (row, filling)
    mask = torch.cat((absent, real) if side == "left" else (real, absent), 1)
    with torch.no_grad():
        alone = model(pixel_values=images[:1], input_ids=row)["logits"]
        padded = model(pixel_values=images[:1], input_ids=torch.cat(order, 1), attention_mask=mask)["logits"]
    close(padded[:, 4:] if side == "left" else padded[:, :-4], alone, 2e-6)


def test_text_alone_is_vicuna(model) -> None:
    """Bit-identical to the language model by itself; neither tower nor projector nor splice is in the program."""
    vicuna = vlmgraph.compile(
        {
            "inputs": {"input_ids": "ids[B, T]"},
            "outputs": {"logits": "logits[B, T, vocab]"},
            "components": {
                "embed": {"type": "text.embedding", "of": "llm"},
                "llm": {
                    "type": "decoder.transformer", "preset": "vicuna-7b-v1.5", "layers": 2, "width": 48, "heads": 6, "kv_heads": 6,
                    "mlp": 88, "vocab": 320,
                },
                "head": {"type": "head.lm", "of": "llm"},
            },
            "graph": {"edges": ["input_ids -> embed -> llm -> head -> logits"]},
            "programs": {"forward": {"outputs": ["logits"]}},
        }
    )  # fmt: skip
    vicuna.load_state_dict({k: v for k, v in model.state_dict().items() if k.startswith(("embed.", "llm.", "head."))})
    words = random_ids(2, 11)
    with torch.no_grad():
        logits = model(input_ids=words)["logits"]
        assert torch.equal(logits, vicuna(input_ids=words)["logits"])
        close(logits, logits_by_hand(model, words, None))
        with changed(model, "vision", "projector"):
            assert torch.equal(model(input_ids=words)["logits"], logits)
    assert [n.component for n in model.programs["forward"].graph(frozenset({"input_ids"})).nodes] == ["embed", "llm", "head"]


def test_placeholders_and_features_must_agree(model, images: Tensor, ids: Tensor) -> None:
    with pytest.raises(DiagnosticError, match=r"27 placeholders.*18 feature rows"):
        model(pixel_values=images[:2], input_ids=ids)


def test_generation_is_greedy_and_stops_at_the_end_token(model, images: Tensor) -> None:
    """With a cache or without, the most likely token each time; `</s>` is the last one written."""
    row = placed(random_ids(1, 13), IMAGE, (0, 2, N))
    given = {"pixel_values": images[:1], "input_ids": row}
    cached = model.generate(**given, max_new_tokens=5)
    wanted = row
    with torch.no_grad():
        for _ in range(5):
            best = model(pixel_values=images[:1], input_ids=wanted)["logits"][:, -1].argmax(-1)
            wanted = torch.cat([wanted, best[:, None]], 1)
    assert torch.equal(cached, wanted) and torch.equal(model.generate(**given, max_new_tokens=5, use_cache=False), wanted)
    third = int(wanted[0, 15])
    stopped = model.generate(**given, max_new_tokens=5, eos_token_id=third)
    assert stopped[0, 13:].tolist() == wanted[0, 13 : 13 + 1 + wanted[0, 13:].tolist().index(third)].tolist()


def test_rows_padded_on_the_left_generate_as_alone(model, images: Tensor) -> None:
    rows = [placed(random_ids(1, length, seed=length), IMAGE, (0, 2, N)) for length in (17, 13)]
    filled = torch.cat([torch.full((1, 4), PAD), rows[1]], 1)
    batch, mask = torch.cat([rows[0], filled]), torch.ones(2, 17, dtype=torch.long)
    mask[1, :4] = 0
    got = model.generate(pixel_values=images[:2], input_ids=batch, attention_mask=mask, max_new_tokens=4)[:, 17:]
    for i, row in enumerate(rows):
        alone = model.generate(pixel_values=images[i : i + 1], input_ids=row, max_new_tokens=4)[:, row.shape[1] :]
        assert torch.equal(got[i : i + 1], alone)


# ---- training


def test_loss_counts_answers_alone(model, images: Tensor, ids: Tensor) -> None:
    """Next-token cross entropy by hand; neither labels of -100 nor visual places count, also where labels are a copy of the ids."""
    labels = ids.masked_fill(ids == IMAGE, -100)
    labels[:, :4] = -100
    loss = model.programs["objective.lm"]
    given = {"pixel_values": images, "input_ids": ids}
    with torch.no_grad():
        logits = model(**given)["logits"]
        close(loss(**given, labels=labels)["loss"], next_token_loss(logits, labels))
        close(loss(**given, labels=ids)["loss"], next_token_loss(logits, ids, ignored=[IMAGE]))
        assert not torch.allclose(next_token_loss(logits, ids), next_token_loss(logits, ids, ignored=[IMAGE]), atol=1e-3)


@pytest.mark.parametrize(
    ("stage", "trained"), [("align", {"projector"}), ("instruct", {"projector", "embed", "llm", "head"})], ids=["align", "instruct"]
)
def test_stages(stage: str, trained: set[str], images: Tensor, ids: Tensor) -> None:
    """Section 3.2 of LLaVA: the projector alone, then the language model too; the tower never."""
    model = fresh("llava-1.5")
    labels = ids.masked_fill(ids == IMAGE, -100)
    names = trains(model, stage, {"pixel_values": images, "input_ids": ids, "labels": labels}, lr=1e-2)
    assert names == {n for n, _ in model.named_parameters() if n.split(".")[0] in trained}


def test_batches_are_of_one_modality() -> None:
    """Section 3.3: every megabatch of processes x batch is multimodal or text alone, the longest first for each process; shuffled."""
    name = graph_data("instruct")["batching"]
    assert name == "group_by_modality"
    lengths = [(1 if i % 3 else -1) * (50 + 37 * i % 101) for i in range(100)]
    order = getattr(batching, name)(lengths, batch=4, processes=2, generator=torch.Generator().manual_seed(1))
    assert sorted(order) == list(range(100))
    runs = [order[i : i + 8] for i in range(0, 96, 8)]
    whole, rest = 66 // 8 + 34 // 8, 66 % 8 + 34 % 8
    kinds = [{lengths[i] > 0 for i in run} for run in runs[:whole]]
    assert all(len(kind) == 1 for kind in kinds) and 100 - 8 * whole == rest
    assert {True} in kinds and {False} in kinds and kinds != sorted(kinds, key=str), "in random order"
    for run in runs[:whole]:
        shares = [[abs(lengths[i]) for i in share] for share in (run[:4], run[4:])]
        assert all(share == sorted(share, reverse=True) for share in shares)
        assert abs(sum(shares[0]) - sum(shares[1])) <= max(map(max, shares)), "about as much for each"


def graph_data(stage: str) -> dict:
    return spec("llava-1.5").data["stages"][stage]["data"]


def test_stages_in_the_report() -> None:
    trainable = {s.stage: s.trainable for s in measured("llava-1.5").stages}
    assert trainable == {"align": 20_979_712, "instruct": 7_063_427_072 - 303_507_456}


# ---- what goes in (section 3.3, appendix)


def test_pictures_are_padded_to_a_square_of_the_mean_colour() -> None:
    """100 x 200 pixels: a quarter of the height above and below is int(255 mean) = (122, 116, 104), then 336 px, CLIP's statistics."""
    picture = PIL.Image.new("RGB", (200, 100), (255, 0, 0))
    pixels = processor("llava-1.5", None)("<image>", images=picture)["pixel_values"]
    mean, std = np.array([0.48145466, 0.4578275, 0.40821073]), np.array([0.26862954, 0.26130258, 0.27577711])
    frame = (np.array([122, 116, 104]) / 255 - mean) / std
    inside = (np.array([255, 0, 0]) / 255 - mean) / std
    assert pixels.shape == (1, 3, 336, 336)
    for rows, colour in ((slice(0, 82), frame), (slice(87, 249), inside), (slice(254, 336), frame)):
        np.testing.assert_allclose(pixels[0, :, rows], np.broadcast_to(colour[:, None, None], pixels[0, :, rows].shape), atol=1e-5)


def test_alignment_crops_instead() -> None:
    """Stage 1 uses plain resizing and a centre crop: no frame."""
    picture = PIL.Image.new("RGB", (200, 100), (255, 0, 0))
    pixels = processor("llava-1.5", None, None, "align")("<image>", images=picture)["pixel_values"]
    assert np.ptp(pixels, axis=(0, 2, 3)).max() < 1e-5


TALK = [
    {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What?"}]},
    {"role": "assistant", "content": "A cat."},
    {"role": "user", "content": "Sure?"},
    {"role": "assistant", "content": "Yes."},
]


def test_template() -> None:
    """vicuna_v1: a curious user, the user's questions, </s> behind every answer."""
    system = (
        "A chat between a curious user and an artificial intelligence assistant. "
        "The assistant gives helpful, detailed, and polite answers to the user's questions. "
    )
    own = processor("llava-1.5", None)
    assert own.apply_chat(TALK[:1]) == system + "USER: <image>\nWhat? ASSISTANT:"
    talk = own.apply_chat(TALK, generate=False)
    assert talk == system + "USER: <image>\nWhat? ASSISTANT: A cat.</s>USER: Sure? ASSISTANT: Yes.</s>"


def test_response_formats() -> None:
    own = processor("llava-1.5", None)
    assert own.prompt("short", question="Where?") == "Where?\nAnswer the question using a single word or phrase."
    assert own.prompt("choice", question="Where?") == "Where?\nAnswer with the option's letter from the given choices directly."
    assert own.prompt("caption") == "Provide a one-sentence caption for the provided image."


def test_labels_are_the_answers_and_one_end_a_round() -> None:
    """One placeholder in the text becomes 576; what is not an answer is -100."""
    picture = PIL.Image.new("RGB", (10, 10))
    row = processor("llava-1.5", None)(messages=TALK, images=[picture], train=True)
    kept = row["labels"][0] != -100
    assert (row["input_ids"] == 32000).sum() == 576
    assert kept.sum() == len("A cat.") + len("Yes.") + 2, "every byte is a token here"
    assert (row["labels"][0][kept] == row["input_ids"][0][kept]).all() and (row["labels"] == 2).sum() == 2


def test_processed_inputs_run(model) -> None:
    """From a picture and a question to logits, in the tiny size."""
    given = processor("llava-1.5").ask("What is this?", images=PIL.Image.new("RGB", (30, 20), (200, 10, 60)))
    with torch.no_grad():
        out = model(**{name: torch.from_numpy(value) for name, value in given.items()})["logits"]
    assert out.shape == (1, given["input_ids"].shape[1], 320) and (given["input_ids"] == IMAGE).sum() == N
