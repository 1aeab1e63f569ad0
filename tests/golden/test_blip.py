"""BLIP: three modes of one text model, the losses of a step of pre-training with a momentum copy and its queues, answers to questions."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import vlmgraph
from tests.golden.conftest import Vectors
from vlmgraph.nn.losses import sample_cross_entropy
from vlmgraph.train.step import after_step, before_step


def spec(c: dict[str, Any], variant: str = "") -> dict[str, Any]:
    vision, text = c["vision"], c["text"]
    size, width = vision["image"], c.get("embed_dim", 8)
    stack = {"layers": text["layers"], "width": text["hidden"], "heads": text["heads"], "norm_eps": text["ln_eps"]}
    table = {"vocab": text["vocab"], "width": text["hidden"], "max_positions": text.get("max_positions", 24)}
    table["norm"] = {"type": "norm.layer", "eps": text["ln_eps"]}
    own = {
        "vlmgraph": 1,
        "extends": f"blip:{variant}" if variant else "blip",
        "expect": {"remove": True},
        "inputs": {"pixel_values": f"image[B, 3, {size}, {size}]?"},
        "tokens": {"[CLS]": c["cls_id"], "[SEP]": c["sep_id"], "[PAD]": c["pad_id"], "[DEC]": c["dec_id"], "[ENC]": c["enc_id"]},
        "components": {
            "vision": {
                "image_size": size, "patch": vision["patch"], "layers": vision["layers"], "width": vision["width"],
                "heads": vision["heads"], "mlp": vision.get("mlp_ratio", 4) * vision["width"], "norm_eps": vision["ln_eps"],
            },
            "embed": table,
            "med": {**stack, "mlp": text["intermediate"]},
            "decoder": {**stack, "mlp": {"type": "mlp.dense", "hidden": text["intermediate"]}},
            "lm_head": {"eps": text["ln_eps"]},
        },
        "objectives": {"lm": {"label_smoothing": c["label_smoothing"]}},
    }  # fmt: skip
    if variant:
        own["components"]["embed_out"] = table
        own["tokens"]["<decoder_start>"] = c["dec_id"]
        return own
    own["outputs"] = {"image_embeds": f"embedding[B, {width}]", "text_embeds": f"embedding[B, {width}]"}
    own["components"] |= {name: {"out": width} for name in ("image_proj", "text_proj")}
    own["components"] |= {name: {"rows": c["queue_size"]} for name in ("image_queue", "text_queue")}
    own["components"]["teacher"] = {"update": {"ema": c["momentum"], "when": "before"}}
    own["objectives"]["itc"] = {"soft": c["alpha"]}
    return own


@pytest.fixture
def model(vectors: Vectors) -> Any:
    made = vlmgraph.compile(spec(vectors.config))
    vectors.tensors["param.text_queue_ptr"] = vectors.tensors["param.queue_ptr"].clone()  # one place for both queues there
    vectors.fill(made, "salesforce-blip")
    return made.train()


def inputs(vectors: Vectors) -> dict[str, Tensor]:
    return {"pixel_values": vectors.given("image"), "input_ids": vectors.given("ids"), "attention_mask": vectors.given("mask")}


@pytest.mark.part("17-blip/pretrain")
@torch.no_grad()
def test_three_modes(vectors: Vectors, model: Any) -> None:
    given = inputs(vectors)
    ids, mask, real = given["input_ids"], given["attention_mask"], given["attention_mask"].bool()
    image = model.programs["encode_image"](pixel_values=given["pixel_values"])["vision"]
    vectors.close("out.image_tokens", image)
    vectors.close("out.text_mode", model.med(model.embed(ids), mask), where=real)
    vectors.close("out.multimodal_mode", model.med(model.embed(model.first_enc(ids)), mask, media=image), where=real)
    vectors.close("out.decoder_mode_logits", model.programs["caption"](**given)["logits"], where=real)
    vectors.close("out.image_feat", model.programs["embed_image"](pixel_values=given["pixel_values"])["image_embeds"])
    vectors.close("out.text_feat", model.programs["embed_text"](input_ids=ids, attention_mask=mask)["text_embeds"])
    vectors.close("out.itm_logits", model.programs["match"](**given)["itm_score"], first=len(ids))


@pytest.mark.part("17-blip/pretrain")
def test_one_step(vectors: Vectors, model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The copy follows first, the losses read it and the queues, the new keys go in last; the draws are the recorded ones."""
    given = inputs(vectors)
    drawn = [vectors.tensors["out.negative_image_index"], vectors.tensors["out.negative_text_index"]]
    monkeypatch.setattr(model.pairs, "draw", lambda scores: drawn.pop(0))
    before_step(model)
    vectors.close("out.momentum_text_proj_after", model.teacher.text_proj.proj.weight.detach())
    vectors.close("out.momentum_patch_embed_after", model.teacher.vision.patch.proj.weight.detach())
    losses = {name: model.programs[f"objective.{name}"](**given)["loss"] for name in ("itc", "itm", "lm")}
    for name, recorded in (("itc", "ita"), ("itm", "itm"), ("lm", "lm")):
        vectors.close(f"out.loss_{recorded}", losses[name].detach())
    loss = losses["itc"] + losses["itm"] + losses["lm"]
    vectors.close("out.loss", loss.detach())
    loss.backward()
    vectors.gradients_close(model)
    assert all(p.grad is None or not p.grad.any() for p in model.teacher.parameters())
    after_step(model)
    vectors.close("out.image_queue_after", model.image_queue.rows.t())
    vectors.close("out.text_queue_after", model.text_queue.rows.t())
    vectors.same("out.queue_ptr_after", model.image_queue.place[None])
    vectors.same("out.queue_ptr_after", model.text_queue.place[None])


@pytest.fixture
def answering(vectors: Vectors) -> Any:
    made = vlmgraph.compile(spec(vectors.config, "vqa"))
    vectors.fill(made, "salesforce-blip-vqa")
    return made


def question(vectors: Vectors) -> dict[str, Tensor]:
    ids = vectors.given("question").clone()
    ids[:, 0] = vectors.config["enc_id"]  # the processor's first token
    return {"pixel_values": vectors.given("image"), "input_ids": ids, "attention_mask": vectors.given("question_mask")}


@pytest.mark.part("17-blip/vqa")
def test_loss_of_answers(vectors: Vectors, answering: Any) -> None:
    """A row an answer, its question with it; weights so that their mean over rows is the sum over answers by the number of questions."""
    given, counts = question(vectors), vectors.given("answers_per_question")
    with torch.no_grad():
        states = answering.programs["encode_question"](**given)["grounded"]
        vectors.close("out.question_states", states, where=given["attention_mask"].bool())
    answer = vectors.given("answer").clone()
    answer[:, 0] = vectors.config["dec_id"]
    rows = {name: value.repeat_interleave(counts, 0) for name, value in given.items()}
    weights = vectors.given("weights") * len(answer) / len(counts)
    loss = answering.programs["objective.lm"](
        **rows, decoder_input_ids=answer, decoder_attention_mask=vectors.given("answer_mask"), answer_weights=weights
    )["loss"]
    vectors.close("out.loss", loss.detach())
    loss.backward()
    vectors.gradients_close(answering)


@pytest.mark.part("17-blip/vqa")
@torch.no_grad()
def test_ranked_answers(vectors: Vectors, answering: Any) -> None:
    """The k candidates with the likeliest first tokens, then the one with the smallest loss, which is smoothed here too."""
    given, candidates, real = question(vectors), vectors.given("candidates"), vectors.given("candidates_mask")
    count, k = len(given["input_ids"]), vectors.config["k"]
    start = torch.full((count, 1), vectors.config["dec_id"])
    first = answering(**given, decoder_input_ids=start)["logits"][:, 0].softmax(-1)[:, candidates[:, 1]]
    vectors.close("out.candidate_first_token_prob", first)
    chosen = first.topk(k, dim=1).indices
    rows = {name: value.repeat_interleave(k, 0) for name, value in given.items()}
    ids, mask = candidates[chosen.flatten()], real[chosen.flatten()]
    logits = answering(**rows, decoder_input_ids=ids, decoder_attention_mask=mask)["logits"]
    losses = sample_cross_entropy(
        logits[:, :-1], ids[:, 1:].masked_fill(mask[:, 1:] == 0, -100), vectors.config["label_smoothing"], total=True
    )
    best = losses.view(count, k).argmin(1, keepdim=True)
    vectors.same("out.ranked_answer", chosen.gather(1, best)[:, 0])
