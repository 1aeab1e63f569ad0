"""The compiler stays out while shapes are found, and is whole again afterwards."""

from __future__ import annotations

import subprocess
import sys

SOURCE = """
import sys
import torch
from torch.nn import functional as F
from vlmgraph.lower.uncompiled import MARK, NAME, uncompiled

def work():
    x = torch.empty(2, 3, 8, device="meta")
    y = torch.cat([x, x + x[0]], 1).masked_fill(torch.ones(6, 1, dtype=torch.bool, device="meta"), 0.0)
    return tuple(F.gelu(F.layer_norm(y, (8,))).shape)

with uncompiled():
    assert work() == (2, 6, 8)
    stand_in = sys.modules[NAME]
assert NAME not in sys.modules and "_dynamo" not in vars(torch)
try:
    with uncompiled():
        raise ZeroDivisionError
except ZeroDivisionError:
    assert NAME not in sys.modules
assert work() == (2, 6, 8)  # now torch imports its own, and marks anew
import torch._dynamo
assert torch._dynamo is not stand_in and torch._dynamo.__file__ and hasattr(torch._dynamo, "optimize")
from torch._refs import add
inner = add
while not hasattr(inner, MARK) and hasattr(inner, "__wrapped__"):
    inner = inner.__wrapped__
assert getattr(inner, MARK, None) is not inner, "the stand-in's answer was kept"
run = torch.compile(lambda x: x.sin() + 1, backend="eager")
assert torch.equal(run(torch.zeros(2)), torch.ones(2))
with uncompiled():  # where the compiler is there already, nothing is put in its place
    assert sys.modules[NAME] is torch._dynamo
print("done")
"""


def test_nothing_of_the_stand_in_stays() -> None:
    done = subprocess.run([sys.executable, "-c", SOURCE], capture_output=True, text=True)
    assert done.stdout == "done\n", done.stderr
