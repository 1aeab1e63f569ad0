"""The verifier: a good graph passes, and each thing that it promises fails when a hand breaks it."""

from __future__ import annotations

from dataclasses import replace

import pytest

import vlmgraph
from vlmgraph.api import elaborate
from vlmgraph.diagnostics import Collector
from vlmgraph.diagnostics import codes as C
from vlmgraph.ir.graph import Copy, Node, Objective, Program
from vlmgraph.ir.text import parse_graph, print_graph
from vlmgraph.ir.types import parse_type
from vlmgraph.ir.verify import FACTS, verify
from vlmgraph.passes.base import BrokenGraph, Pass, Pipeline, parse_pipeline


@pytest.fixture(scope="module")
def clip():
    return elaborate(vlmgraph.read_spec("clip", size="tiny"))


def changed(graph, id, **fields):
    return graph.with_nodes([replace(n, **fields) if n.id == id else n for n in graph.nodes])


def reading(graph, id, **inputs):
    return changed(graph, id, inputs={**graph.node(id).inputs, **inputs})


BREAKS = {
    "reads %nowhere, which nothing before it makes": lambda g: reading(g, "image_proj", x="nowhere"),
    "which nothing before it makes": lambda g: g.with_nodes(list(reversed(g.nodes))),
    "a second node 'vision'": lambda g: replace(g, nodes=(*g.nodes, g.node("vision"))),
    "which the inputs makes already": lambda g: replace(g, nodes=(*g.nodes, replace(g.node("vision"), id="pixel_values"))),
    "there is no operation 'jump'": lambda g: changed(g, "vision", op="jump"),
    "has no output": lambda g: changed(g, "image_proj", outputs={}),
    "which is not a component of the graph": lambda g: changed(g, "vision", component="vison"),
    "has no facet 'encode'": lambda g: changed(g, "vision", facet="encode"),
    "has no input 'y'": lambda g: reading(g, "image_proj", y="vision"),
    "takes one value": lambda g: reading(g, "image_proj", x=("vision",)),
    "has no output 'more'": lambda g: changed(g, "image_proj", outputs={**g.node("image_proj").outputs, "more": parse_type("loss[]")}),
    "a slice reads x": lambda g: replace(g, nodes=(*g.nodes, Node("s", "slice", outputs={"out": parse_type("ids[B]")}))),
    "names %gone, which nothing makes": lambda g: replace(g, aliases={**g.aliases, "logits": "gone"}),
    "program p names %gone": lambda g: replace(g, programs={"p": Program(("gone",))}),
    "program p caches 'gone'": lambda g: replace(g, programs={"p": Program(("vision",), cache=("gone",))}),
    "is a copy of gone": lambda g: replace(g, copies={"vision": Copy("gone")}),
    "objective o reads %gone": lambda g: replace(g, objectives={"o": Objective("o", (), {("vision", "x"): "gone"})}),
    "objective o has no node 'o'": lambda g: replace(g, objectives={"o": Objective("o", (g.node("vision"),))}),
    "carries 'colour'": lambda g: replace(g, companions={"vision": {"colour": "vision"}}),
}  # fmt: skip


@pytest.mark.parametrize("message", BREAKS)
def test_a_broken_structure_is_found(clip, message):
    found = verify(BREAKS[message](clip))
    assert any(message in d.message for d in found), [d.message for d in found]
    assert {d.code for d in found} == {C.INVALID_GRAPH}


FACTUAL = {
    ("typed", "takes tokens"): lambda g: changed(g, "embed", outputs={"out": parse_type("grid[B, 3]")}),
    ("typed", "a fold is missing"): lambda g: deeper(g),
    ("resolved", "image_proj.d_in is not inferred"): lambda g: replace(
        g, components={**g.components, "image_proj": type(g.components["image_proj"])(out=g.components["image_proj"].out)}
    ),
    ("carried", "which nothing makes"): lambda g: replace(g, companions={"vision": {"mask": "gone"}}),
}


def deeper(graph):
    """The ids with one dim more than the embedding takes."""
    return replace(graph, inputs={**graph.inputs, "input_ids": parse_type("ids[B, M, T]")})


@pytest.mark.parametrize(("fact", "message"), FACTUAL)
def test_a_fact_that_is_not_true_is_found(clip, fact, message):
    broken = FACTUAL[fact, message](clip)
    assert any(message in d.message for d in verify(broken, [fact])), [d.message for d in verify(broken, FACTS)]
    assert verify(clip, [fact]) == []


def test_a_text_that_was_edited_is_placed_by_its_line(clip):
    lines = print_graph(clip).splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith("image_proj :="))
    source = clip.node("image_proj").inputs["x"]
    lines[at] = lines[at].replace(f"x=%{source}", "x=%visoin")
    [found] = verify(parse_graph("\n".join(lines), "graph.txt"))
    assert (found.primary.span.file, found.primary.span.line) == ("graph.txt", at + 1)


class Loses(Pass):
    """A pass that drops the first node, whatever reads it."""

    name = "loses"

    def run(self, graph, found):
        return graph.with_nodes(list(graph.nodes[1:]))


class Lies(Pass):
    """A pass that says more than it does."""

    name = "lies"
    ensures = frozenset({"resolved"})

    def run(self, graph, found):
        return graph


def test_a_pass_that_breaks_the_graph_is_caught_behind_it(clip):
    with pytest.raises(BrokenGraph, match=r"after pass 'loses': .*which nothing before it makes"):
        Pipeline([Loses()], verify=True).run(clip, Collector())
    Pipeline([Loses()], verify=False).run(clip, Collector())


def test_a_pass_that_ensures_what_is_not_true_is_caught():
    from vlmgraph.elaborate import elaborate as wire

    graph = wire(vlmgraph.read_spec("clip", size="tiny"))
    with pytest.raises(BrokenGraph, match=r"after pass 'lies': .* is not inferred"):
        Pipeline([*parse_pipeline("carry"), Lies()], verify=True).run(graph, Collector())


def test_the_tests_run_with_the_verifier_on():
    assert Pipeline([]).verify
