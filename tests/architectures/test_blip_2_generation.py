"""BLIP-2's second stage (arXiv 2301.12597, section 3.3): the queries as a soft prompt of a decoder, or in front of an encoder's prefix."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.architectures.common import (
    built,
    built_counts,
    changed,
    close,
    count,
    fresh,
    lively,
    meta,
    moved,
    next_token_loss,
    noise,
    padded,
    placed,
    random_ids,
    trains,
)
from vlmgraph.lower.model import CompiledModel

IMAGE, QUERIES = 319, 7


def prompts(visible: int = QUERIES, length: int = 15) -> dict[str, Tensor]:
    """Placeholders, </s>, words."""
    ids = placed(random_ids(2, length), IMAGE, (0, 0, visible), (1, 0, visible))
    ids[:, visible] = 2
    return {"pixel_values": noise(2, 3, 42, 42), "input_ids": ids}


def second(variant: str | None = "opt") -> CompiledModel:
    return lively("blip-2", "tiny", variant)


@torch.no_grad()
def test_soft_visual_prompt_of_a_decoder() -> None:
    """The projected queries are prepended to the word embeddings; </s> and the text follow."""
    model, given = second(), prompts()
    visual = model.programs["encode_image"](pixel_values=given["pixel_values"])["llm_proj"]
    assert visual.shape == (2, QUERIES, 48)
    sequence = torch.cat([visual, model.embed(given["input_ids"][:, QUERIES:])], 1)
    assert torch.equal(model(**given)["logits"], model.head(model.llm(sequence)))


@torch.no_grad()
def test_no_text_in_the_second_stage() -> None:
    """Both stages in one spec: the queries that prompt the language model are those of the pass without text."""
    model, given = lively("blip-2"), prompts()
    out = model(**given)["logits"]
    with changed(model, "qformer.text", "qformer.embed.tokens", "qformer.embed.positions", "image_proj", "itm_head"):
        assert torch.equal(out, model(**given)["logits"])
    image = model.ln_vision(model.vision(given["pixel_values"]))
    close(
        model.programs["encode_image"](pixel_values=given["pixel_values"])["llm_proj"],
        model.llm_proj(model.qformer(image=image)["queries"]),
    )


@torch.no_grad()
def test_loss_is_on_the_text_alone() -> None:
    model, given = second(), prompts()
    labels = given["input_ids"].clone()
    labels[1, -2:] = -100  # padding
    logits = model(**given)["logits"]
    loss = model.programs["objective.lm"](**given, labels=labels)["loss"].item()
    assert abs(loss - next_token_loss(logits, labels, (IMAGE,)).item()) < 1e-5
    ready = labels.masked_fill(labels == IMAGE, -100)
    assert abs(loss - model.programs["objective.lm"](**given, labels=ready)["loss"].item()) < 1e-6


@torch.no_grad()
def test_left_padding_shifts_no_position() -> None:
    """OPT counts its places over the real tokens and its table starts at row 2."""
    model, given = second(), prompts()
    row, pixels = given["input_ids"][:1], given["pixel_values"][:1]
    ids, mask = padded(row, torch.ones_like(row), left=4, pad=1)
    out = model(pixel_values=pixels, input_ids=ids, attention_mask=mask)["logits"][:, 4:]
    close(out, model(pixel_values=pixels, input_ids=row)["logits"])
    with changed(model, "llm.position.weight"):
        assert not torch.equal(out, model(pixel_values=pixels, input_ids=row)["logits"])
    table = model.llm.position.weight
    kept = table[:2].clone()
    table[:2] += 1
    close(out, model(pixel_values=pixels, input_ids=row)["logits"])
    table[:2] = kept


@torch.no_grad()
def test_decoding_with_and_without_a_cache() -> None:
    model, given = second(), prompts()
    one = model.generate(**given, max_new_tokens=5)
    assert one.shape == (2, 20) and torch.equal(one, model.generate(**given, max_new_tokens=5, use_cache=False))
    others = [model.generate(**given | {"pixel_values": 4 * noise(2, 3, 42, 42, seed=s)}, max_new_tokens=5) for s in range(4)]
    assert any(not torch.equal(one, other) for other in others)


@pytest.mark.parametrize("variant", [None, "opt", "flan-t5"])
def test_stage_two_trains(variant: str | None) -> None:
    """Q-Former, queries, ln_vision and the projection; both frozen models pass gradients on and get none."""
    given = prompts()
    answers = {"labels": given["input_ids"] if variant != "flan-t5" else random_ids(2, 6, low=3)}
    names = trains(fresh("blip-2", "tiny", variant), "generation", given | answers)
    assert {n.partition(".")[0] for n in names} == {"qformer", "ln_vision", "llm_proj"}
    assert not any(".text." in n or "embed.tokens" in n or "embed.positions" in n for n in names)


# ---- Flan-T5


def answered(seed: int = 4) -> dict[str, Tensor]:
    return prompts() | {"decoder_input_ids": torch.cat([torch.zeros(2, 1, dtype=torch.long), random_ids(2, 5, low=3, seed=seed)], 1)}


@torch.no_grad()
def test_prefix_into_the_encoder_answer_from_the_decoder() -> None:
    """[32 visual; prefix text] → encoder, the suffix is the decoder's (section 3.3, figure 3)."""
    model, given = second("flan-t5"), answered()
    visual = model.programs["encode_image"](pixel_values=given["pixel_values"])["llm_proj"]
    prefix = torch.cat([visual, model.embed(given["input_ids"][:, QUERIES:])], 1)
    media = model.llm.encoder(prefix)
    wanted = model.head(model.llm.decoder(model.embed(given["decoder_input_ids"]), media=media))
    out = model(**given)["logits"]
    assert out.shape == (2, 6, 320)
    close(out, wanted)
    assert model.embed_out.tokens.weight is model.embed.tokens.weight
    later = given["decoder_input_ids"].clone()
    later[:, 3] += 5
    other = model(**given | {"decoder_input_ids": later})["logits"]
    assert moved(out[:1], other[:1]) == [t >= 3 for t in range(6)]  # causal
    last = given["input_ids"].clone()
    last[:, -1] += 5
    assert all(moved(out[:1], model(**given | {"input_ids": last})["logits"][:1]))  # the prefix is read both ways
    assert all(moved(out[:1], model(**given | {"pixel_values": noise(2, 3, 42, 42, seed=7)})["logits"][:1]))


@torch.no_grad()
def test_padding_of_the_prefix() -> None:
    model, given = second("flan-t5"), answered()
    mask = torch.ones_like(given["input_ids"])
    mask[1, -4:] = 0
    out = model(**given, attention_mask=mask)["logits"]
    other = given["input_ids"].clone()
    other[1, -4:] = 9
    assert torch.equal(out, model(**given | {"input_ids": other}, attention_mask=mask)["logits"])


@torch.no_grad()
def test_answers_are_read_shifted() -> None:
    """labels [B, S] are the answer as it is written; the decoder reads start, label 0, ... (as in transformers)."""
    model, given = second("flan-t5"), prompts()
    labels = random_ids(2, 6, low=3)
    labels[1, 4:] = -100
    read = torch.cat([torch.zeros(2, 1, dtype=torch.long), labels[:, :-1].masked_fill(labels[:, :-1] == -100, 0)], 1)
    log_p = model(**given, decoder_input_ids=read)["logits"].double().log_softmax(-1)
    kept = (labels != -100).nonzero().tolist()
    wanted = -sum(log_p[b, t, labels[b, t]].item() for b, t in kept) / len(kept)
    assert abs(model.programs["objective.lm"](**given, labels=labels)["loss"].item() - wanted) < 1e-5


@torch.no_grad()
def test_answers_are_written() -> None:
    model, given = second("flan-t5"), prompts()
    out = model.generate(**given, max_new_tokens=4)
    written = torch.zeros(2, 1, dtype=torch.long)
    for _ in range(4):
        written = torch.cat([written, model(**given, decoder_input_ids=written)["logits"][:, -1:].argmax(-1)], 1)
    assert out.shape == (2, 5) and torch.equal(out, written)
    others = [model.generate(**given | {"pixel_values": 4 * noise(2, 3, 42, 42, seed=s)}, max_new_tokens=4) for s in range(4)]
    assert any(not torch.equal(out, other) for other in others)


def test_flan_t5_blocks() -> None:
    """T5 1.1 blocks; inside BLIP-2 with the exact GELU, and a head of its own."""
    model = meta("blip-2", None, "flan-t5")
    assert len(model.llm.encoder.layers) == len(model.llm.decoder.layers) == 24
    assert isinstance(model.llm.encoder.layers[0].mlp.act, torch.nn.GELU) and model.llm.encoder.layers[0].mlp.act.approximate == "none"
    assert model.head.proj.weight is not model.embed.tokens.weight
    assert count(model, "llm_proj") == 768 * 2048 + 2048
    assert "itg_head" not in built_counts(model) and built("blip-2", "tiny", "flan-t5").graph.programs.keys() == {
        "encode_image",
        "forward",
        "generate",
    }
