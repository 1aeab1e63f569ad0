"""Greedy decoding of cases in `models_native`, `models_hybrid` and `models_maya`: eight tokens, the same as the reference writes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import vlmgraph

pytest.importorskip("transformers", minversion="5.0", reason="the reference implementations are those of transformers 5")

from tests.parity.models import CASES
from tests.parity.test_parity import write


@torch.no_grad()
@pytest.mark.parametrize(
    "name",
    [
        "qwen2_5_vl_images_and_video",
        "deepseek_vl_two_images_left_padding",
        "deepseek_vl_hybrid_two_images_left_padding",
        "llava_cohere_other_options",
    ],
)
def test_same_tokens_are_generated(name: str, tmp_path: Path) -> None:
    reference, inputs, _ = CASES[name]()
    write(reference, tmp_path)
    options = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": None}
    wanted = reference.generate(**inputs, **options, pad_token_id=0)[:, -8:]
    assert vlmgraph.load(tmp_path).generate(**inputs, **options)[:, -8:].tolist() == wanted.tolist()
    assert wanted.unique().numel() > 2
