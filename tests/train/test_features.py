"""Frozen parts first: the same loss and gradients, and a part that is frozen sees each sample once."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from tests.levels.models import SPECS, inputs, tiny
from vlmgraph.lower.model import CompiledModel
from vlmgraph.train.features import FeatureCache, FrozenFirst
from vlmgraph.train.stage import begin

OBJECTIVE = "objective.lm"


@pytest.fixture
def llava() -> Iterator[CompiledModel]:
    """In the stage that trains the projector alone."""
    model, _ = tiny("llava-1.5")
    begin(model, "align")
    yield model
    model.requires_grad_(True)


@pytest.fixture
def batch() -> dict[str, Tensor]:
    return inputs("llava-1.5", OBJECTIVE, labels=True)


class Calls:
    """How many pictures a module saw."""

    def __init__(self, module: torch.nn.Module) -> None:
        self.rows = 0
        module.register_forward_pre_hook(self.count, with_kwargs=True)

    def count(self, module: torch.nn.Module, args: tuple, kwargs: dict) -> None:
        self.rows += len(next(iter((*args, *kwargs.values()))))


def gradients(model: CompiledModel, loss: Tensor) -> dict[str, Tensor]:
    model.zero_grad(set_to_none=True)
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def test_each_sample_once(llava: CompiledModel, batch: dict[str, Tensor]) -> None:
    step = FrozenFirst(llava, OBJECTIVE)
    calls = Calls(llava.get_submodule("vision"))
    pictures = len(batch["pixel_values"])
    first = step(**batch)["loss"]
    assert calls.rows == pictures
    assert torch.equal(step(**batch)["loss"], first)
    turned = {**batch, "pixel_values": batch["pixel_values"].flip(0)}
    step(**turned)
    assert calls.rows == pictures, "another order is no other picture"
    moved = batch["pixel_values"].clone()
    moved[0] += 0.5
    other = step(**{**batch, "pixel_values": moved})["loss"]
    assert calls.rows == pictures + 1 and not torch.equal(other, first)


def test_the_same_gradients(llava: CompiledModel, batch: dict[str, Tensor]) -> None:
    step = FrozenFirst(llava, OBJECTIVE)
    wanted = gradients(llava, llava.programs[OBJECTIVE](**batch)["loss"])
    for _ in range(2):  # of features that are computed, of features that are kept
        got = gradients(llava, step(**batch)["loss"])
        assert got.keys() == wanted.keys() and all(torch.equal(got[name], value) for name, value in wanted.items())


def test_weights_that_change_empty_the_cache(llava: CompiledModel, batch: dict[str, Tensor]) -> None:
    step = FrozenFirst(llava, OBJECTIVE)
    before = step(**batch)["loss"]
    weight = llava.get_parameter("vision.layers.0.attention.q.weight")
    kept = weight.detach().clone()
    with torch.no_grad():
        weight *= 2
    changed, plain = step(**batch)["loss"], llava.programs[OBJECTIVE](**batch)["loss"]
    with torch.no_grad():
        weight.copy_(kept)
    assert torch.equal(changed, plain) and not torch.equal(changed, before)


def test_what_trains_is_not_kept(llava: CompiledModel, batch: dict[str, Tensor]) -> None:
    step = FrozenFirst(llava, OBJECTIVE)
    step(**batch)
    llava.get_submodule("vision").requires_grad_(True)
    found = gradients(llava, step(**batch)["loss"])
    assert any(name.startswith("vision.") for name in found)
    assert not step.cache.rows


def test_the_limit(llava: CompiledModel, batch: dict[str, Tensor]) -> None:
    whole = FrozenFirst(llava, OBJECTIVE)
    whole(**batch)
    one = whole.cache.size // len(whole.cache.rows)
    small = FrozenFirst(llava, OBJECTIVE, FeatureCache(limit=one))
    assert torch.equal(small(**batch)["loss"], whole(**batch)["loss"])
    assert len(small.cache.rows) == 1 and small.cache.size == one


KEPT = {
    "aria", "blip-2", "cogvlm", "deepseek-vl", "flamingo", "idefics", "instructblip", "internvl-2.5", "janus", "janus-pro",
    "kosmos-2", "llava", "llava-1.5", "llava-next", "mantis", "maya", "moondream",
}  # fmt: skip
"""Specs with a stage in which a frozen part sees nothing but its own input, one row a row."""


@pytest.mark.slow
@pytest.mark.parametrize("name", SPECS)
def test_every_stage(name: str) -> None:
    """The same loss in every stage of every spec; where a picture's encoder is frozen by itself it is run once."""
    model, _ = tiny(name)
    kept = False
    try:
        for stage, said in model.graph.stages.items():
            begin(model, stage)
            for objective in (o for o in said.objectives if o in model.graph.objectives):
                program = f"objective.{objective}"
                given = inputs(name, program, labels=True)
                step = FrozenFirst(model, program)
                losses = []
                for run in (model.programs[program], step, step):
                    torch.manual_seed(0)
                    losses.append(run(**given)["loss"])
                missed = step.cache.missed
                assert torch.equal(losses[0], losses[1]) and torch.equal(losses[1], losses[2]), f"{stage}: {objective}"
                assert missed == step.cache.found, "the second time nothing is computed"
                kept = kept or missed > 0
        assert kept == (name in KEPT)
    finally:
        model.requires_grad_(True)
