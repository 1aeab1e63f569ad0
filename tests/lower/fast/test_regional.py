"""Repeated blocks compiled once a kind: how often, and that sizes do not matter."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import vlmgraph
from tests.levels.models import tiny
from vlmgraph.lower.example import Amount, example_inputs
from vlmgraph.lower.fast import regional
from vlmgraph.lower.fast.regional import Regions, regions, signature
from vlmgraph.lower.model import CompiledModel

pytestmark = pytest.mark.skipif(shutil.which("c++") is None and shutil.which("g++") is None, reason="needs a C++ compiler on CPU")
SIZES = (Amount(2, 1), Amount(3, 2, words=5), Amount(5, 2, words=3), Amount(4, 3, words=2))


def quick(name: str) -> CompiledModel:
    """Compiled down to what Inductor would be given, which is what recompiles or does not; its kernels are the slow test's."""
    from torch._dynamo.backends.registry import lookup_backend

    eager, _ = tiny(name)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(regional, "lookup_backend", lambda _: lookup_backend("aot_eager"))
        model = vlmgraph.compile(eager.spec, mode="compile")
    model.load_state_dict(eager.state_dict())
    return model


def given(name: str, amount: Amount, program: str = "generate") -> dict[str, Tensor]:
    model, processor = tiny(name)
    made = example_inputs(model.graph, processor, program, amount=amount)
    return {key: torch.from_numpy(np.ascontiguousarray(value)) for key, value in made.items()}


@pytest.mark.parametrize("cache", ["dynamic", pytest.param("static", marks=pytest.mark.slow)])
def test_sizes_do_not_compile_again(cache: str) -> None:
    """Batch, number of images and length of the prompt change; at most a compilation a kind for the prompt, the first and later steps."""
    model, eager = quick("llava-1.5"), tiny("llava-1.5")[0]
    assert model.compiled_regions is not None
    for amount in SIZES:
        inputs = given("llava-1.5", amount)
        written = model.generate(**inputs, max_new_tokens=4, cache_implementation=cache)
        assert torch.equal(written, eager.generate(**inputs, max_new_tokens=4, cache_implementation=cache))
        if amount is SIZES[0]:
            first = model.compiled_regions.compilations
    kinds = {row["kind"]: row for row in model.compiled_regions.report()}
    assert model.compiled_regions.compilations == first and model.compiled_regions.recompilations == 0
    assert 0 < kinds["Block"]["compilations"] <= 3 and kinds["Block_2"]["compilations"] <= 3
    assert not any("eager" in row for row in kinds.values())


@torch.no_grad()
def test_one_row_that_stands_for_all_samples_compiles_once() -> None:
    """A resampler's first layer is given its queries expanded over the batch, the second what the first made of them."""
    model = quick("flamingo")
    model(**given("flamingo", SIZES[0], "forward"))
    assert model.compiled_regions is not None
    rows = {row["kind"]: row for row in model.compiled_regions.report()}
    assert rows["ResamplerLayer"]["blocks"] == 2 and rows["ResamplerLayer"]["compilations"] == 1
    assert not model.compiled_regions.recompilations


@pytest.mark.slow
def test_one_image_and_one_row_are_the_bound() -> None:
    """torch compiles sizes of 1 apart: two more forms at most, of the prompt and of a step."""
    model = quick("llava-1.5")
    assert model.compiled_regions is not None
    for amount in (Amount(2, 2), Amount(1, 1), Amount(1, 2, words=4), Amount(3, 1)):
        model.generate(**given("llava-1.5", amount), max_new_tokens=3)
    assert model.compiled_regions.recompilations == 0
    assert all(row["compilations"] <= 4 for row in model.compiled_regions.report())


def test_blocks_of_a_kind_share_a_compilation() -> None:
    eager = tiny("clip")[0]
    found = dict(regions(eager))
    assert {name.rpartition(".")[0] for name in found} == {"vision.layers", "text.layers"}
    assert signature(found["vision.layers.0"]) == signature(found["vision.layers.1"]) != signature(found["text.layers.0"])


def test_what_depends_on_values_stays_out() -> None:
    apart = tuple(regional.EAGER)
    found = dict(regions(tiny("deepseek-vl2")[0], apart))
    assert not any(isinstance(part, apart) for module in found.values() for part in module.modules())
    assert any(".attention" in name for name in found)  # the parts of a block with a mixture of experts are regions


class Odd(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(2, 2), nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.a(x) if float(x.detach().sum()) > 0 else self.b(x)


def test_a_block_that_cannot_be_compiled_runs_eagerly_and_says_so() -> None:
    model = nn.Sequential(Odd(), Odd())
    x = torch.ones(3, 2)
    wanted = model(x)
    compiled = Regions(model)
    assert torch.equal(model(x), wanted)
    (row,) = compiled.report()
    assert row["eager"]
