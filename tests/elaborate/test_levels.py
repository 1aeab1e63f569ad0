"""A list into a port for one value: ops, and components with `per = "level"`, map over it."""

from __future__ import annotations

import pytest
import torch

import vlmgraph
from vlmgraph.api import elaborate

REGION = {
    "inputs": {"levels": "tokens[B, V, D]*3"},
    "outputs": ["sum"],
    "components": {
        "unit": {"type": "op.normalize"},
        "enter": {"type": "connector.linear", "out": 5, "per": "level"},
        "sum": {"type": "op.add"},
    },
    "edges": ["levels -> unit -> enter -> sum"],
}
TOWER = {"type": "text.transformer", "layers": 3, "width": 8, "heads": 2, "mlp": 8, "position": "none"}
BASE = {
    "inputs": {"x": "tokens[B, N, 8]"},
    "outputs": {"y": "tokens[B, M, 5]"},
    "components": {"tower": TOWER, "region": {"type": "blocks.region"}},
    "graph": {"edges": ["x -> tower", "tower.hidden[1, 2, 3][1:] -> region.levels", "region -> y"]},
    "programs": {"forward": {"outputs": ["y"]}},
}


def spec(block=None, **tables):
    return {**BASE, "blocks": {"region": {**REGION, **(block or {})}}, **tables}


def messages(source):
    return [(d.code, d.message) for d in vlmgraph.check(source)]


def test_every_level_has_a_node_and_parameters_of_its_own():
    graph = elaborate(spec())
    made = {node.id: dict(node.inputs) for node in graph.nodes}
    assert made["region.unit.1"] == {"x": "tower.hidden.2[1:]"} and made["region.enter.2"] == {"x": "region.unit.2"}
    assert made["region.sum"] == {"x": ("region.enter.0", "region.enter.1", "region.enter.2")}
    model = vlmgraph.compile(spec(stages={"s": {"train": ["region.enter"]}}))
    assert {n for n in model.state_dict() if "enter" in n} == {f"region.enter.{i}.proj.{p}" for i in range(3) for p in ("weight", "bias")}
    x = torch.randn(2, 4, 8)
    states = model.tower(x, taps=(1, 2, 3))
    wanted = sum(
        model.region.enter.get_submodule(str(i))(torch.nn.functional.normalize(states[f"hidden.{i + 1}"][:, 1:], dim=-1)) for i in range(3)
    )
    torch.testing.assert_close(model(x=x)["y"], wanted)


def test_lists_outside_of_blocks_map_too_and_widths_are_inferred_by_level():
    parts = {"narrow": {"type": "connector.linear", "out": 6}, "enter": {"type": "connector.linear", "out": 5, "per": "level"}}
    edges = ["x -> narrow", "[x, narrow] -> enter -> op.normalize -> op.add -> y"]
    graph = elaborate({**BASE, "components": parts, "graph": {"edges": edges}})
    assert [graph.components[f"enter.{i}"].d_in for i in range(2)] == [8, 6] and "enter" not in graph.components
    assert graph.node("add_1").inputs == {"x": ("normalize_1.0", "normalize_1.1")}


def test_slices_of_lists_are_lists():
    made = {n.id: dict(n.inputs) for n in elaborate(spec({"edges": ["levels -> enter", "enter[1:] -> sum"]})).nodes}
    assert made["region.sum"] == {"x": tuple(f"region.enter.{i}[1:]" for i in range(3))}


@pytest.mark.parametrize(
    ("source", "code", "said"),
    [
        (
            spec(
                {
                    "edges": ["levels -> unit -> mix -> sum"],
                    "components": {**REGION["components"], "mix": {"type": "connector.linear", "out": 5}},
                }
            ),
            "VG0306",
            "region.mix.x takes one value, region.unit is a list of 3",
        ),
        (
            spec({"outputs": ["enter"], "edges": ["levels -> enter", "enter -> sum"]}),
            "VG0306",
            "output y is one value, region.enter is a list of 3",
        ),
        (
            spec({"components": {**REGION["components"], "enter": {"type": "connector.linear", "per": "image"}}}),
            "VG0204",
            "has no field 'per'",
        ),
    ],
    ids=["no-per", "output", "per-image"],
)
def test_lists_that_go_nowhere_are_findings(source, code, said):
    found = messages(source)
    assert any(c == code and said in text for c, text in found), found
