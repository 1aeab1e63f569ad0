"""LLaVA (Liu et al. 2023, arXiv 2304.08485): CLIP at 224 px, one linear layer, Vicuna v1.1; markers around the patches of an image."""

from __future__ import annotations

import PIL.Image
import pytest
import torch
from torch import Tensor

from tests.architectures import by_hand
from tests.architectures.common import (
    changed,
    close,
    fresh,
    graph,
    lively,
    measured,
    noise,
    placed,
    processor,
    published,
    random_ids,
    trains,
)
from vlmgraph.diagnostics import DiagnosticError
from vlmgraph.ir.dims import Dim
from vlmgraph.report.tokens import visual_dims
from vlmgraph.train.stage import begin, mean

PATCH, START, END, N = 300, 301, 302, 9  # of the tiny size: patch, markers, patches of an image


@pytest.fixture(scope="module")
def model():
    return lively("llava")


@pytest.fixture(scope="module")
def inputs() -> dict[str, Tensor]:
    """A row with one image between its markers."""
    ids = placed(random_ids(1, 16), PATCH, (0, 3, N))
    ids[0, 2], ids[0, 3 + N] = START, END
    return {"pixel_values": noise(1, 3, 42, 42), "input_ids": ids}


@pytest.mark.parametrize(
    ("size", "projector", "vicuna", "width"),
    [(None, 5_248_000, 13_015_864_320, 5120), ("7b", 4_198_400, 6_738_415_616, 4096)],
    ids=["13b", "7b"],
)
def test_published_parameters(size: str | None, projector: int, vicuna: int, width: int) -> None:
    """Vicuna has 32000 rows in both tables, the markers three more."""
    counts = published("llava", size)
    assert (counts["vision"], counts["projector"]) == (303_179_776, projector)
    assert counts["embed"] + counts["llm"] + counts["head"] == vicuna + 2 * 3 * width
    assert list(visual_dims(graph("llava", size)).values()) == [Dim.of(256)]
    assert graph("llava", size).components["llm"].norm_eps == 1e-6  # v1.1; v1.5 has 1e-5


def test_features_by_hand(model, inputs: dict[str, Tensor]) -> None:
    """hidden_states[-2] without the class token through one matrix with a bias."""
    s = by_hand.state(model)
    assert {n for n, _ in model.projector.named_parameters()} == {"proj.weight", "proj.bias"}
    x = by_hand.clip_vision(by_hand.below(s, "vision."), inputs["pixel_values"], heads=5)[-2][:, 1:]
    with torch.no_grad():
        got = model.programs["encode_image"](pixel_values=inputs["pixel_values"])["projector"]
    close(got, by_hand.linear(s, "projector.proj", x))


def test_logits_by_hand(model, inputs: dict[str, Tensor]) -> None:
    """Patches take the features, markers keep rows of their own, in the table and in the head."""
    s, ids = by_hand.state(model), inputs["input_ids"]
    x = torch.cat([s["embed.tokens.weight"], s["embed.added.weight"]])[ids]
    with torch.no_grad():
        x[ids == PATCH] = model.programs["encode_image"](pixel_values=inputs["pixel_values"])["projector"].double().flatten(0, 1)
        got = model(**inputs)["logits"]
    out = by_hand.llama(by_hand.below(s, "llm."), x, torch.arange(16)[None], heads=6, eps=1e-6)
    close(got, out @ torch.cat([s["head.proj.weight"], s["head.added.weight"]]).T)


def test_the_last_layer_is_dead(model, inputs: dict[str, Tensor]) -> None:
    with torch.no_grad():
        before = model(**inputs)["logits"]
        with changed(model, "vision.layers.2", "vision.final_norm", by=3.0):
            assert torch.equal(model(**inputs)["logits"], before)
        with changed(model, "embed.added"):
            assert not torch.allclose(model(**inputs)["logits"], before, atol=1e-3)


def test_new_words_start_as_the_mean_of_the_old() -> None:
    model = fresh("llava")
    begin(model, "align")
    for part, old in ((model.embed, "tokens"), (model.head, "proj")):
        rows = part.added.weight
        assert len(rows) == 3 and bool((rows == getattr(part, old).weight.mean(0)).all())
    with pytest.raises(DiagnosticError, match="two tables of one width"):
        mean(model, "embed.added", "projector")


def test_stages(inputs: dict[str, Tensor]) -> None:
    """First the matrix and the rows of the markers, then the language model too; the tower never."""
    model = fresh("llava")
    given = {**inputs, "labels": inputs["input_ids"]}
    assert trains(model, "align", given, lr=1e-2) == {"projector.proj.weight", "projector.proj.bias", "embed.added.weight"}
    assert trains(model, "instruct", given) == {n for n, _ in model.named_parameters() if not n.startswith("vision.")}
    assert {s.stage: s.trainable for s in measured("llava").stages}["align"] == 5_248_000 + 3 * 5120


def test_prompt() -> None:
    """The markers stand around 256 patches, behind them the end of the line; visual places and questions predict nothing."""
    own = processor("llava", None)
    said = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Who?"}]}, {"role": "assistant", "content": "Me."}]
    assert own.apply_chat(said, generate=False).endswith("to the human's questions. USER: <im_patch>\nWho? ASSISTANT: Me.</s>")
    row = own(messages=said, images=[PIL.Image.new("RGB", (300, 200))], train=True)
    ids = row["input_ids"][0].tolist()
    at = ids.index(32001)
    assert ids[at : at + 258] == [32001, *[32000] * 256, 32002] and ids.count(32000) == 256
    assert row["pixel_values"].shape == (1, 3, 224, 224)
    assert (row["labels"][0] != -100).sum() == len("Me.") + 1, "every byte is a token here"
