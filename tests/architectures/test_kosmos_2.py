"""KOSMOS-2 (survey 67): attentive pooling to 64 embeddings, a Magneto decoder over words and images scaled together, positions that skip
padding, boxes among the words."""

from __future__ import annotations

import math

import numpy as np
import PIL.Image
import pytest
import torch
from torch.nn import functional as F

from tests.architectures.common import (
    changed,
    close,
    declared_counts,
    fresh,
    graph,
    lively,
    loss_of,
    meta,
    next_token_loss,
    noise,
    processor,
    published,
    random_ids,
    trains,
)
from vlmgraph.diagnostics import DiagnosticError
from vlmgraph.lower.generate.decoder import Decoder
from vlmgraph.passes.expect import visual_tokens


def test_published_counts() -> None:
    """Those of the reference, which shares one table between words and logits."""
    tf = pytest.importorskip("transformers", minversion="5.0")
    with torch.device("meta"):
        reference = tf.Kosmos2ForConditionalGeneration(tf.Kosmos2Config())
    counts = published("kosmos-2")
    assert counts["total"] == 1_664_485_376 == sum(p.numel() for p in reference.parameters())
    assert counts["vision"] == 303_179_776 and counts["dense"] + counts["resampler"] == 19_015_680
    assert counts["llm"] == 24 * 50_378_752 + 2 * 2048 and counts["embed"] == 65_037 * 2048
    assert "head" not in declared_counts("kosmos-2") and set(visual_tokens(graph("kosmos-2")).values()) == {64}
    model = meta("kosmos-2")
    assert model.head.proj.weight is model.embed.tokens.weight
    assert graph("kosmos-2").tokens["<grounding>"] + 1024 == 65_037 - 1  # the location tokens are the last of the vocabulary
    assert math.isclose(graph("kosmos-2").components["llm"].scale, math.sqrt(2048), rel_tol=1e-7)


@pytest.fixture(scope="module")
def inputs() -> dict[str, torch.Tensor]:
    """Images behind one and two words."""
    ids, where = random_ids(2, 14), torch.zeros(2, 14, dtype=torch.long)
    where[0, 2:8] = where[1, 3:9] = 1
    return {"pixel_values": noise(2, 3, 42, 42), "input_ids": ids, "image_embeds_position_mask": where}


def run(**inputs: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return lively("kosmos-2")(**inputs)["logits"]


def test_images_are_pooled_by_one_attention() -> None:
    """softmax over the features and the latents themselves; no norm, nothing added; the order of patches does not matter."""
    model = lively("kosmos-2")
    with torch.no_grad():
        features = noise(2, 10, 48)
        pool = model.resampler
        attention, latents = pool.layers[0].attention, pool.queries.expand(2, -1, -1)
        keys = torch.cat([features, latents], 1)
        q, k, v = (
            f(x).unflatten(-1, (4, 12)).transpose(1, 2) for f, x in ((attention.q, latents), (attention.k, keys), (attention.v, keys))
        )
        read = (q @ k.transpose(2, 3) / math.sqrt(12)).softmax(-1) @ v
        close(pool(features), attention.out(read.transpose(1, 2).flatten(2)))
        close(pool(features[:, torch.randperm(10, generator=torch.Generator().manual_seed(1))]), pool(features))
        pixels = noise(2, 3, 42, 42)
        tower = model.vision
        states = tower.final_norm(tower(pixels, taps=(2,))["hidden.2"])  # of every token, the class token's too
        assert states.shape == (2, 10, 40)
        close(model.programs["encode_image"](pixel_values=pixels)["resampler"], pool(model.dense(F.normalize(states, dim=-1))))


def test_what_enters_the_decoder(inputs) -> None:
    """sqrt(d) times words and images, plus sines of the place from two on, cosines behind them."""
    model = lively("kosmos-2")
    entered = []
    handle = model.llm.layers[0].register_forward_pre_hook(lambda _, given: entered.append(given[0]))
    logits = run(**inputs)
    handle.remove()
    with torch.no_grad():
        merged = model.embed.tokens(inputs["input_ids"])
        merged[inputs["image_embeds_position_mask"].bool()] = model.programs["encode_image"](pixel_values=inputs["pixel_values"])[
            "resampler"
        ].flatten(0, 1)
    angles = torch.arange(2, 16)[:, None] * torch.exp(torch.arange(24) * (-math.log(10000) / 23))
    close(entered[0], merged * math.sqrt(48) + torch.cat([angles.sin(), angles.cos()], 1))
    ids = torch.where(inputs["image_embeds_position_mask"].bool(), inputs["input_ids"] + 5, inputs["input_ids"])
    assert torch.equal(run(**{**inputs, "input_ids": ids}), logits)  # what stands in the places of an image counts for nothing
    shown = run(**{**inputs, "pixel_values": inputs["pixel_values"] + noise(2, 3, 42, 42, seed=5)})
    assert (shown != logits).any(-1).tolist() == [[i >= 2 for i in range(14)], [i >= 3 for i in range(14)]]


def test_padding_takes_no_place(inputs) -> None:
    model = lively("kosmos-2")
    ids = inputs["input_ids"][:1]
    alone = run(input_ids=ids)
    pads = torch.full((1, 3), 1)
    mask = torch.cat([torch.zeros(1, 3), torch.ones(1, 14)], 1).long()
    close(run(input_ids=torch.cat([pads, ids], 1), attention_mask=mask)[:, 3:], alone)
    places = model.positions(torch.tensor([[1, 7, 1, 8, 9]]))
    assert places["positions"].tolist() == [[-1, 0, -1, 1, 2]] and places["next"].tolist() == [3]
    after = model.positions(torch.tensor([[7]]), next=places["next"])
    assert after["positions"].tolist() == [[3]] and after["next"].tolist() == [4]
    assert not model.llm.position(torch.tensor([[-1]])).any()
    padded, steps = {"input_ids": torch.cat([pads, ids], 1), "attention_mask": mask}, torch.randint(10, 60, (4, 1))
    with torch.no_grad():
        ways = [
            Decoder(model, "generate", given, "input_ids", cached, None)
            for given in ({"input_ids": ids}, padded)
            for cached in (True, False)
        ]
        first, *others = ([way.start(), *(way.step(token) for token in steps)] for way in ways)
    for other in others:
        for a, b in zip(other, first, strict=True):
            close(a, b)


def test_norms_inside_the_branches(inputs) -> None:
    """x + out(norm(heads)), then x + fc2(norm(gelu(fc1 ...))), each behind its own norm (Magneto)."""
    model = lively("kosmos-2")
    block, x = model.llm.layers[1], noise(2, 5, 48)
    with torch.no_grad():
        y, attention = block.norms["attention"](x), block.attention
        q, k, v = (f(y).unflatten(-1, (6, 8)).transpose(1, 2) for f in (attention.q, attention.k, attention.v))
        heads = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)
        wanted = x + attention.out(F.layer_norm(heads, (48,), attention.inner_norm.weight, attention.inner_norm.bias))
        inner = F.gelu(block.mlp.fc1(block.norms["mlp"](wanted)))
        wanted = wanted + block.mlp.fc2(F.layer_norm(inner, (88,), block.mlp.inner_norm.weight, block.mlp.inner_norm.bias))
        causal = torch.ones(5, 5, dtype=torch.bool).tril()[None, None]
        close(block(x, causal), wanted)
        logits = run(**inputs)
        for address in ("llm.layers.0.attention.inner_norm.weight", "llm.layers.0.mlp.inner_norm.weight"):
            with changed(model, address):
                assert not torch.allclose(run(**inputs), logits, atol=1e-3)


def test_first_weights() -> None:
    """Values, what leaves attention and MLPs begin sqrt(log(2 layers)) times as large as a linear layer does; 1.9675 for 24 layers."""
    gain = math.sqrt(math.log(4))
    for name, parameter in fresh("kosmos-2").llm.layers.named_parameters():
        leaf = name.split(".")[-2]
        if leaf in ("q", "k", "v", "out", "fc1", "fc2"):
            bound = (88 if leaf == "fc2" else 48) ** -0.5 * (1 if leaf in ("q", "k") else gain)
            assert bound * 0.85 < parameter.abs().max() <= bound, name  # uniform up to the bound
    assert math.isclose(math.sqrt(math.log(48)), 1.9675367876885788)
    latents = fresh("kosmos-2").resampler.queries
    assert 0.8 < latents.std() < 1.2


def test_words_tags_and_boxes_are_learned_behind_the_image() -> None:
    """Labels: nothing up to the end of the image, all of the text behind it, tags and location tokens among it."""
    own, model = processor("kosmos-2"), lively("kosmos-2")
    text = own.prompt("ground", phrase="it") + "<object><patch_index_0003><patch_index_0015></object></s>"
    made = own(text, images=PIL.Image.new("RGB", (60, 40)), train=True)
    ids, labels = made["input_ids"][0].tolist(), made["labels"][0].tolist()
    assert ids[:10] == [0, 311, 4, 5, 6, 7, 8, 9, 312, 320] and ids[-5:] == [317, 324, 336, 318, 2]
    assert labels[:9] == [-100] * 9 and labels[9:] == ids[9:]
    given = {name: torch.from_numpy(value) for name, value in made.items()}
    with torch.no_grad():
        logits = model(**{k: v for k, v in given.items() if k != "labels"})["logits"]
        loss = loss_of(model, "ground", given)
    assert loss.item() == pytest.approx(next_token_loss(logits, given["labels"]).item(), rel=1e-5)
    assert own.stop == [2]
    names = trains(fresh("kosmos-2"), "ground", given)
    assert {n.partition(".")[0] for n in names} == {"dense", "resampler", "embed", "llm"}  # the head is the table


def test_nothing_is_learned_behind_a_start_an_image_tag_or_an_image() -> None:
    """As in the released code's mask over sources: 0 for <s>, <image> and the places, 1 from </image> on; <image> itself is learned."""
    own = processor("kosmos-2")
    pictures = [PIL.Image.new("RGB", (60, 40))] * 3
    made = own(["ab<image>cd<image>e</s>", "<image>xy", "words"], images=[pictures[:2], pictures[2:], []], train=True)
    ids, labels = made["input_ids"], made["labels"]
    sources = made["attention_mask"] & ~np.isin(ids, [0, 311]) & ~made["image_embeds_position_mask"]
    learned = np.zeros_like(sources)
    learned[:, 1:] = sources[:, :-1] & made["attention_mask"][:, 1:]
    assert np.array_equal(labels, np.where(learned, ids, -100))
    assert learned[0].sum() == 7  # b, <image>, c, d, <image>, e, </s>


def test_several_images_in_a_text() -> None:
    """Each in its own places between its tags; the second is seen from its place on."""
    own, model = processor("kosmos-2"), lively("kosmos-2")
    pictures = [PIL.Image.new("RGB", (60, 40), colour) for colour in ("red", "blue", "green")]
    made = own("one<image>two<image>", images=pictures[:2])
    where = made["image_embeds_position_mask"][0]
    assert where.sum() == 12 and where[5:11].all() and where[16:22].all()
    assert made["input_ids"][0, [4, 11, 15, 22]].tolist() == [311, 312, 311, 312]
    given = {name: torch.from_numpy(value) for name, value in made.items()}
    other = torch.from_numpy(own("one<image>two<image>", images=[pictures[0], pictures[2]])["pixel_values"])
    with torch.no_grad():
        moved = model(**given)["logits"] != model(**{**given, "pixel_values": other})["logits"]
    assert moved.any(-1)[0].tolist() == [i >= 16 for i in range(23)]


def test_images_and_their_places_belong_together(inputs) -> None:
    for given, code in (
        ({**inputs, "image_embeds_position_mask": None}, "VG0722"),
        ({**inputs, "pixel_values": None}, "VG0724"),
        ({**inputs, "image_embeds_position_mask": inputs["image_embeds_position_mask"].roll(1, 1).clone().fill_(1)}, "VG0724"),
    ):
        with pytest.raises(DiagnosticError, match=code):
            run(**{name: value for name, value in given.items() if value is not None})
    words = {name: inputs[name] for name in ("input_ids",)}
    assert torch.equal(run(**words, image_embeds_position_mask=torch.zeros(2, 14)), run(**words))


def test_steps_see_what_a_whole_pass_sees(inputs) -> None:
    """Decoding with and without kept keys and values; the mask of the image grows with the text."""
    model = lively("kosmos-2")
    assert model.generate(**inputs, max_new_tokens=5).tolist() == model.generate(**inputs, max_new_tokens=5, use_cache=False).tolist()
