"""IDEFICS (arXiv 2306.16527): Flamingo's parts on Llama, with normed queries and keys and a mask that says which images a token reads."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from tests.architectures.common import (
    built,
    changed,
    close,
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

AROUND, IMAGE = 318, 319


def page(rows: int = 1, length: int = 10, seed: int = 2) -> Tensor:
    """Words with <fake_token_around_image> <image> <fake_token_around_image> twice."""
    ids = random_ids(rows, length, seed=seed)
    for at in (1, 5):
        ids = placed(ids, AROUND, *((row, at, 3) for row in range(rows)))
        ids = placed(ids, IMAGE, *((row, at + 1, 1) for row in range(rows)))
    return ids


def reads(rows: int = 1, length: int = 10) -> Tensor:
    """Image 0 from its marker to the next, image 1 from there on, none in front of both."""
    mask = torch.zeros(rows, length, 2, dtype=torch.long)
    mask[:, 2:6, 0], mask[:, 6:, 1] = 1, 1
    return mask


def given(rows: int = 1, seed: int = 1) -> dict[str, Tensor]:
    return {"pixel_values": noise(rows, 2, 3, 42, 42, seed=seed), "image_attention_mask": reads(rows), "input_ids": page(rows)}


def logits(**inputs: Tensor) -> Tensor:
    with torch.no_grad():
        return lively("idefics")(**inputs)["logits"]


@pytest.mark.parametrize(
    ("size", "total", "gated"), [(None, 8_929_679_632, range(0, 32, 4)), ("80b", 79_967_843_624, range(0, 80, 4))]
)  # what the published configurations build in transformers 5
def test_counts(size: str | None, total: int, gated: range) -> None:
    assert published("idefics", size)["total"] == total
    assert [int(i) for i in meta("idefics", size).llm.inserts["xattn"]] == list(gated)


def test_visual_tokens() -> None:
    """257 tokens with the class token, before the tower's last norm; 64 latents an image."""
    types = graph("idefics").types()
    assert [str(d) for d in types["vision.hidden.32"].dims] == ["B", "M", "257", "1280"]
    assert [str(d) for d in types["resampler"].dims] == ["B", "M", "64", "1280"]
    model = lively("idefics")
    pixels = noise(1, 1, 3, 42, 42)
    with torch.no_grad():
        tokens = model.vision(pixels[0], taps=(2,))["hidden.2"]
        close(model.programs["encode_image"](pixel_values=pixels)["resampler"][0], model.resampler(tokens))


@torch.no_grad()
def test_the_identity_at_first() -> None:
    model, inputs = built("idefics"), given()
    stack = copy.deepcopy(model.llm)
    stack.inserts = nn.ModuleDict()
    wanted = model.head(stack(model.embed(inputs["input_ids"])))
    assert torch.equal(model(**inputs)["logits"], wanted)
    for gate in ("cross", "mlp"):
        with changed(model, f"llm.inserts.xattn.0.gates.{gate}.weight"):
            assert not torch.equal(model(**inputs)["logits"], wanted)


def test_a_token_reads_the_images_it_is_given() -> None:
    """Here the first gated layer stands in front of block 0, so its cross-attention sees plain words."""
    model, inputs = lively("idefics"), given()
    block = model.llm.inserts["xattn"]["0"]
    assert list(model.llm.inserts["xattn"]) == ["0", "2"]

    def taken(**inputs: Tensor) -> Tensor:
        with torch.no_grad():
            media = model.programs["encode_image"](pixel_values=inputs["pixel_values"])["resampler"]
            allowed = model.xmask(media=media, media_mask=inputs["image_attention_mask"])
            x = model.embed(inputs["input_ids"])
            seen: list[Tensor] = []
            handle = block.norms["mlp"].register_forward_pre_hook(lambda _, args: seen.append(args[0]))
            try:
                block(x, media.flatten(1, 2), allowed)
            finally:
                handle.remove()
            return seen[0] - x

    before = taken(**inputs)
    assert not before[0, :2].any()  # no image yet: nothing at all
    for image, reads_it in ((0, lambda t: 2 <= t < 6), (1, lambda t: t >= 6)):
        pixels = inputs["pixel_values"].clone()
        pixels[0, image] += 1
        assert moved(before, taken(**inputs | {"pixel_values": pixels})) == [reads_it(t) for t in range(10)]
        first = 2 if image == 0 else 6
        assert moved(logits(**inputs), logits(**inputs | {"pixel_values": pixels})) == [t >= first for t in range(10)]
    both = inputs["image_attention_mask"].clone()
    both[0, 9] = 1
    assert moved(before, taken(**inputs | {"image_attention_mask": both})) == [t == 9 for t in range(10)]


def test_queries_and_keys_are_normed() -> None:
    """RMS norms over a head in the gated layers, layer norms in the resampler: the scale of the projections does not count."""
    inputs = given()
    before = logits(**inputs)
    for path in ("llm.inserts.xattn.0.cross", "resampler.layers.0.attention"):
        for side in ("q", "k"):
            weight = lively("idefics").get_parameter(f"{path}.{side}.weight")
            kept = weight.detach().clone()
            with torch.no_grad():
                weight.mul_(50.0)
                scaled = logits(**inputs)
                weight.copy_(kept)
            close(scaled, before, 1e-3)  # but for the epsilon of the norm
            with changed(lively("idefics"), f"{path}.{side}_norm.weight"):
                assert not torch.allclose(logits(**inputs), before, atol=1e-5)


def test_added_rows_stand_behind_the_others() -> None:
    model = lively("idefics")
    assert model.embed.tokens.weight.shape == (318, 48) and model.embed.added.weight.shape == (2, 48)
    out = logits(**given())
    assert out.shape[-1] == 320
    with changed(model, "head.added"):
        other = logits(**given())
    assert torch.equal(out[..., :318], other[..., :318]) and not torch.equal(out[..., 318:], other[..., 318:])


@torch.no_grad()
def test_decoding() -> None:
    """A new token reads what the last one did."""
    model, inputs = lively("idefics"), given(rows=2)
    out = model.generate(**inputs, max_new_tokens=4)
    assert torch.equal(out, model.generate(**inputs, max_new_tokens=4, use_cache=False))
    grown = torch.cat([inputs["image_attention_mask"], inputs["image_attention_mask"][:, -1:]], 1)
    step = model(**inputs | {"image_attention_mask": grown, "input_ids": out[:, :11]})["logits"][:, -1].argmax(-1)
    assert torch.equal(step, out[:, 11])


@torch.no_grad()
def test_loss_leaves_out_image_tokens() -> None:
    inputs = given(rows=2)
    loss = lively("idefics").programs["objective.lm"](**inputs, labels=inputs["input_ids"])["loss"].item()
    assert abs(loss - next_token_loss(logits(**inputs), inputs["input_ids"], (IMAGE, AROUND)).item()) < 1e-5


def test_training() -> None:
    """Resampler, gated layers and the rows added to table and head; both backbones stay bit by bit."""
    model = fresh("idefics")
    with torch.no_grad():
        for name, parameter in model.llm.named_parameters():
            if "gates" in name:
                parameter.fill_(0.4)
    inputs = given(rows=2)
    labels = inputs["input_ids"]
    names = trains(model, "train", inputs | {"labels": labels})
    others = {n for n in names if not n.startswith("resampler.")}
    assert {n for n in others if ".inserts.xattn." not in n} == {"embed.added.weight", "head.added.weight"}
