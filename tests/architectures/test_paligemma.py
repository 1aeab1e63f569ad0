"""PaliGemma (arXiv 2407.07726) and PaliGemma 2 (2412.03555): a prefix-LM over image and prompt, on Gemma and Gemma 2."""

from __future__ import annotations

import PIL.Image
import pytest
import torch
from torch import Tensor

from tests.architectures.common import (
    built,
    changed,
    close,
    fresh,
    graph,
    lively,
    meta,
    moved,
    noise,
    placed,
    processor,
    published,
    random_ids,
    trains,
)

BOTH = ("paligemma", "paligemma-2")
IMAGE, N = 300, 9


def given(answer: int = 4, length: int = 18, seed: int = 2) -> dict[str, Tensor]:
    """The image in front, then words, of which the last `answer` are no prefix."""
    ids = placed(random_ids(1, length, seed=seed), IMAGE, (0, 0, N))
    types = torch.zeros_like(ids)
    types[:, length - answer :] = 1
    return {"pixel_values": noise(1, 3, 42, 42), "input_ids": ids, "token_type_ids": types}


def logits(name: str, **inputs: Tensor) -> Tensor:
    with torch.no_grad():
        return lively(name)(**inputs)["logits"]


@pytest.mark.parametrize(
    ("name", "size", "total", "vision", "projector"),
    [
        ("paligemma", None, 2_923_466_480, 412_442_352, 2_361_344),
        ("paligemma", "448", 2_924_351_216, 412_442_352 + 768 * 1152, 2_361_344),
        ("paligemma", "896", 2_927_890_160, 412_442_352 + 3840 * 1152, 2_361_344),
        ("paligemma-2", None, 3_032_242_416, 412_442_352, 2_656_512),
        ("paligemma-2", "10b", 9_662_638_832, 412_442_352, 4_132_352),
        ("paligemma-2", "28b", 27_650_487_024, 412_442_352, 5_313_024),
    ],
)  # what the published configurations build in transformers 5
def test_counts(name: str, size: str | None, total: int, vision: int, projector: int) -> None:
    parts = published(name, size)
    assert (parts["total"], parts["vision"], parts["projector"]) == (total, vision, projector)
    side = int(size) // 14 if size in ("448", "896") else 16
    assert str(graph(name, size).types()["projector"].dims[1]) == str(side**2)


@pytest.mark.parametrize("name", BOTH)
def test_the_prefix_sees_itself_and_the_answer_what_is_before_it(name: str) -> None:
    inputs = given()
    before = logits(name, **inputs)
    for place, reached in ((13, range(18)), (15, range(15, 18)), (17, range(17, 18))):
        ids = inputs["input_ids"].clone()
        ids[0, place] += 1
        assert moved(before, logits(name, **inputs | {"input_ids": ids})) == [t in reached for t in range(18)]
    assert all(moved(before, logits(name, **inputs | {"pixel_values": noise(1, 3, 42, 42, seed=8)})))
    plain = {k: v for k, v in inputs.items() if k != "token_type_ids"}  # without types every token sees those before it
    ids = inputs["input_ids"].clone()
    ids[0, 13] += 1
    assert moved(logits(name, **plain), logits(name, **plain | {"input_ids": ids})) == [t >= 13 for t in range(18)]


@pytest.mark.parametrize("name", BOTH)
def test_nothing_comes_out_of_the_image_at_first(name: str) -> None:
    """The projector begins at zero, so that Gemma reads as it was trained."""
    model, inputs = built(name), given()
    assert not any(p.any() for p in model.projector.parameters())
    with torch.no_grad():
        before = model(**inputs)["logits"]
        other = inputs | {"pixel_values": noise(1, 3, 42, 42, seed=8)}
        assert torch.equal(model(**other)["logits"], before)
        with changed(model, "projector"):
            assert not torch.equal(model(**other)["logits"], model(**inputs)["logits"])


@torch.no_grad()
def test_words_are_scaled_and_image_tokens_are_not() -> None:
    model, inputs = lively("paligemma"), given()
    entering: list[Tensor] = []
    handle = model.llm.register_forward_pre_hook(lambda _, args, kw: entering.append(kw.get("x", *args)), with_kwargs=True)
    try:
        model(**inputs)
    finally:
        handle.remove()
    rows = model.programs["encode_image"](pixel_values=inputs["pixel_values"])["projector"]
    close(entering[0][:, :N], rows, 0.0)
    close(entering[0][:, N:], model.embed.tokens.weight[inputs["input_ids"][:, N:]] * 48**0.5, 1e-6)


def test_root_of_the_width_at_every_size() -> None:
    """Presets write it as a number; 28b divides scores by the root of width / heads, which is not its head's width."""
    for name, size in (("paligemma", None), ("paligemma-2", None), ("paligemma-2", "10b"), ("paligemma-2", "28b")):
        model = meta(name, size)
        assert model.embed.scale == model.embed.tokens.weight.shape[1] ** 0.5
        assert model.llm.layers[0].norms["attention"].offset == 1.0
    scales = {size: meta("paligemma-2", size).llm.layers[0].attention.scale for size in (None, "10b", "28b")}
    assert scales == {None: 256**-0.5, "10b": 256**-0.5, "28b": 144**-0.5}


@torch.no_grad()
def test_norms_store_what_is_beyond_one() -> None:
    model = fresh("paligemma-2")
    norm = model.llm.layers[0].norms["mlp"]
    assert not norm.weight.any()
    close(norm(noise(2, 3, 48)).pow(2).mean(-1), torch.ones(2, 3), 1e-4)
    x = noise(1, 6, 48)
    for branch in ("attention_out", "mlp_out"):
        model.llm.layers[0].norms[branch].weight.fill_(-1.0)
    assert torch.equal(model.llm.layers[0](x), x)  # four norms a layer: those behind the branches shut them


@torch.no_grad()
def test_every_other_layer_has_a_window() -> None:
    """Five tokens in the tiny size. The prefix is seen whole by itself, but by an answer only where it is near."""
    model = lively("paligemma-2")
    inputs = given(answer=8, length=20)
    x = noise(1, 20, 48)

    def reach(layer: int, at: int, prefix: Tensor | None) -> list[int]:
        stack = model.llm
        kept, stack.layers = stack.layers, stack.layers[layer : layer + 1]
        rules, stack.rules = stack.rules, stack.rules[layer : layer + 1]
        try:
            before, y = stack(x, prefix=prefix), x.clone()
            y[0, at] += 1
            return [t for t, m in enumerate(moved(before, stack(y, prefix=prefix))) if m]
        finally:
            stack.layers, stack.rules = kept, rules

    prefix = inputs["token_type_ids"] == 0
    assert [reach(layer, 3, None) for layer in (0, 1)] == [list(range(3, 8)), list(range(3, 20))]
    assert [reach(layer, 3, prefix) for layer in (0, 1)] == [list(range(12)), list(range(20))]
    assert [reach(layer, 11, prefix) for layer in (0, 1)] == [list(range(16)), list(range(20))]
    assert [reach(layer, 13, prefix) for layer in (2, 3)] == [list(range(13, 18)), list(range(13, 20))]


@torch.no_grad()
def test_bounds() -> None:
    """Scores lie within 50, before the mask: what is masked has no weight. Logits lie within 30, in transfer they are free."""
    model = lively("paligemma-2")
    attention = model.llm.layers[0].attention
    q = noise(1, 4, 3, 10, seed=3) * 100
    k, v = noise(1, 2, 3, 10, seed=4) * 100, noise(1, 2, 3, 10, seed=5)
    scores = 50 * torch.tanh((q * 0.28 @ k.repeat_interleave(2, 1).transpose(2, 3)) / 50)
    assert scores.abs().max() > 49
    hidden = torch.tensor([[True, False, True]]).expand(3, 3)
    wanted = scores.masked_fill(~hidden, float("-inf")).softmax(-1) @ v.repeat_interleave(2, 1)
    close(attention.attend(q, k, v, hidden[None, None]), wanted.transpose(1, 2).flatten(2), 1e-5)
    states = noise(1, 2, 48) * 1000
    raw = states @ model.head.proj.weight.T
    assert raw.abs().max() > 100
    close(model.head(states), 30 * torch.tanh(raw / 30), 1e-6)
    import vlmgraph

    free = vlmgraph.compile(vlmgraph.read_spec("paligemma-2", size="tiny", stage="transfer"))
    assert free.head.soft_cap is None and free.llm.layers[0].attention.soft_cap == 50.0


def test_short_answers_weigh_as_much_as_long_ones() -> None:
    model = lively("paligemma")
    ids = random_ids(2, 12)
    labels = torch.full_like(ids, -100)
    labels[0, -1], labels[1, 4:] = ids[0, -1], ids[1, 4:]
    with torch.no_grad():
        loss = model.programs["objective.lm"](input_ids=ids, labels=labels)["loss"]
        log_p = model(input_ids=ids)["logits"].log_softmax(-1)
    rows = [-torch.stack([log_p[b, t - 1, ids[b, t]] for t in range(1, 12) if labels[b, t] != -100]).mean() for b in (0, 1)]
    close(loss, (rows[0] + rows[1]) / 2)


@pytest.mark.parametrize("name", BOTH)
def test_everything_trains(name: str) -> None:
    inputs = given()
    labels = torch.where(inputs["token_type_ids"] == 1, inputs["input_ids"], -100)
    model = fresh(name)
    with torch.no_grad():
        model.projector.proj.weight.normal_(std=0.02)  # the tower learns nothing through a projector of zeros
    assert any(n.startswith("vision.") for n in trains(model, "pretrain", inputs | {"labels": labels}))


def test_image_bos_prompt_newline_answer_eos() -> None:
    asked = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "caption en"}]}
    talk = [asked, {"role": "assistant", "content": "cat"}]
    row = processor("paligemma", None)(messages=talk, images=[PIL.Image.new("RGB", (9, 5))], train=True)
    ids, types, labels = (row[name][0].tolist() for name in ("input_ids", "token_type_ids", "labels"))
    head = 256 + 1 + len("caption en\n")
    assert ids[:257] == [257152] * 256 + [2] and ids[-1] == 1 and len(ids) == head + 4
    assert types == [0] * head + [1] * 4 and labels == [-100] * head + ids[head:]
    prompt = processor("paligemma").ask("ocr", images=PIL.Image.new("RGB", (9, 5), (255, 0, 0)))
    assert not prompt["token_type_ids"].any() and prompt["pixel_values"].min() == -1 and prompt["pixel_values"].max() == 1
    out = logits("paligemma", **{name: torch.from_numpy(value) for name, value in prompt.items()})
    assert out.shape == (1, N + 1 + len("ocr\n"), 320)
