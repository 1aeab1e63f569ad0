"""Forms a checkpoint of any family comes in: bfloat16, and many files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import vlmgraph
from vlmgraph.weights.safetensors_io import INDEX

pytest.importorskip("transformers", minversion="5.0", reason="the reference implementations are those of transformers 5")

from tests.parity.models import CASES
from tests.parity.test_import import one_of_each
from tests.parity.test_parity import error, write


def real(inputs: dict[str, Any], name: str, value: torch.Tensor) -> torch.Tensor:
    """Without the logits at padding, which nobody reads."""
    mask = inputs.get("attention_mask")
    return value[mask.bool()] if mask is not None and name == "logits" and value.shape[:2] == mask.shape else value


@pytest.mark.parametrize("name", one_of_each())
@torch.no_grad()
def test_bfloat16_is_no_further_off_than_the_references(name: str, tmp_path: Path) -> None:
    """Both round every step, in an order of their own: what counts is how far each is from the float32 model."""
    reference, inputs, names = CASES[name]()
    exact = reference(**inputs)
    rounded = reference.bfloat16()
    write(rounded, tmp_path)
    model = vlmgraph.load(tmp_path)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    floats = {k: v.bfloat16() if v.is_floating_point() else v for k, v in inputs.items()}
    ours = model(**inputs)
    try:
        theirs = rounded(**floats)
    except RuntimeError as reason:
        if "multiple of 16 bytes" not in str(reason):
            raise
        pytest.skip(f"the reference's grouped products of experts take no such widths in bfloat16: {reason}")
    for output in names:
        wanted = real(inputs, output, exact[output])
        own = error(real(inputs, output, theirs[output]), wanted)
        assert error(real(inputs, output, ours[output]), wanted) < 2 * own + 1e-3, (output, own)


@pytest.mark.parametrize("name", one_of_each())
@torch.no_grad()
def test_many_files_are_one(name: str, tmp_path: Path) -> None:
    reference = CASES[name]()[0]
    write(reference, tmp_path / "one")
    write(reference, tmp_path / "many", max_shard_size="20KB")
    assert (tmp_path / "many" / INDEX).is_file()
    one, many = vlmgraph.load(tmp_path / "one").state_dict(), vlmgraph.load(tmp_path / "many").state_dict()
    assert one.keys() == many.keys() and all(torch.equal(one[k], many[k]) for k in one)
