"""Pipelines as text: names, options, order, and what is observed on the way."""

from __future__ import annotations

import pytest

import vlmgraph
from vlmgraph.api import PIPELINE, elaborate
from vlmgraph.diagnostics import Collector
from vlmgraph.diagnostics import codes as C
from vlmgraph.elaborate import elaborate as wire
from vlmgraph.ir.graph import Graph
from vlmgraph.ir.text import parse_graph, print_graph
from vlmgraph.passes.base import Pipeline, PipelineError, parse_pipeline, print_pipeline


def test_the_text_of_a_pipeline_reads_back():
    steps = parse_pipeline(" carry , infer[ batches = true ],objectives")
    assert [s.name for s in steps] == ["carry", "infer", "objectives"] and steps[1].batches is True
    assert print_pipeline(steps) == "carry,infer[batches=true],objectives"
    assert parse_pipeline(print_pipeline(steps)) == steps and parse_pipeline("") == []
    assert print_pipeline(parse_pipeline(PIPELINE)) == PIPELINE


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("carry,infr", "there is no pass 'infr'"),
        ("carry infer", "cannot read the pipeline"),
        ("infer[batches=true", "cannot read the pipeline"),
        ("infer[batch=true]", "pass 'infer' has no option 'batch'"),
        ("infer[batches=1]", "batches is like False, not '1'"),
        ("infer,carry", "pass 'infer' requires carried: put a pass that ensures it before"),
        ("expect", "pass 'expect' requires resolved"),
    ],
)
def test_a_pipeline_that_cannot_run_is_a_finding(text, message):
    with pytest.raises(PipelineError) as caught:
        elaborate(vlmgraph.read_spec("clip", size="tiny"), text)
    [found] = caught.value.diagnostics
    assert found.code == C.BAD_PIPELINE and message in found.message
    if "infr" in text:
        assert found.fix == "did you mean 'infer'?" and "carry" in found.notes[0]


def test_the_order_is_looked_at_before_the_first_pass_runs():
    ran: list[str] = []
    with pytest.raises(PipelineError):
        Pipeline(parse_pipeline("carry,expect"), lambda name, *_: ran.append(name)).run(
            wire(vlmgraph.read_spec("clip", size="tiny")), Collector()
        )
    assert ran == []


def test_each_pass_is_observed_with_its_graph_and_its_time():
    seen: list[tuple[str, Graph, float]] = []
    graph = elaborate(vlmgraph.read_spec("llava-1.5", size="tiny"), "carry,infer,expect", lambda *step: seen.append(step))
    assert [name for name, _, _ in seen] == ["carry", "infer", "expect"] and all(0 <= seconds < 60 for *_, seconds in seen)
    carried, inferred, _ = (print_graph(g) for _, g, _ in seen)
    assert carried != inferred and inferred == print_graph(graph)
    for text in (carried, inferred):
        assert print_graph(parse_graph(text)) == text  # what stands between two passes reads back too
    assert seen[0][1].components["projector"].d_in is None and seen[1][1].components["projector"].d_in == 40


OPTIONS = """
from dataclasses import dataclass
from typing import ClassVar

from vlmgraph.passes.base import Pass


@dataclass(frozen=True)
class Options(Pass):
    name: ClassVar[str] = "options"
    depth: int = 1
    label: str = "a"
    rate: float = 0.5
"""


def test_options_have_the_kind_of_their_defaults(install):
    points = {"options": "optional_pass:Options", "odd": "optional_pass:Pass.run"}
    install("optional", {"vlmgraph.passes": points}, {"optional_pass.py": OPTIONS})
    [step] = parse_pipeline("options[depth=3, label=b, rate=1e-3]")
    assert (step.depth, step.label, step.rate) == (3, "b", 1e-3)
    with pytest.raises(PipelineError, match="depth is like 1, not 'x'"):
        parse_pipeline("options[depth=x]")
    with pytest.raises(PipelineError, match="not a pass"):
        parse_pipeline("odd")
