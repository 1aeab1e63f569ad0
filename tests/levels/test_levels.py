"""Every spec, by what it declares alone: it checks, it runs, its picture counts, its stages train what they say, its source is it.

`tests/status.py` reads from these names which level of proof a spec has reached.
"""

from __future__ import annotations

import pytest
import torch
from vlmgraph.codegen.generate import source

import vlmgraph
from tests.levels.models import SPECS, far, inputs, run, tiny
from vlmgraph.train.stage import begin

PICTURES = ("image", "patches", "video")


@pytest.mark.parametrize("name", SPECS)
def test_clean(name: str) -> None:
    """No finding at any size, in any variant."""
    spec = vlmgraph.read_spec(name)
    forms = [{"size": size} for size in (None, *spec.sizes)] + [{"variant": variant} for variant in spec.variants]
    for form in forms:
        assert vlmgraph.check(vlmgraph.read_spec(name, **form)) == [], form


@pytest.mark.parametrize("name", SPECS)
@torch.no_grad()
def test_runs(name: str) -> None:
    """Every program, twice the same; another picture changes what comes of it in some program."""
    model, _ = tiny(name)
    moved: dict[str, float] = {}
    for program in model.graph.programs:
        given = inputs(name, program)
        first, second = run(name, program, given), run(name, program, given)
        assert first and all(torch.equal(first[k], second[k]) for k in first), program
        assert all(v.isfinite().all() for v in first.values() if v.is_floating_point()), program
        for shown in [k for k, t in model.accepted(program).items() if k in given and t.kind in PICTURES]:
            noise = torch.randn(given[shown].shape, generator=torch.Generator().manual_seed(1))
            other = run(name, program, {**given, shown: given[shown] + noise})
            moved[shown] = max(moved.get(shown, 0.0), *(far(other[k], first[k]) for k in first))
    assert all(change > 1e-3 for change in moved.values()), moved


@pytest.mark.parametrize("name", SPECS)
def test_trains(name: str) -> None:
    """In every stage gradients arrive at parameters that train, and nowhere else."""
    model, _ = tiny(name)
    state = {k: v.clone() for k, v in model.state_dict().items()}
    for stage, said in model.graph.stages.items():
        trained = set(begin(model, stage))
        objectives = [o for o in said.objectives if o in model.graph.objectives and trained]  # a stage may be one of a variant
        for objective in objectives:
            model.zero_grad(set_to_none=True)
            loss = run(name, f"objective.{objective}", inputs(name, f"objective.{objective}", labels=True))["loss"]
            assert loss.ndim == 0 and loss.isfinite(), f"{stage}: {objective}"
            loss.backward()
            found = {n for n, p in model.named_parameters() if p.grad is not None}
            assert found and found <= trained, f"{stage}: {objective}"
    model.zero_grad(set_to_none=True)
    model.load_state_dict(state)
    model.requires_grad_(True)


@pytest.mark.parametrize("name", SPECS)
@torch.no_grad()
def test_source(name: str) -> None:
    """model.py has the same keys and computes the same to the bit."""
    model, _ = tiny(name)
    namespace: dict[str, object] = {"__name__": "generated"}
    exec(compile(source(model), "model.py", "exec"), namespace)
    copy = namespace["Model"]().eval()  # type: ignore[operator]
    copy.load_state_dict(model.state_dict(), strict=True)
    for program in model.graph.programs:
        method = getattr(copy, program.replace("-", "_"), None)
        if method is None:  # a program with a cache is the one it comes from
            continue
        given = inputs(name, program)
        torch.manual_seed(0)
        theirs = method(**given)
        assert all(torch.equal(theirs[k], v) for k, v in run(name, program, given).items()), program
