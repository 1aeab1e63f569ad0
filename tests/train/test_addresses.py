"""What an address means where parts of blocks have names of their own."""

from __future__ import annotations

from tests.architectures.common import meta
from vlmgraph.train.stage import addressed


def test_a_part_of_a_block_is_not_what_is_called_so_inside_its_neighbour() -> None:
    """Qwen2-VL's merger is `visual.mlp`; the layers of `visual.vision` have an `mlp` each, which is another thing."""
    model = meta("qwen2-vl")
    merger = addressed(model, "visual.mlp")
    assert merger and all(name.startswith("visual.mlp.") for name in merger)
    assert addressed(model, "visual.mlp.fc1").keys() < merger.keys()
    inner = addressed(model, "visual.vision.mlp")
    assert inner and all(name.startswith("visual.vision.layers.") and ".mlp." in name for name in inner)
    assert addressed(model, "visual").keys() > merger.keys() | inner.keys()
