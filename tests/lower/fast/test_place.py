"""Weights in huge pages: the same tensors, elsewhere."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import vlmgraph
from vlmgraph import pages
from vlmgraph.lower.fast import place
from vlmgraph.lower.fast.fuse import fuse, fused, settle
from vlmgraph.lower.fast.place import Home, home
from vlmgraph.lower.model import CompiledModel

pytestmark = pytest.mark.skipif(not pages.size(), reason="this kernel gives no huge pages")

SPEC: dict[str, Any] = {
    "vlmgraph": 1,
    "model": {"name": "writer"},
    "inputs": {"input_ids": "ids[B, T]"},
    "outputs": {"logits": "logits[B, T, vocab]"},
    "components": {
        "embed": {"type": "text.embedding", "of": "llm"},
        "llm": {
            "type": "decoder.transformer", "preset": "qwen2-1.5b", "layers": 2, "width": 256, "heads": 4, "kv_heads": 2, "mlp": 512,
            "vocab": 4096, "tie": True,
        },
        "head": {"type": "head.lm", "of": "llm"},
    },
    "graph": {"edges": ["input_ids -> embed -> llm -> head -> logits"]},
    "programs": {"forward": {"outputs": ["logits"]}, "generate": {"from": "forward", "cache": ["llm"]}},
}  # fmt: skip
IDS = torch.arange(2, 12)[None]


def writer() -> CompiledModel:
    torch.manual_seed(0)
    model = vlmgraph.compile(SPEC)
    fuse(model)
    settle(model)
    return model


def homes(model: nn.Module) -> set[Home]:
    return {home(p) for p in model.parameters()}


def huge(address: int) -> int:
    """KB in huge pages of the mapping that holds an address."""
    inside = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if bounds := re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line):
            inside = int(bounds[1], 16) <= address < int(bounds[2], 16)
        elif inside and line.startswith("AnonHugePages"):
            return int(line.split()[1])
    raise AssertionError("nothing is mapped there")


def test_weights_move_and_stay_what_they_are() -> None:
    model = writer()
    before, wanted = {n: (p, p.clone()) for n, p in model.named_parameters()}, model(input_ids=IDS)["logits"]
    known = place(model, set())
    assert homes(model) == known and len(known) == 1
    after = dict(model.named_parameters())
    assert list(after) == list(before)
    assert all(after[n] is p and torch.equal(p, numbers) for n, (p, numbers) in before.items())
    assert all(part.current() for part in fused(model)), "joined weights are the rows of one tensor still"
    assert torch.equal(model(input_ids=IDS)["logits"], wanted)
    assert place(model, known) is known, "what has its place is not moved again"


def test_they_lie_in_huge_pages() -> None:
    model = writer()
    place(model, set())
    total = sum(p.numel() * p.element_size() for p in model.parameters())
    held = pages.fresh(64 << 20)
    first = torch.frombuffer(held, dtype=torch.uint8).fill_(1).data_ptr()
    pages.collapse((first, first + (64 << 20)))
    if huge(first) < 60 << 10:
        pytest.skip("the kernel has no huge pages left")
    assert huge(next(iter(homes(model)))[0] + total // 2) * 1024 > total / 2


def test_numbers_written_into_them_are_read_and_other_weights_are_placed_anew() -> None:
    model = writer()
    known = place(model, set())
    model.load_state_dict({n: torch.full_like(p, 0.5) for n, p in model.state_dict().items()})
    assert place(model, known) is known and float(model.get_parameter("embed.tokens.weight").detach()[7, 7]) == 0.5
    model.to(torch.bfloat16)
    settle(model)
    again = place(model, known)
    assert len(again) == 2 and homes(model) == again - known


def test_views_of_one_storage_stay_views_and_gaps_are_left_behind() -> None:
    whole = torch.randn(3 * (1 << 20))
    root = nn.Module()
    root.a = nn.Parameter(whole[: 1 << 20].view(1024, 1024))
    root.b = nn.Parameter(whole[1 << 19 : 1 << 20].view(512, 1024).t())  # the second half of `a`, turned
    root.c = nn.Parameter(whole[2 << 20 :].view(1024, 1024))
    numbers = [p.clone() for p in root.parameters()]
    place(root, set())
    assert all(torch.equal(p, n) for p, n in zip(root.parameters(), numbers, strict=True))
    with torch.no_grad():
        root.a[512, 3] = 7.0
        assert float(root.b[3, 0]) == 7.0
    assert root.a.untyped_storage().nbytes() < whole.nbytes - (1 << 20), "what no weight stands in is not copied"


def test_weights_of_other_processes_and_small_models_stay() -> None:
    root = nn.Linear(2048, 2048)
    root.share_memory()
    there = root.weight.data_ptr()
    assert place(root, set()) == set() and root.weight.data_ptr() == there
    little = nn.Linear(256, 256)
    there = little.weight.data_ptr()
    assert place(little, set()) == set() and little.weight.data_ptr() == there


def test_a_loaded_model_leaves_the_file_that_it_was_mapped_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = writer().save(tmp_path / "writer")
    model = vlmgraph.load(folder, mode="compile")
    mapped = homes(model)
    with monkeypatch.context() as patch:
        patch.setenv("VLMGRAPH_HUGE_PAGES", "0")
        model.settle()
        assert homes(model) & mapped
    model.settle()
    assert len(homes(model)) == 1 and not homes(model) & mapped
    assert str(folder) not in Path("/proc/self/maps").read_text(), "the file is closed"
    plain = vlmgraph.load(folder).state_dict()
    assert all(torch.equal(w, plain[n]) for n, w in model.state_dict().items())
