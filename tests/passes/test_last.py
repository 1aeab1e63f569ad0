"""Logits of the last position alone: the head sees one row."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.levels.models import SPECS, far, inputs, tiny
from vlmgraph.passes.last import last_position


def writes(name: str) -> str | None:
    graph = tiny(name)[0].graph
    return next((p for p in ("generate", "forward") if p in graph.programs and "logits" in tiny(name)[0].programs[p].graph().outputs), None)


QUICK = ("llava-1.5", "cogvlm", "blip")


def same(name: str) -> None:
    program = writes(name)
    if program is None:
        return
    model = tiny(name)[0]
    given = inputs(name, program)
    with torch.no_grad():
        torch.manual_seed(0)
        whole = model.programs[program].run(given)["logits"]
        torch.manual_seed(0)
        cut = model.programs[program].run(given, last=True)["logits"]
    assert cut.shape[1] == 1 or cut.shape == whole.shape
    assert far(cut[:, -1], whole[:, -1]) < 1e-5


@pytest.mark.parametrize("name", QUICK)
def test_same_logits(name: str) -> None:
    same(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in SPECS if name not in QUICK])
def test_same_logits_of_all(name: str) -> None:
    same(name)


def test_the_head_sees_one_row() -> None:
    model = tiny("llava-1.5")[0]
    seen: list[Tensor] = []
    hook = model.get_submodule("head").register_forward_pre_hook(lambda m, args, kwargs: seen.append(kwargs["x"]), with_kwargs=True)
    try:
        model.generate(**inputs("llava-1.5", "generate"), max_new_tokens=2)
    finally:
        hook.remove()
    assert [tuple(x.shape[:2]) for x in seen] == [(2, 1), (2, 1)]


def test_logits_that_a_program_reads_stay_whole() -> None:
    model = tiny("clip")[0]
    program = model.programs[model.main].graph()
    assert last_position(model.graph, program) is program
