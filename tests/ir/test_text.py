"""The text form: equal graphs come back from it, two are kept as texts, and what cannot be read is said at its place.

`--update` writes the kept texts anew.
"""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest

import vlmgraph
from vlmgraph.api import elaborate
from vlmgraph.diagnostics import codes as C
from vlmgraph.ir.text import TextError, parse_graph, print_graph
from vlmgraph.ir.verify import verify
from vlmgraph.spec import installed_specs

GOLDEN = Path(__file__).parent / "golden"
BUILT_IN = [
    name for name, path in installed_specs().items() if path.parent.name == "specs" and path.parent.parent.name != "vlmgraph_abstractor"
]


def overlays(name):
    """Every size, every variant, and every variant at the size `tiny`."""
    spec = vlmgraph.read_spec(name)
    yield {}
    yield from ({"size": size} for size in spec.sizes)
    for variant in spec.variants:
        yield {"variant": variant}
        if "tiny" in spec.sizes:
            yield {"variant": variant, "size": "tiny"}


@pytest.mark.parametrize("name", BUILT_IN)
def test_every_spec_at_every_size_and_variant_comes_back(name):
    for chosen in overlays(name):
        graph = elaborate(vlmgraph.read_spec(name, **chosen))
        text = print_graph(graph)
        back = parse_graph(text)
        different = [f.name for f in fields(graph) if f.compare and getattr(back, f.name) != getattr(graph, f.name)]
        assert different == [] and print_graph(back) == text, (name, chosen)
        assert verify(back, ["typed", "resolved", "carried"]) == []


@pytest.mark.parametrize("name", ["clip", "llava-1.5"])
def test_kept_texts(name, update):
    text = print_graph(elaborate(vlmgraph.read_spec(name, size="tiny")))
    path = GOLDEN / f"{name}-tiny.txt"
    if update:
        path.write_text(text, encoding="utf-8")
    assert path.read_text(encoding="utf-8") == text, (
        "a pass or a component gives another graph: pytest tests/ir --update, and look at the diff"
    )


SMALL = """graph "small"
token "<a>" = 3
input x: tokens[B, N, 8]
component a = connector.linear {"d_in": 8, "out": 8}
copy b = a {"ema": 0.5, "when": "before"}
component b = connector.linear {"d_in": 8, "out": 8}
a := call a(x=%x) -> out: tokens[B, N, 8]
a[1:] := slice(x=%a) -> out: tokens[B, N-1, ?a.d] {"start": 1, "stop": null, "axis": -2}
sum := call add(x=[%a, %x]) -> out: tokens[B, N, 8]
carries %a {"mask": "x"}
alias y = %a
output y: tokens[B, N, d]
tie b.proj.weight = a.proj.weight
program forward {"outputs": ["a"], "inputs": ["x"]}
objective l {"loss": "objective.l", "rebind": [["a", "x", "x"]], "when": ""}
  objective.l := call c(x=%a) -> out: loss[]
stage one {"train": ["a"], "freeze": [], "objectives": {}, "init": {}, "after": ""}
expect {"visual_tokens": 3}
"""


def test_every_kind_of_line():
    graph = parse_graph(SMALL)
    assert graph.copies["b"].ema == 0.5 and graph.node("sum").inputs["x"] == ("a", "x") and graph.programs["forward"].inputs == ("x",)
    [unknown] = [s for d in graph.node("a[1:]").outputs["out"].dims for s in d.symbols() if s.name == "a.d"]
    assert unknown.flexible and "?a.d" in print_graph(graph)
    assert graph.objectives["l"].rebind == {("a", "x"): "x"} and [n.id for n in graph.objectives["l"].nodes] == ["objective.l"]
    again = parse_graph(print_graph(graph))
    assert again == graph


@pytest.mark.parametrize(
    ("old", "new", "line", "column", "message"),
    [
        ("slice(x", "slise(x", 8, 10, "there is no operation 'slise'"),
        ("(x=%x) -> out: tokens[B, N, 8]\na[1:]", "(x=x) -> out: tokens[B, N, 8]\na[1:]", 7, 15, "expected '%'"),
        ("input x: tokens", "input x: token", 3, 10, "did you mean 'tokens'"),
        ("tokens[B, N-1", "tokens[B, N-", 8, 30, "cannot read dimension"),
        ('"out": 8}\ncopy', '"out": 8\ncopy', 4, 52, "not JSON"),
        ("component a = connector.linear", "component a = connector.linar", 4, 15, "there is no component type 'connector.linar'"),
        ('{"d_in": 8, "out": 8}\ncopy', '{"d_in": "q", "out": 8}\ncopy', 4, 15, "connector.linear: d_in"),
        ("alias y = %a", "alias y = a", 11, 11, "expected '%'"),
        ("output y:", "output y", 12, 10, "expected ':'"),
        ("token \"<a>\" = 3", "token \"<a>\" = three", 2, 15, "expected a token id"),
        ("alias y = %a", "alias y = %a %b", 11, 14, "expected the end of the line"),
        ('objective l {"loss": "objective.l", ', "objective l {", 15, 13, "an objective has `loss`"),
        ('"train": ["a"], "freeze"', '"trains": ["a"], "freeze"', 17, 11, "unexpected keyword argument 'trains'"),
        ("copy b", "component a = connector.linear {}\ncopy b", 5, 11, "a second 'a' among the components"),
        ("graph \"small\"", "  a := call a() -> out: loss[]", 1, 3, "no objective is before it"),
        ("sum := call add(x=[%a, %x])", "sum := call add(x=[%a %x])", 9, 23, "expected ','"),
        ("expect {", "expects {", 18, 9, "expected ':='"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_said_at_its_place(old, new, line, column, message):
    assert SMALL.count(old) == 1
    with pytest.raises(TextError) as caught:
        parse_graph(SMALL.replace(old, new), "g.txt")
    first = caught.value.diagnostics[0]
    assert first.code == C.BAD_GRAPH_TEXT and message in first.message
    assert (first.primary.span.file, first.primary.span.line, first.primary.span.column) == ("g.txt", line, column)


def test_all_bad_lines_are_said_at_once():
    with pytest.raises(TextError) as caught:
        parse_graph("graph 1x\ninput : tokens[B]\na := \n")
    assert [d.primary.span.line for d in caught.value.diagnostics] == [1, 2, 3]


@pytest.mark.parametrize(
    "text", ["[" * 5000, "expect " + "[" * 100_000, "a := call a(x=%" + "[" * 5000, "\x00", "program p {}", "component a = x.y {}"]
)
def test_no_text_ends_in_a_traceback(text):
    with pytest.raises(TextError):
        parse_graph(text)
