"""Llama 3.2-Vision (arXiv 2407.21783, section 7): a tower over tiles in two stages, levels, gated cross-attention between the layers."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import vlmgraph
from tests.architectures.common import (
    built,
    changed,
    close,
    enliven,
    fresh,
    graph,
    lively,
    meta,
    moved,
    next_token_loss,
    noise,
    placed,
    published,
    random_ids,
    trains,
)
from vlmgraph import codegen
from vlmgraph.diagnostics import DiagnosticError
from vlmgraph.nn.mask import attention_mask

NAME, IMAGE, WIDTH = "llama-3.2-vision", 310, 40
AREAS = (1, 1, 2, 3, 4, 2, 4, 3, 4)  # tiles by the number of the arrangement; an image that is not there has one


def given(rows: int = 1, aspects: tuple[int, ...] = (6, 5), length: int = 10) -> dict[str, Tensor]:
    """Images at 2 and 6: each is seen from its token to the next."""
    numbers = torch.tensor([aspects] * rows)
    there = torch.arange(4) < torch.tensor(AREAS)[numbers][..., None]
    ids = placed(random_ids(rows, length), IMAGE, *((row, at, 1) for row in range(rows) for at in (2, 6)))
    seen = torch.zeros(rows, length, len(aspects), 4, dtype=torch.long)
    for m, (start, end) in enumerate(((2, 6), (6, length))[: len(aspects)]):
        seen[:, start:end, m] = there[:, None, m].long()
    pixels = noise(rows, len(aspects), 4, 3, 28, 28) * there[..., None, None, None]
    named = {"aspect_ratio_ids": numbers, "aspect_ratio_mask": there.long(), "cross_attention_mask": seen}
    return {"pixel_values": pixels, **named, "input_ids": ids}


def logits(model: Any = None, **inputs: Tensor) -> Tensor:
    with torch.no_grad():
        return (model or lively(NAME))(**inputs)["logits"]


def tower(inputs: dict[str, Tensor], model: Any = None) -> dict[str, Tensor]:
    """The first stage on the images of the first row."""
    with torch.no_grad():
        found = (inputs[k][0] for k in ("pixel_values", "aspect_ratio_ids", "aspect_ratio_mask"))
        return (model or lively(NAME)).vision(*found, taps=(1, 3))


def encoded(inputs: dict[str, Tensor], model: Any = None) -> Tensor:
    kept = {k: inputs[k] for k in ("pixel_values", "aspect_ratio_ids", "aspect_ratio_mask") if k in inputs}
    with torch.no_grad():
        return (model or lively(NAME)).programs["encode_image"](**kept)["adapter"]


@torch.no_grad()
def bare(model: Any, ids: Tensor) -> Tensor:
    """Logits of the language model without its insertions."""
    stack = copy.deepcopy(model.llm)
    stack.inserts = nn.ModuleDict()
    return model.head(stack(model.embed(ids)))


# ---- numbers


def test_counts() -> None:
    counts = published(NAME)
    assert counts["total"] == 10_670_220_835
    assert counts["vision"] + counts["tiles"] + counts["whole"] == 863_567_379
    assert counts["embed"] + counts["llm"] == 9_249_855_504
    assert (counts["adapter"], counts["head"]) == (31_461_376, 525_336_576)
    cross = {n: p for n, p in meta(NAME).llm.named_parameters() if n.startswith("inserts.cross.")}
    assert sum(p.numel() for p in cross.values()) == 1_744_898_064
    places = [int(i) for i in meta(NAME).llm.inserts["cross"]]
    assert [place + i for i, place in enumerate(places)] == [3, 8, 13, 18, 23, 28, 33, 38]  # all layers counted together
    assert published(NAME, "90b")["total"] == 88_593_355_323 and len(meta(NAME, "90b").llm.inserts["cross"]) == 20
    small = vlmgraph.read_spec(NAME, overrides={"inputs.pixel_values": "image[B, M, 4, 3, 448, 448]?", "expect": {"remove": True}})
    assert sum(p.numel() for p in vlmgraph.compile(small, device="meta").parameters()) == 10_642_941_475


@pytest.mark.slow
def test_published_counts_are_those_of_transformers() -> None:
    tf = pytest.importorskip("transformers", minversion="5.0")
    config = tf.MllamaConfig(vision_config={"image_size": 560}, text_config={})
    with torch.device("meta"):
        reference = tf.MllamaForConditionalGeneration(config)
    assert sum(p.numel() for p in reference.parameters()) == 10_670_220_835


def test_tokens() -> None:
    """1601 a tile, filled up to 1608 in the tower; keys of all tiles; levels side by side with the output."""
    types = graph(NAME).types()
    shapes = {name: [str(d) for d in types[name].dims] for name in ("vision", "features", "real", "adapter", "adapter.joined_2")}
    assert shapes["vision"] == ["B", "M", "6432", "1280"] and shapes["features"] == ["B", "M", "6432", "7680"]
    assert shapes["real"] == ["B", "M", "4", "1601", "7680"] and shapes["adapter.joined_2"] == ["B", "6404*M", "4096"]


def test_positions_reach_long_contexts() -> None:
    scaling = graph(NAME).components["llm"].position.scaling
    assert (scaling.rule, scaling.factor, scaling.low, scaling.high, scaling.original) == ("llama3", 8.0, 1.0, 4.0, 8192)


# ---- the tower


def test_tiles_are_told_apart_behind_gates() -> None:
    """A vector a tile in front of the class token; positions (1 - tanh g) P + tanh g E; by hand up to what enters the first layer."""
    model, inputs = lively(NAME), given()
    vision, aspects = model.vision, inputs["aspect_ratio_ids"][0]
    with torch.no_grad():
        patches = vision.patch.proj(inputs["pixel_values"][0].flatten(0, 1)).flatten(2).transpose(1, 2).unflatten(0, (2, 4))
        x = patches + vision.tile.gate.weight.tanh() * vision.tile.table[aspects].reshape(2, 4, 1, WIDTH)
        x = torch.cat([vision.cls.expand(2, 4, 1, WIDTH), x], 2)
        gate = vision.position.gate.weight.tanh()
        x = x + (1 - gate) * vision.position.weight + gate * vision.position.tiles[aspects].reshape(2, 4, 5, WIDTH)
        x = torch.nn.functional.pad(vision.pre_norm(x), (0, 0, 0, 3)).flatten(1, 2)
        close(vision(inputs["pixel_values"][0], aspects, inputs["aspect_ratio_mask"][0], taps=(0,))["hidden.0"], x, 1e-6)
    other = {**inputs, "aspect_ratio_ids": torch.tensor([[8, 2]])}  # as many tiles
    start = built(NAME)
    assert torch.equal(encoded(inputs, start), encoded(other, start)), "gates are closed at first"
    for gates in ("vision.tile.gate", "vision.position.gate", "tiles.gate"):
        with changed(start, f"{gates}.weight"):
            assert not torch.equal(encoded(inputs, start), encoded(other, start)), gates


def test_padding_attends_but_two_paddings_never_meet() -> None:
    real = torch.tensor([[True, False, True, False]])
    allowed = attention_mask(("either_real",), 4, padding=real)
    assert allowed is not None and torch.equal(allowed[0, 0], real[0][:, None] | real[0])
    inputs = given(aspects=(5, 5))  # 2 tiles of 4
    drawn = {**inputs, "pixel_values": inputs["pixel_values"] + noise(1, 2, 4, 3, 28, 28) * (torch.arange(4) == 2)[:, None, None, None]}
    before, after = tower(inputs)["out"].unflatten(1, (4, 8)), tower(drawn)["out"].unflatten(1, (4, 8))
    assert (before != after).flatten(2).any(-1).all(), "every tile reads the pixels of a tile that is not there"
    first, second = tower(inputs)["hidden.1"].unflatten(1, (4, 8)), tower(drawn)["hidden.1"].unflatten(1, (4, 8))
    assert torch.equal(first[:, 3], second[:, 3]) and not torch.equal(first[:, 0], second[:, 0]), "but one such tile not another"
    assert (first[:, :2, 5:] != second[:, :2, 5:]).sum() == 0 and (first[:, :2, 5:] != 0).all(), "nor what fills up a tile"
    bare = enliven(vlmgraph.compile(vlmgraph.read_spec(NAME, size="tiny", overrides={"vision.pad_to": 5})))
    assert not torch.allclose(encoded(inputs), encoded(inputs, bare), atol=1e-4), "and is read there"


def test_levels_are_what_enters_their_layers_channel_by_channel() -> None:
    """Features c of level k at width + 2 c + k, behind those of the second stage, class tokens kept, what fills up left out."""
    model, inputs = lively(NAME), given()
    first = tower(inputs)
    with torch.no_grad():
        x = model.tiles(first["out"], inputs["aspect_ratio_ids"][0])
        x = model.whole(x, first["mask"])
        levels = torch.empty(*x.shape[:2], 2 * WIDTH)
        levels[..., 0::2], levels[..., 1::2] = first["hidden.1"], first["hidden.3"]
        features = torch.cat([x, levels], -1).unflatten(1, (4, 8))[:, :, :5]
        close(encoded(inputs)[0], model.adapter.proj(features), 1e-6)
        entering: list[Tensor] = []
        handle = model.vision.layers[3].register_forward_pre_hook(lambda _, args: entering.append(args[0]))
        tower(inputs)
        handle.remove()
    assert torch.equal(entering[0], first["hidden.3"])
    taps = {v: [p for n in graph(NAME, "tiny", v).nodes if n.component == "vision" for p in n.outputs] for v in (None, "transformers")}
    assert {"hidden.1", "hidden.3"} < set(taps[None]) and {"hidden.2", "hidden.4"} < set(taps["transformers"])


def test_the_second_stage_is_the_identity_at_first() -> None:
    model, x = built(NAME), noise(2, 32, WIDTH)
    with torch.no_grad():
        assert torch.equal(model.whole(x), x)
        for gate in ("attention", "mlp"):
            with changed(model, f"whole.layers.1.scales.{gate}.weight"):
                assert not torch.equal(model.whole(x), x)


def test_arrangements_are_asked_for() -> None:
    inputs = given()
    without = {k: v for k, v in inputs.items() if k != "aspect_ratio_ids"}
    with pytest.raises(DiagnosticError, match="numbers of their arrangements"):
        logits(**without)
    with pytest.raises(DiagnosticError, match="from 0 to 8"):
        logits(**{**inputs, "aspect_ratio_ids": torch.tensor([[6, 9]])})
    unmasked = {k: v for k, v in inputs.items() if k != "aspect_ratio_mask"}
    assert torch.equal(logits(**unmasked), logits(**inputs)), "which tiles are there follows from the arrangement"


# ---- the decoder


@torch.no_grad()
def test_the_decoder_is_llamas_at_first_and_for_text_alone() -> None:
    inputs = given()
    plain, words = bare(built(NAME), inputs["input_ids"]), bare(lively(NAME), inputs["input_ids"])
    assert torch.equal(logits(built(NAME), **inputs), plain)
    assert torch.equal(logits(input_ids=inputs["input_ids"]), words) and not torch.equal(logits(**inputs), words)
    for gate in ("cross", "mlp"):
        with changed(built(NAME), f"llm.inserts.cross.1.gates.{gate}.weight"):
            assert not torch.equal(logits(built(NAME), **inputs), plain)


def test_a_token_sees_the_tiles_it_is_given() -> None:
    """Tokens in front of the first image pass unchanged, attention and MLP; a tile that is not there is never read."""
    inputs = given(aspects=(6, 5))
    before = logits(**inputs)
    assert moved(bare(lively(NAME), inputs["input_ids"]), before) == [t >= 2 for t in range(10)]
    # one tile of the second image hidden from the last token
    fewer = inputs["cross_attention_mask"].clone()
    fewer[0, 9, 1, 1] = 0
    assert moved(before, logits(**{**inputs, "cross_attention_mask": fewer})) == [t == 9 for t in range(10)]
    model, media = lively(NAME), encoded(inputs)
    with torch.no_grad():
        allowed = model.xmask(media_mask=inputs["cross_attention_mask"], media=media)
        x, other = model.embed(inputs["input_ids"]), media.clone()
        read = model.llm(x, media=media.flatten(1, 3), media_mask=allowed)
        other[0, 1, 2:] += 1  # the tiles of the second image that are not there
        assert torch.equal(read, model.llm(x, media=other.flatten(1, 3), media_mask=allowed))
        other[0, 1, 1] += 1
        assert moved(read, model.llm(x, media=other.flatten(1, 3), media_mask=allowed)) == [t >= 6 for t in range(10)]


def test_rows_without_tiles_in_transformers() -> None:
    """There a token in front of all images attends to everything, though its MLP stays out."""
    inputs = given()
    open_ = lively(NAME, "tiny", "transformers")
    assert moved(logits(open_, input_ids=inputs["input_ids"]), logits(open_, **inputs)) == [True] * 10
    unseen = {k: v for k, v in inputs.items() if k != "cross_attention_mask"}
    assert all(moved(logits(input_ids=inputs["input_ids"]), logits(**unseen))), "without a mask every token sees all tiles, here too"


@torch.no_grad()
def test_queries_and_keys_are_normed() -> None:
    inputs, model = given(), lively(NAME)
    before = logits(**inputs)
    for side in ("q", "k"):
        weight = model.get_parameter(f"llm.inserts.cross.1.cross.{side}.weight")
        kept = weight.detach().clone()
        weight.mul_(50.0)
        scaled = logits(**inputs)
        weight.copy_(kept)
        close(scaled, before, 1e-3)  # but for the epsilon of the norm


@torch.no_grad()
def test_decoding() -> None:
    """A new token sees what the last one did."""
    model, inputs = lively(NAME), given(rows=2)
    out = model.generate(**inputs, max_new_tokens=4)
    assert torch.equal(out, model.generate(**inputs, max_new_tokens=4, use_cache=False))
    made: list[int] = []
    block = model.llm.inserts["cross"]["1"].cross
    handles = [getattr(block, side).register_forward_hook(lambda _, args, __: made.append(args[0].shape[1])) for side in ("k", "v")]
    assert torch.equal(out, model.generate(**inputs, max_new_tokens=4))
    for handle in handles:
        handle.remove()
    assert made == [2 * 20] * 2, "keys and values of media are made once"
    seen = inputs["cross_attention_mask"]
    grown = {**inputs, "cross_attention_mask": torch.cat([seen, seen[:, -1:]], 1), "input_ids": out[:, :11]}
    assert torch.equal(logits(**grown)[:, -1].argmax(-1), out[:, 11])


# ---- training, source


def test_loss_leaves_out_images() -> None:
    inputs = given(rows=2)
    loss = lively(NAME).programs["objective.lm"](**inputs, labels=inputs["input_ids"])["loss"].item()
    assert abs(loss - next_token_loss(logits(**inputs), inputs["input_ids"], (IMAGE,)).item()) < 1e-5


def test_training_leaves_the_language_model() -> None:
    model = fresh(NAME)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "gate" in name or ".scales." in name:
                parameter.fill_(0.4)
    inputs = given(rows=2)
    names = trains(model, "pretrain", {**inputs, "labels": inputs["input_ids"]})
    assert {n.split(".")[0] for n in names} == {"vision", "tiles", "whole", "adapter", "llm", "embed"}
    assert all(n.startswith("llm.inserts.cross.") for n in names if n.startswith("llm."))
    assert {n for n in names if n.startswith("embed.")} == {"embed.added.weight"}


def test_source() -> None:
    """The generated file computes the same, with images and without."""
    space: dict[str, Any] = {"__name__": "generated"}
    exec(compile(codegen.source(lively(NAME)), "model.py", "exec"), space)
    model = space["Model"]().eval()
    model.load_state_dict(lively(NAME).state_dict())
    for inputs in (given(rows=2), {k: v for k, v in given().items() if k != "aspect_ratio_mask"}, {"input_ids": random_ids(1, 5)}):
        with torch.no_grad():
            assert torch.equal(model(**inputs)["logits"], logits(**inputs))
