"""A plan has every graph that the target `onnx` writes, with its inputs, in the phases that it runs in."""

from __future__ import annotations

from typing import Any

import pytest

from tests.export.tensorrt.test_profiles import phases, planned
from tests.levels.models import SPECS, tiny
from vlmgraph.export.onnx.programs import decoding, single
from vlmgraph.export.onnx.samples import Run
from vlmgraph.export.tensorrt.graphs import Planned

QUICK = ("cogvlm", "flamingo", "paligemma")
"""Texts without media have a merge of their own, a decoder, or both."""


@pytest.mark.parametrize("name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in SPECS])
def test_the_graphs_of_the_plan_are_those_that_are_written(name: str) -> None:
    """Held against the calls that each graph is proved with: names, types, numbers, and one size for dims of one name."""
    model, processor = tiny(name)
    runs: list[Run] = []
    decoders = 0
    for program, declared in model.graph.programs.items():
        if declared.cache:
            decoding(model, processor, program, f"{program}." if decoders else "", runs.append)
            decoders += 1
        else:
            single(model, processor, program, runs.append)
    plan = planned(name, "tiny", None)
    assert {run.piece.name for run in runs} == set(plan.graphs)
    assert all(graph.name in plan.script() for graph, _ in plan.graphs.values())
    for run in runs:
        graph = plan.graphs[run.piece.name][0]
        assert set(run.names) == {e.name for e in graph.inputs}
        for given, _ in run.calls:
            fits(graph, dict(zip(run.names, given)))


def fits(graph: Planned, given: dict[str, Any]) -> None:
    sizes: dict[str, int] = {}
    for entry in graph.inputs:
        assert str(given[entry.name].dtype) == f"torch.{entry.dtype}", (graph.name, entry.name)
        for dim, size in zip(entry.dims, given[entry.name].shape, strict=True):
            assert size == (dim.constant if dim.constant is not None else sizes.setdefault(str(dim), size)), (
                graph.name,
                entry.name,
                str(dim),
            )
    if "past" in sizes:
        assert ("step" if sizes["past"] else "prompt") in graph.phases


def test_a_text_that_begins_with_the_graphs_of_a_step() -> None:
    """CogVLM's decoder has experts of images in its prompt; of a text alone the decoder of the steps makes the prompt, its past empty."""
    found = phases(planned("cogvlm", "tiny", "generate"), "decoder_with_past_model")
    assert list(found) == ["prompt", "step"]
    assert found["prompt"].dims["past"] == (0, 0, 0)
    assert found["prompt"].dims["total"] == found["prompt"].dims["T"]
    assert found["prompt"].dims["T"][0] == 1


def test_flamingo_of_texts_alone() -> None:
    """Its decoder of texts takes no media: 64 usual tokens, 1024 at most, one of them the step's."""
    plan = planned("flamingo", "tiny", "generate")
    prompt, step = phases(plan, "text.decoder_model_merged").values()
    assert not [name for name in prompt.shapes if "media" in name or "encoder" in name]
    assert prompt.dims["T"] == (1, 64, 1024)
    assert step.dims["past"] == (1, 64, 1023)
