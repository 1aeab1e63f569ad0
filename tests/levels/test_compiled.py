"""torch.compile against eager, for every spec."""

from __future__ import annotations

import shutil

import pytest
import torch

import vlmgraph
from tests.levels.models import SPECS, inputs, run, tiny


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("c++") is None and shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on CPU")
@pytest.mark.parametrize("name", SPECS)
@torch.no_grad()
def test_compiled(name: str) -> None:
    eager, _ = tiny(name)
    fast = vlmgraph.compile(eager.spec, mode="compile")
    fast.load_state_dict(eager.state_dict())
    given = inputs(name, eager.main)
    wanted = run(name, eager.main, given)
    torch.manual_seed(0)
    got = fast(**given)
    for output, tensor in wanted.items():
        # fused kernels sum in another order: float32 rounding over a few layers
        torch.testing.assert_close(got[output], tensor, rtol=2e-4, atol=2e-4)
    assert fast.compiled_regions is not None and not fast.compiled_regions.recompilations, fast.compiled_regions.report()
