"""BLIP-2's first stage: the Q-Former under three masks, four heads, three losses."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import vlmgraph
from tests.golden.conftest import Vectors


def spec(c: dict[str, Any]) -> dict[str, Any]:
    vision, q = c["vision"], c["qformer"]
    assert vision["act"].startswith("gelu")
    size, width, queries = vision["image"], c["embed_dim"], q["queries"]
    return {
        "vlmgraph": 1,
        "extends": "blip-2",
        "expect": {"remove": True},
        "inputs": {"pixel_values": f"image[B, 3, {size}, {size}]?"},
        "outputs": {"image_embeds": f"tokens[B, {queries}, {width}]", "text_embeds": f"embedding[C, {width}]"},
        "tokens": {"[CLS]": c["cls_id"], "[SEP]": c["sep_id"], "[DEC]": c["dec_id"], "<image>": 3, "<pad>": c["pad_id"]},
        "components": {
            "vision": {
                "image_size": size,
                "patch": vision["patch"],
                "layers": vision["layers"],
                "width": vision["width"],
                "heads": vision["heads"],
                "mlp": vision["mlp"],
                "act": "gelu",
                "norm_eps": vision["ln_eps"],
                "bias": "qvo",
            },
            "ln_vision": {"eps": c["ln_vision_eps"]},
            "qformer": {
                "queries": queries,
                "layers": q["layers"],
                "width": q["hidden"],
                "heads": q["heads"],
                "mlp": q["intermediate"],
                "vocab": q["vocab"],
                "max_positions": q["max_positions"],
                "cross_every": q["cross_attention_freq"],
                "norm_eps": q["ln_eps"],
            },
            "image_proj": {"out": width},
            "text_proj": {"out": width},
            "itg_head": {"vocab": q["vocab"]},
            "llm": {
                "layers": 1,
                "width": 8,
                "heads": 2,
                "mlp": {"type": "mlp.dense", "hidden": 8, "act": "relu"},
                "vocab": 16,
                "max_positions": 64,
            },
        },
    }


SECOND_STAGE = ("llm", "llm_proj", "embed", "head", "splice")


class Stage(nn.Module):
    """What the first stage trains and reads of a model."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        for name, module in model.named_children():
            if name not in SECOND_STAGE:
                self.add_module(name, module)


@pytest.fixture
def model(vectors: Vectors) -> Any:
    return built(vectors)


def built(vectors: Vectors) -> Any:
    made = vlmgraph.compile(spec(vectors.config))
    stage = Stage(made)
    vectors.fill(stage, "lavis-blip2")
    made.stage = [stage]  # in a list: not a submodule a second time
    return made


def inputs(vectors: Vectors) -> dict[str, Tensor]:
    return {"pixel_values": vectors.given("image"), "qformer_ids": vectors.given("ids"), "qformer_mask": vectors.given("mask")}


def image_of(given: dict[str, Tensor]) -> dict[str, Tensor]:
    return {"pixel_values": given["pixel_values"]}


def text_of(given: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value for name, value in given.items() if name != "pixel_values"}


@pytest.mark.part("18-blip-2/stage1")
def test_every_program(vectors: Vectors, model: Any) -> None:
    given = inputs(vectors)
    image, text = image_of(given), text_of(given)
    real = given["qformer_mask"].bool()
    with torch.no_grad():
        vectors.close("out.image_tokens", model.ln_vision(model.vision(given["pixel_values"])))
        vectors.close("out.image_feats", model.programs["embed_image"](**image)["image_embeds"])
        vectors.close("out.text_feat", model.programs["embed_text"](**text)["text_embeds"])
        vectors.close("out.sim_i2t", model.programs["contrast"](**given)["logits_per_image"])
        vectors.close("out.itg_logits", model.programs["caption"](**given)["itg_logits"], where=real)
        own = len(given["qformer_ids"])  # the pairs that belong together come first
        vectors.close("out.itm_logits", model.programs["match"](**given)["itm_logits"], first=own)


@pytest.mark.part("18-blip-2/stage1")
def test_three_masks(vectors: Vectors, model: Any) -> None:
    given = inputs(vectors)
    ids, mask = given["qformer_ids"], given["qformer_mask"]
    real = torch.cat([torch.ones(len(ids), vectors.config["qformer"]["queries"], dtype=torch.bool), mask.bool()], 1)
    with torch.no_grad():
        image = model.ln_vision(model.vision(given["pixel_values"]))
        alone = model.qformer(image=image, ids=ids, ids_mask=mask, mask="unimodal")
        vectors.close("out.query_only", alone["queries"])
        vectors.close("out.text_only", alone["text"], where=mask.bool())
        both = model.qformer(image=image, ids=ids, ids_mask=mask, mask="bidirectional")
        vectors.close("out.joint_bidirectional", torch.cat([both["queries"], both["text"]], 1), where=real)
        write = model.qformer(image=image, ids=model.first_dec(ids), ids_mask=mask, mask="multimodal_causal")
        vectors.close("out.joint_uni_lm", torch.cat([write["queries"], write["text"]], 1), where=real)


@pytest.mark.part("18-blip-2/stage1")
def test_losses_and_gradients(vectors: Vectors, model: Any) -> None:
    """With the recorded negatives in the place of drawn ones."""
    c, given = vectors.config, inputs(vectors)
    ids, mask = given["qformer_ids"], given["qformer_mask"]
    negative_image, negative_text = vectors.tensors["out.negative_image_index"], vectors.tensors["out.negative_text_index"]
    images, texts = (
        model.programs[p](**g)[o]
        for p, g, o in (("embed_image", image_of(given), "image_embeds"), ("embed_text", text_of(given), "text_embeds"))
    )
    same = torch.arange(len(ids))
    # the reference gathers the other side of every pair without its gradient
    scores = model.itc_sim(image=images, text=texts.detach())["out"], model.itc_sim(image=images.detach(), text=texts)["out"].t()
    itc = sum(F.cross_entropy(s, same, label_smoothing=c["label_smoothing"]) for s in scores) / 2
    vectors.close("out.loss_itc", itc.detach())
    image = torch.cat([given["pixel_values"], given["pixel_values"][negative_image], given["pixel_values"]])
    words = {"qformer_ids": torch.cat([ids, ids, ids[negative_text]]), "qformer_mask": torch.cat([mask, mask, mask[negative_text]])}
    logits = model.programs["match"](pixel_values=image, **words)["itm_logits"]
    vectors.close("out.itm_logits", logits.detach())
    itm = F.cross_entropy(logits, torch.tensor([1] * len(ids) + [0] * 2 * len(ids)))
    vectors.close("out.loss_itm", itm.detach())
    itg_logits = model.programs["caption"](**given)["itg_logits"]
    labels = model.first_dec(ids).masked_fill(~mask.bool(), -100)
    itg = F.cross_entropy(
        itg_logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100, label_smoothing=c["label_smoothing"]
    )
    vectors.close("out.loss_itg", itg.detach())
    loss = itc + itm + itg
    vectors.close("out.loss", loss.detach())
    loss.backward()
    vectors.gradients_close(model.stage[0], without=("visual_encoder.",))  # frozen in this stage
