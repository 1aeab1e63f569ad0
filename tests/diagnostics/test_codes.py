"""Every code is raised somewhere, and something shows that it is; what a whole spec full of problems says."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

import vlmgraph
from vlmgraph import api
from vlmgraph.diagnostics import DiagnosticError, codes
from vlmgraph.diagnostics.render import render
from vlmgraph.ir.parse import parse_graph
from vlmgraph.ir.text import print_graph
from vlmgraph.ir.verify import verify
from vlmgraph.passes.base import parse_pipeline

CASES = Path(__file__).parent / "cases"
TESTS = Path(__file__).parents[1]
PACKAGE = Path(vlmgraph.__file__).parent
NAMES = {value: name for name, value in vars(codes).items() if isinstance(value, str) and re.fullmatch(r"VG\d{4}", value)}


@pytest.fixture(scope="module")
def mentions():
    """The words of the package and of the tests."""
    texts = {}
    for name, folder in (("package", PACKAGE), ("tests", TESTS)):
        files = [path for path in folder.rglob("*.py") if path.name not in ("codes.py", "test_codes.py")]
        texts[name] = set(re.findall(r"\w+", "\n".join(path.read_text(encoding="utf-8") for path in files)))
    return texts


def test_every_code_is_raised(mentions):
    assert not [code for code, name in NAMES.items() if not {code, name} & mentions["package"]]


def test_every_code_has_a_broken_spec_or_a_test(mentions):
    shown = {path.name[:6] for path in CASES.glob("VG*.toml")}
    shown |= {codes.TIE_SHAPES, codes.BAD_PIPELINE, codes.BAD_GRAPH_TEXT, codes.INVALID_GRAPH}  # below
    assert not [f"{code} {name}" for code, name in NAMES.items() if code not in shown and not {code, name} & mentions["tests"]]


def test_tied_parameters_of_different_shapes():
    spec = vlmgraph.read_spec(CASES / "small.toml", overrides={"graph.ties": ["head.proj.weight = projector.out.weight"]})
    with pytest.raises(DiagnosticError) as error:
        vlmgraph.compile(spec, device="meta")
    assert {d.code for d in error.value.diagnostics} <= {codes.TIE_SHAPES, codes.BAD_TIE}


def test_texts_of_graphs_and_pipelines():
    with pytest.raises(DiagnosticError) as error:
        parse_pipeline("infer,nope")
    assert {d.code for d in error.value.diagnostics} == {codes.BAD_PIPELINE}
    graph = api.elaborate(CASES / "small.toml")
    with pytest.raises(DiagnosticError) as error:
        parse_graph("nonsense\n" + print_graph(graph))
    assert {d.code for d in error.value.diagnostics} == {codes.BAD_GRAPH_TEXT}
    assert verify(graph) == []
    assert {d.code for d in verify(replace(graph, nodes=graph.nodes[1:]))} == {codes.INVALID_GRAPH}


INDEPENDENT = """
vlmgraph = 1
extends  = "small"

[model]
sumary = "misspelt"

[components]
vision    = { patch = 12 }
projector = { dept = 3 }
extra     = { type = "conector.linear" }
llm       = { kv_heads = 4 }

[programs]
states = { outputs = ["lln"] }

[stages.align]
objectives = { lmm = 1.0 }
"""


def test_all_problems_at_once_and_nothing_else(tmp_path):
    """Seven faults, each of which takes a part out of the graph; the edges through those parts say nothing."""
    path = tmp_path / "broken.toml"
    path.write_text(INDEPENDENT)
    found = vlmgraph.check(vlmgraph.read_spec(path, search=[CASES]))
    expected = {
        codes.UNKNOWN_KEY: "sumary",
        codes.NOT_DIVISIBLE: "42 is not divisible by 12",
        codes.UNKNOWN_FIELD: "dept",
        codes.UNKNOWN_COMPONENT: "conector.linear",
        codes.KV_HEADS_NOT_DIVIDING: "4 do not divide 6 heads",
        codes.PROGRAM_OUTPUT: "lln",
        codes.UNKNOWN_OBJECTIVE: "lmm",
    }
    assert {d.code: d.message for d in found}.keys() == expected.keys() and len(found) == len(expected)
    assert all(expected[d.code] in d.message for d in found)
    assert all(d.fix for d in found)
    assert "7 errors" in render(found)


FOLLOW_UPS = {
    "a component of an unknown type": ('components.projector = { type = "nope" }', 1),
    "a component with a wrong field": ("components.projector.depth = -1", 1),
    "an embedding of a broken decoder": ("components.llm.width = -1", 1),
    "a type that cannot be read": ('inputs.pixel_values = "image[N, 3"', 1),
    "a value of the wrong kind": ("components.vision = 3", 1),
    "a wrong name": ('components.Vision = { type = "norm.layer" }', 1),
    "a token of the wrong kind": ('tokens."<image>" = true', 1),
    "edges of the wrong kind": ("graph.edges = 3", 1),
    "an edge with a typo at its start": ('graph.edges = ["projecter -> splice.vision"]', 1),
    "an edge with a typo in its middle": ('graph.edges = ["pixel_values -> visoin -> projector -> splice.vision"]', 1),
    "an edge with a typo in a tap": ('graph.edges = ["pixel_values -> vision.hidden[9] -> projector"]', 1),
    "an edge to nowhere": ('graph.edges = ["pixel_values -> vision -> projector -> splice.vison"]', 1),
    "two typos in one edge": ('graph.edges = ["pixel_valeus -> visoin"]', 2),
    "a size in both directions": ('inputs.pixel_values = "image[N, 3, 56, 56]?"', 1),
    "a width and what stands behind it": ("components.projector.out = 40", 1),
    "a program that others come from": ("programs.forward = 3", 1),
    "an objective that stages ask for": ("objectives.lm = 3", 1),
    "a stage that others come after": ("stages.align = 3", 1),
}


@pytest.mark.parametrize("what", FOLLOW_UPS)
def test_one_mistake_is_one_finding(what, tmp_path):
    text, count = FOLLOW_UPS[what]
    path = tmp_path / "broken.toml"
    path.write_text(f'vlmgraph = 1\nextends = "small"\n{text}\n')
    found = vlmgraph.check(vlmgraph.read_spec(path, search=[CASES]))
    assert len(found) == count, render(found)
