"""OtterHD-8B (Li et al. 2023, arXiv 2311.04219): Fuyu-8B tuned on instructions, one size drawn for every batch."""

from __future__ import annotations

from collections import Counter

import numpy as np
import PIL.Image
import pytest
import torch

import vlmgraph
from tests.architectures.common import fresh, graph, published, trains
from vlmgraph.processor import Processor
from vlmgraph.processor.model import model_processor
from vlmgraph.report import report

ANSWER, END = 302, 2  # of the tiny size: an answer begins, an answer ends


@pytest.fixture
def processor() -> Processor:
    """One of its own: it draws."""
    spec = vlmgraph.read_spec("otterhd", size="tiny")
    return model_processor(spec, vlmgraph.elaborate(spec))


def said(question: str, answer: str | None = None) -> list[dict[str, object]]:
    user = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}
    return [user] if answer is None else [user, {"role": "assistant", "content": answer}]


def pictures(count: int) -> list[PIL.Image.Image]:
    return [PIL.Image.new("RGB", (37 + i, 22 + 5 * i), (9, 99, 200)) for i in range(count)]


def test_the_architecture_is_fuyu() -> None:
    assert published("otterhd") == published("fuyu-8b")
    assert graph("otterhd").components == graph("fuyu-8b").components
    rows = report(graph("otterhd"), processor=vlmgraph.read_spec("otterhd").data["processor"]).expected
    assert {row.what: row.actual for row in rows}["visual_tokens 1024x1024"] == 1260 and all(
        r.actual == r.expected for r in rows if "x" in r.what
    )


def test_one_size_for_all_pictures_of_a_batch(processor: Processor) -> None:
    """Drawn anew for every batch: each of three about a hundred times in three hundred."""
    seen: Counter[int] = Counter()
    for _ in range(300):
        grid = processor(images=pictures(2), train=True)["image_grid"]
        assert (grid[0] == grid[1]).all() and grid[0, 1] == grid[0, 2], "squares, whatever the aspect"
        seen[int(grid[0, 1])] += 1
    assert set(seen) == {2, 4, 5} and all(70 < n < 130 for n in seen.values())  # of 20, 35 and 50 pixels; 100 +- 3.6 deviations
    assert processor(images=pictures(2))["image_grid"].tolist() == [[1, 3, 4], [1, 3, 4]], "otherwise pictures keep their size"


def test_the_baseline_has_one_size() -> None:
    spec = vlmgraph.read_spec("otterhd", variant="fixed")
    made = model_processor(spec, vlmgraph.elaborate(spec))
    assert {made(images=pictures(1), train=True)["image_grid"].tolist()[0][1] for _ in range(4)} == {18}


def test_answers_and_their_end_are_learned(processor: Processor) -> None:
    """The token that begins the answer is an input without a label, the end of the sentence takes the place of its second use.

    The space before the answer is a part of its first word in the published vocabulary and a byte without a label here.
    """
    out = processor(messages=said("Which?", "this"), images=pictures(1), train=True)
    (ids,), (labels,) = out["input_ids"], out["labels"]
    assert (ids == ANSWER).sum() == 1 and ids[-1] == END
    begin = int(np.flatnonzero(ids == ANSWER)[0])
    assert (labels[: begin + 2] == -100).all() and (labels[begin + 2 :] == ids[begin + 2 :]).all()
    assert (labels != -100).sum() == len("this") + 1
    assert processor(messages=said("Which?"), images=pictures(1))["input_ids"][0, -1] == ANSWER


def test_everything_trains(processor: Processor) -> None:
    model = fresh("otterhd")
    batch = [said("Which?", "this"), said("And", "that one")]
    out = processor(messages=batch, images=[[p] for p in pictures(2)], train=True)
    names = trains(model, "instruct", {k: torch.from_numpy(v) for k, v in out.items()})
    assert names == {n for n, _ in model.named_parameters()}
    assert list(model.graph.stages) == ["instruct"]
