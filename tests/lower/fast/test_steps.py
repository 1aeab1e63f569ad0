"""A step of decoding leaves the mask out where all is seen, and only there."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import vlmgraph
from tests.levels.models import tiny
from vlmgraph.lower.fast import fuse
from vlmgraph.nn import stack as stacks
from vlmgraph.nn.cache import KVCache
from vlmgraph.nn.stack import Stack


def stack(rules: tuple[str, ...]) -> tuple[Stack, Stack]:
    """As built and as compiled mode has it."""
    models = [vlmgraph.compile(tiny("llava-1.5")[0].spec) for _ in range(2)]
    fuse(models[1])
    found = [model.get_submodule("llm") for model in models]
    for one in found:
        assert isinstance(one, Stack)
        one.rules = (rules,) * len(one.layers)
        one.window = 3
    return found[0], found[1]  # type: ignore[return-value]


@pytest.mark.parametrize("rules", [("causal",), ("causal", "window"), ("prefix",)])
@pytest.mark.parametrize("padded", [False, True])
@torch.no_grad()
def test_steps_are_those_of_the_stack_as_built(rules: tuple[str, ...], padded: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, fast = stack(rules)
    x, mask = torch.randn(2, 8, plain.layers[0].attention.width), torch.ones(2, 8, dtype=torch.long)
    mask[0, :2] = 0 if padded else 1
    built = []
    make = stacks.attention_mask
    monkeypatch.setattr(stacks, "attention_mask", lambda *a: built.append(made := make(*a)) or made)

    def run(which: Stack) -> tuple[list[Tensor], list[bool]]:
        cache, out = KVCache(), []
        built.clear()
        out.append(which(x[:, :5], mask[:, :5], cache=cache))
        out += [which(x[:, i : i + 1], mask[:, : i + 1], cache=cache) for i in (5, 6)]
        out.append(which(x[:, 7:], None, cache=cache))  # a step that says nothing of padding
        return out, [made is None for made in built]

    (wanted, before), (got, after) = run(plain), run(fast)
    for a, b in zip(got, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
    open_ = not padded and "window" not in rules
    assert before == [False] * 4 and after == [False, open_, open_, open_]
    assert fast.rules == plain.rules
