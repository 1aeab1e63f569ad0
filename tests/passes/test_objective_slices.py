"""Every objective and every program is typed in its own slice: what does not fit there is a finding of `check`."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import vlmgraph
from vlmgraph.api import elaborate, objective_graph
from vlmgraph.diagnostics import Collector, DiagnosticError
from vlmgraph.diagnostics import codes as C
from vlmgraph.ir.dims import Dim, Symbol
from vlmgraph.ir.types import parse_type
from vlmgraph.ir.unify import Conflict, Unifier
from vlmgraph.passes.infer import batch_dims
from vlmgraph.passes.objectives import objective_graph as slice_of


def twins(**tables: Any) -> dict[str, Any]:
    """Two sides, each in batches of its own, and a joint head that reads both."""
    made: dict[str, Any] = {
        "vlmgraph": 1,
        "model": {"name": "twins"},
        "inputs": {"left_ids": "ids[B, T]?", "right_ids": "ids[C, T]?", "right_mask": "mask[C, T]?", "answers": "ids[B, S]?"},
        "outputs": {"score": "scores[B, C]", "kind": "logits[B, 2]"},
        "components": {
            "embed": {"type": "text.embedding", "vocab": 30, "width": 8},
            "sim": {"type": "head.similarity"},
            "pairs": {"type": "op.hard_negatives"},
            "head": {"type": "head.linear", "out": 2},
        },
        "nodes": {"right": {"uses": "embed"}},
        "graph": {
            "edges": [
                "left_ids -> embed -> op.pool -> op.normalize -> sim.image",
                "right_ids -> right -> op.pool -> op.normalize -> sim.text",
                "sim -> score",
                "embed[0] -> head -> kind",
            ]
        },
        "programs": {"forward": {"outputs": ["score", "kind"]}},
        "objectives": {"match": MATCH},
    }  # fmt: skip
    for name, table in tables.items():
        made[name] = {**made.get(name, {}), **table}
    return made


MATCH = {
    "type": "loss.cross_entropy",
    "edges": [
        "score -> pairs.similarity",
        "right -> pairs.image",
        "left_ids -> pairs.ids",
        "pairs.ids -> embed.ids",
        "kind -> match.logits",
        "pairs.labels -> match.labels",
    ],
}
"""The similarity that draws the negatives is of the batch as it came, the head reads what was drawn: a circle through `embed`."""


def found(spec: dict[str, Any]) -> list[tuple[str, str]]:
    return [(d.code, d.message) for d in vlmgraph.check(spec)]


def itm(*changes: tuple[str, str], **options: Any) -> dict[str, Any]:
    """The pairs drawn by similarity go through `joint`, a use of its own of the embedding."""
    edges = ["score -> pairs.similarity", "embed -> pairs.image", "right_ids -> pairs.ids", "right_mask -> pairs.mask",
             "pairs.ids -> joint.ids", "kind -> match.logits", "pairs.labels -> match.labels"]  # fmt: skip
    for old, new in changes:
        edges = [e.replace(old, new) for e in edges]
    spec = twins(
        nodes={"right": {"uses": "embed"}, "joint": {"uses": "embed"}},
        objectives={"match": {"type": "loss.cross_entropy", "edges": edges, **options}},
    )
    spec["graph"]["edges"][3:] = ["right_ids -> joint -> op.select -> head -> kind"]
    spec["outputs"]["kind"] = "logits[C, 2]"
    return spec


def test_a_loss_over_pairs_makes_two_batches_one():
    """The defect that this file is about: B images, C texts and their negatives, B = C in this slice alone."""
    assert found(itm()) == []
    graph = objective_graph(itm(), "match")
    types = graph.types()
    assert {str(graph.inputs[n].dims[0]) for n in ("left_ids", "right_ids", "right_mask")} == {"B"}
    assert str(types["joint"].dims[0]) == "3*B" and str(types["kind"]) == "logits[3*B, 2]"
    assert str(elaborate(itm()).inputs["right_ids"].dims[0]) == "C"  # elsewhere they stay two


def test_every_objective_of_the_specs_is_typed():
    for name in ("blip-2", "clip"):
        graph = elaborate(vlmgraph.read_spec(name, size="tiny"))
        for objective in graph.objectives:
            problems = Collector()
            assert slice_of(graph, objective, problems).nodes and not problems.found


def test_a_call_must_hold_to_it():
    model = vlmgraph.compile(itm())
    ids = torch.randint(0, 30, (3, 5))
    assert model(left_ids=ids, right_ids=ids[:2])["score"].shape == (3, 2)
    loss = model.programs["objective.match"]
    assert loss(left_ids=ids, right_ids=ids)["loss"].shape == ()
    with pytest.raises(DiagnosticError) as caught:
        loss(left_ids=ids, right_ids=ids[:2])
    assert caught.value.diagnostics[0].code == C.BAD_INPUT_SHAPE and "disagree about B: 2 and 3" in str(caught.value)
    with pytest.raises(DiagnosticError) as caught:
        loss(left_ids=ids[:1], right_ids=ids[:1])
    assert caught.value.diagnostics[0].code == C.BAD_INPUT_VALUE  # one pair has no negatives


def test_what_an_objective_feeds_is_checked():
    """The defect was seen only when the objective was lowered: a feed of another width is a finding of `check`, at the objective's edge."""
    spec = itm()
    spec["components"]["narrow"] = {"type": "head.linear", "out": 3}
    spec["outputs"]["narrowed"] = "logits[C, 3]"
    spec["graph"]["edges"].append("joint -> op.select -> narrow -> narrowed")
    assert found(spec) == []
    spec["objectives"]["match"]["edges"].append("narrowed -> head.x")
    problems = vlmgraph.check(spec)
    assert [d.code for d in problems] == [C.WRONG_WIDTH] and "head.x" in problems[0].message
    spec["objectives"]["match"]["edges"][-1:] = ["left_ids -> head.x"]
    assert [d.code for d in vlmgraph.check(spec)] == [C.KIND_MISMATCH]


def test_only_batches_are_made_one():
    """Not lengths: labels of another length than the predictions are a finding, with its place."""
    lm = {"type": "loss.next_token", "edges": ["words -> lm.logits", "answers -> lm.labels"]}
    spec = twins(outputs={"score": "scores[B, C]", "kind": "logits[B, 2]", "words": "logits[B, T, 30]"}, objectives={"lm": lm})
    spec["components"]["words_head"] = {"type": "head.linear", "out": 30}
    spec["graph"]["edges"].append("embed -> words_head -> words")
    diagnostics = [d for d in vlmgraph.check(spec) if d.code == C.WRONG_DIM]
    assert len(diagnostics) == 1 and "answers is S in dim T, but objective.lm.labels is T" in diagnostics[0].message
    spec["objectives"]["lm"]["edges"][1] = "left_ids -> lm.labels"
    assert not [d for d in vlmgraph.check(spec) if d.code == C.WRONG_DIM]


def test_the_circle_of_an_objective_is_a_finding():
    codes = [code for code, _ in found(twins())]
    assert codes == [C.CYCLE]


def test_peers_are_one_another_or_nothing():
    b, c, t = (Symbol(x) for x in "BCT")
    unifier = Unifier(peers=(b, c))
    unifier.equate(Dim.of(c) * 3, Dim.of(b) * 3)
    assert unifier.value(Dim.of(c) + 1) == Dim.of(b) + 1  # the earlier one stays
    for left, right in ((Dim.of(b) * 3, Dim.of(b)), (Dim.of(b), Dim.of(4)), (Dim.of(b), Dim.of(t)), (Dim.of(b), Dim.of(c) * 2)):
        with pytest.raises(Conflict):
            Unifier(peers=(b, c)).equate(left, right)
    with pytest.raises(Conflict):
        Unifier().equate(Dim.of(b), Dim.of(c))


def test_packed_images_are_no_batch():
    packed = {"a": parse_type("image[N in B, 3, 4, 4]"), "b": parse_type("ids[B, T]"), "c": parse_type("ids[2*C, T]")}
    assert [s.name for s in batch_dims(packed)] == ["B"]


# ---- programs


def test_a_program_that_leaves_out_what_its_output_needs():
    spec = twins(objectives={"match": {"remove": True}}, programs={"forward": {"outputs": ["score", "kind"], "without": ["right_ids"]}})
    spec["objectives"] = {}
    problems = vlmgraph.check(spec)
    assert [(d.code, d.message) for d in problems] == [(C.PROGRAM_OUTPUT, "program 'forward' cannot give score")]
    assert problems[0].notes == ("it needs right_ids, which `without` leaves out",)
    spec["programs"]["forward"]["outputs"] = ["kind"]
    assert found(spec) == []


def test_carried_values_exist():
    spec = vlmgraph.read_spec({"vlmgraph": 1, "extends": "flamingo", "programs": {"generate": {"carry": ["resampler", "xmask.count"]}}})
    assert [d.code for d in vlmgraph.check(spec)] == [C.UNKNOWN_PORT]
    spec = vlmgraph.read_spec({"vlmgraph": 1, "extends": "flamingo", "programs": {"generate": {"carry": ["resampler", "seen"]}}})
    assert [d.code for d in vlmgraph.check(spec)] == [C.PROGRAM_OUTPUT]


def test_what_a_slice_leaves_out_changes_its_shapes():
    """With both sides 12 tokens make three blocks of four; the left side alone has 6, which make none."""
    spec = {
        "vlmgraph": 1,
        "model": {"name": "joined"},
        "inputs": {"left_ids": "ids[B, 6]?", "right_ids": "ids[B, 6]?"},
        "outputs": {"joined": "tokens[B, 3, 32]"},
        "components": {"left": {"type": "text.embedding", "vocab": 30, "width": 8}, "cat": {"type": "op.concat"}},
        "nodes": {"right": {"uses": "left"}},
        "graph": {"edges": ["left_ids -> left", "right_ids -> right", "[left, right] -> cat -> op.pixel_shuffle(2) -> joined"]},
        "programs": {"forward": {"outputs": ["joined"]}},
    }
    assert found(spec) == []
    del spec["outputs"], spec["graph"]["edges"][2]
    spec["components"]["squares"] = {"type": "op.pixel_shuffle"}
    spec["graph"]["edges"].append("[left, right] -> cat -> squares")
    spec["programs"]["forward"]["outputs"] = ["squares"]
    assert found(spec) == []
    spec["programs"]["alone"] = {"outputs": ["squares"], "without": ["right_ids"]}
    assert [code for code, _ in found(spec)] == [C.NOT_DIVISIBLE]
