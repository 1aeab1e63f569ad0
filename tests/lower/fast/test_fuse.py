"""Joined products: the same numbers and the same state dict, for every spec."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import vlmgraph
from tests.levels.models import SPECS, far, inputs, run, tiny
from vlmgraph.lower.fast.fuse import Joined, fuse, fused, settle, unfuse
from vlmgraph.lower.model import CompiledModel

QUICK = ("llava-1.5", "cogvlm", "llama-3.2-vision")


def twin(name: str) -> CompiledModel:
    """A fused model with the weights of the shared one."""
    eager, _ = tiny(name)
    model = vlmgraph.compile(eager.spec)
    model.load_state_dict(eager.state_dict())
    fuse(model)
    settle(model)
    return model


def same(name: str) -> None:
    eager, _ = tiny(name)
    model = twin(name)
    assert sum(part.whole is not None for part in fused(model)) > 0 or not any(fused(model))
    state, before = model.state_dict(), eager.state_dict()
    assert list(state) == list(before)
    assert all(torch.equal(a, b) for a, b in zip(state.values(), before.values(), strict=True))
    with torch.no_grad():
        given = inputs(name, eager.main)
        wanted = run(name, eager.main, given)
        torch.manual_seed(0)
        got = model(**given)
    assert all(far(got[key], wanted[key]) < 1e-5 for key in wanted)  # one product sums its rows in another order


@pytest.mark.parametrize("name", QUICK)
def test_same_numbers(name: str) -> None:
    same(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in SPECS if name not in QUICK])
def test_same_numbers_of_all(name: str) -> None:
    same(name)


@pytest.fixture(scope="module")
def model() -> CompiledModel:
    return twin("llava-1.5")


def first(model: nn.Module) -> Joined:
    return next(part for part in fused(model) if part.whole is not None)


def test_the_joined_product_is_what_runs(model: CompiledModel) -> None:
    part = first(model)
    x = torch.randn(1, 2, part.maps()[0].in_features)
    assert part.whole is not None
    kept = part.whole.clone()
    with torch.no_grad():
        before = part(x)
        part.whole.zero_()
        assert not torch.equal(part(x), before)
        assert all(not m.weight.any() for m in part.maps())  # they are its rows
        part.whole.copy_(kept)


def test_weights_loaded_later_are_joined(model: CompiledModel) -> None:
    other = {name: value + 1 for name, value in model.state_dict().items()}
    kept = copy.deepcopy(model.state_dict())
    model.load_state_dict(other)
    part = first(model)
    assert part.current() and part.whole is not None
    assert torch.equal(part.whole, torch.cat([m.weight for m in part.maps()]))
    model.load_state_dict(kept)


def test_weights_moved_are_joined_anew() -> None:
    model = twin("clip").to(torch.float64)
    part = first(model)
    assert not part.current()
    settle(model)
    assert part.current() and part.whole is not None and part.whole.dtype == torch.float64


def test_gradients_reach_every_map(model: CompiledModel) -> None:
    part = first(model)
    part(torch.randn(1, 2, part.maps()[0].in_features)).sum().backward()
    assert all(m.weight.grad is not None for m in part.maps())
    model.zero_grad()


def test_unfused_is_as_it_was() -> None:
    model = twin("cogvlm")
    unfuse(model)
    assert [type(m) for m in model.modules()] == [type(m) for m in tiny("cogvlm")[0].modules()]
