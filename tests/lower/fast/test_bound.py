"""Compilations that are called without torch's guards: what they rest on is looked at, and only where that is enough."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.backends.registry import lookup_backend

import vlmgraph
from tests.levels.models import tiny
from tests.lower.fast.test_regional import given, quick
from vlmgraph.lower.example import Amount
from vlmgraph.lower.fast import regional
from vlmgraph.lower.fast.regional import Kind, Regions


@pytest.fixture(autouse=True)
def no_kernels(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(regional, "lookup_backend", lambda _: lookup_backend("aot_eager"))
    with torch.no_grad():
        yield


class Sized(nn.Module):
    """Does another thing from nine tokens on."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        x = x if y is None else x + y
        return self.a(x) if x.shape[1] > 8 else self.b(x)


class Counts(Sized):
    count = 0

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        self.count += 1
        return super().forward(x, y)


def compiled(kind: type[nn.Module]) -> tuple[nn.Module, list[nn.Module], Kind]:
    model = nn.ModuleList([kind(), kind()])
    plain = [kind(), kind()]
    for a, b in zip(plain, model, strict=True):
        a.load_state_dict(b.state_dict())
    (made,) = Regions(nn.ModuleDict({"layers": model})).kinds.values()
    return model, plain, made


def through_torch(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows with each call that torch's guards look at."""
    calls: list[int] = []
    compile = Kind.compile
    monkeypatch.setattr(Kind, "compile", lambda self, *a: calls.append(1) or compile(self, *a))
    return calls


def test_later_calls_go_past_the_guards_whatever_their_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    model, plain, kind = compiled(Sized)
    calls = through_torch(monkeypatch)
    for rows, count in ((2, 3), (5, 4), (3, 8), (3, 8)):
        x = torch.randn(rows, count, 4)
        for ours, theirs in zip(model, plain, strict=True):
            assert torch.equal(ours(x), theirs(x))
    assert len(calls) == 1 == kind.compilations


def test_a_size_that_was_not_compiled_for_is_compiled_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    model, plain, kind = compiled(Sized)
    calls = through_torch(monkeypatch)
    for count in (3, 12, 5, 20, 12):
        x = torch.randn(2, count, 4)
        assert torch.equal(model[0](x), plain[0](x))
    assert len(calls) == 2 == kind.compilations and kind.recompilations == 1


def test_strides_types_and_tensors_that_enter_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    model, plain, _ = compiled(Sized)
    x, y = torch.randn(2, 3, 4), torch.randn(2, 3, 4)
    for a, b in ((x, y), (x, x), (torch.randn(3, 2, 4).transpose(0, 1), y), (torch.randn(2, 3, 8)[..., ::2], y), (x, y.double().float())):
        assert torch.equal(model[0](a, b), plain[0](a, b))
    for module in (*model, *plain):
        module.double()
    assert torch.equal(model[0](x.double(), y.double()), plain[0](x.double(), y.double()))


def test_weights_are_read_at_each_call() -> None:
    model, plain, _ = compiled(Sized)
    x = torch.randn(2, 3, 4)
    model[0](x)
    for module in (model[0], plain[0]):
        module.b.weight = nn.Parameter(torch.full((4, 4), 0.5))
        module.b.bias.zero_()
    assert torch.equal(model[0](x), plain[0](x))


def test_what_a_block_leaves_behind_keeps_it_behind_the_guards(monkeypatch: pytest.MonkeyPatch) -> None:
    model, plain, _ = compiled(Counts)
    calls = through_torch(monkeypatch)
    for i in range(1, 4):
        x = torch.randn(2, 3 + i, 4)
        assert torch.equal(model[0](x), plain[0](x)) and model[0].count == i
    assert len(calls) == 3


@pytest.mark.parametrize("cache", ["static", pytest.param("dynamic", marks=pytest.mark.slow)])
def test_a_step_of_decoding_goes_past_the_guards(cache: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, eager = quick("llava-1.5"), tiny("llava-1.5")[0]
    assert model.compiled_regions is not None
    inputs = given("llava-1.5", Amount(3, 1))
    model.generate(**inputs, max_new_tokens=3, cache_implementation=cache)
    calls = through_torch(monkeypatch)
    written = model.generate(**inputs, max_new_tokens=6, cache_implementation=cache)
    assert not calls and torch.equal(written, eager.generate(**inputs, max_new_tokens=6))


@pytest.mark.parametrize("cache", ["static", pytest.param("dynamic", marks=pytest.mark.slow)])
def test_what_is_compiled_wrongly_is_not_used(cache: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A compiler that gives a tenth too much: keys and values that it wrote are put right as well."""

    def wrong(module, inputs):  # type: ignore[no-untyped-def]
        run = lookup_backend("eager")(module, inputs)
        return lambda *flat: [v * 1.1 if isinstance(v, Tensor) and v.is_floating_point() else v for v in run(*flat)]

    monkeypatch.setattr(regional, "lookup_backend", lambda _: wrong)
    eager = tiny("llava-1.5")[0]
    model = vlmgraph.compile(eager.spec, mode="compile")
    model.load_state_dict(eager.state_dict())
    inputs = given("llava-1.5", Amount(3, 1))
    written = model.generate(**inputs, max_new_tokens=4, cache_implementation=cache)
    assert torch.equal(written, eager.generate(**inputs, max_new_tokens=4, cache_implementation=cache))
    assert model.compiled_regions is not None
    assert all("is off by" in row["eager"] for row in model.compiled_regions.report() if row["compilations"])


class Map(nn.Module):
    """Cuts windows out of a map."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x).unflatten(3, (-1, 2)).mean(4))


def test_a_map_is_compiled_for_its_size_and_any_number_of_pictures() -> None:
    model, plain, kind = compiled(Map)
    for shape in ((2, 3, 8, 8), (5, 3, 8, 8), (3, 3, 6, 4), (4, 3, 6, 4)):
        x = torch.randn(shape)
        assert torch.equal(model[1](x), plain[1](x))
    assert kind.compilations == 2 and kind.recompilations == 0
