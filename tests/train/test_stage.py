"""Stages: what trains, what starts as a copy."""

from __future__ import annotations

import pytest
import torch

import vlmgraph
from vlmgraph.diagnostics import DiagnosticError
from vlmgraph.diagnostics import codes as C
from vlmgraph.train.stage import addressed, begin, copy


@pytest.fixture(scope="module")
def cogvlm():
    return vlmgraph.compile(vlmgraph.read_spec("cogvlm", size="tiny"))


def test_exactly_the_addressed_parts_train(cogvlm):
    names = set(begin(cogvlm, "caption"))
    assert names == {n for n, p in cogvlm.named_parameters() if p.requires_grad}
    assert names == {n for n, _ in cogvlm.named_parameters() if n.startswith(("adapter.", "wrap.")) or ".experts.vision." in n}


def test_experts_start_as_copies_and_are_not_the_same_tensors(cogvlm):
    text, vision = addressed(cogvlm, "llm.text"), addressed(cogvlm, "llm.vision")
    with torch.no_grad():
        for parameter in text.values():
            parameter.normal_()
    assert not any(torch.equal(p, text[n.replace(".vision.", ".text.")]) for n, p in vision.items())
    begin(cogvlm, "caption")
    for name, parameter in vision.items():
        twin = text[name.replace(".vision.", ".text.")]
        assert torch.equal(parameter, twin) and parameter.data_ptr() != twin.data_ptr()


def test_a_tied_table_trains_with_either_of_its_names():
    model = vlmgraph.compile(vlmgraph.read_spec("flamingo", size="tiny"))
    begin(model, "train")
    trained = {n.split(".")[0] for n, p in model.named_parameters() if p.requires_grad}
    assert trained == {"resampler", "llm", "embed"}
    assert not model.embed.tokens.weight.requires_grad
    assert all(".inserts.xattn." in n for n, p in model.llm.named_parameters(prefix="llm") if p.requires_grad)


def test_findings(cogvlm):
    with pytest.raises(DiagnosticError) as caught:
        begin(cogvlm, "warmup")
    assert caught.value.diagnostics[0].code == C.UNKNOWN_STAGE and "caption" in caught.value.diagnostics[0].notes[0]
    with pytest.raises(DiagnosticError) as caught:
        copy(cogvlm, "adapter", "llm.text")
    assert caught.value.diagnostics[0].code == C.STAGE_INIT
