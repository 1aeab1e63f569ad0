"""What elaboration adds to a graph by itself stands in the written source too, and computes the same."""

from __future__ import annotations

import importlib.util

import pytest
import torch

import vlmgraph

STACK = {"type": "text.transformer", "layers": 2, "width": 8, "heads": 2, "mlp": 12, "position": "none"}
TOKENS = "tokens[B, N, 8]"


def spec(edges, components, **tables):
    return {"inputs": {"x": TOKENS, "z": "tokens[B, M, 8]?", "mask": "mask[B, N]?"}, "outputs": {"y": "tokens[B, K, 8]"},
            "components": components, "graph": {"edges": edges}, "programs": {"forward": {"outputs": ["y"]}}, **tables}  # fmt: skip


GATE = {
    "inputs": {"x": TOKENS, "media": "tokens[B, M, d]"},
    "components": {"enter": {"type": "connector.linear", "out": 8}, "look": {**STACK, "cross": "attention.cross"}},
    "edges": ["media -> enter -> look.media", "x -> look -> out"],
}
INSERT = [{"name": "gate", "every": 1, "block": {"type": "blocks.gate"}}]
LABELS = {"x": TOKENS, "labels": "ids[B, N]?"}
CASES = {
    "joined": spec(["x -> a", "mask -> a.mask", "[z, a] -> op.concat -> b -> y"], {"a": STACK, "b": STACK}),
    "filling": spec(["x -> a -> y", "z -> a.media", "mask -> a.mask"], {"a": {**STACK, "insert": INSERT}}, blocks={"gate": GATE}),
    "levels": spec(
        ["x -> a", "a.hidden[0, 1] -> b -> op.add -> y", "mask -> a.mask", "z -> op.normalize"],
        {"a": STACK, "b": {"type": "connector.linear", "out": 8, "per": "level"}},
    ),
    "reused": spec(  # one component that reads media in one place and none in another
        ["x -> first -> second -> y", "z -> second.media", "mask -> first.mask"], {"a": {**STACK, "cross": "attention.cross"}},
        nodes={"first": {"uses": "a"}, "second": {"uses": "a"}},
    ),
    "loss": spec(
        ["x -> a -> h -> y"], {"a": STACK, "h": {"type": "head.linear", "out": 5}}, inputs=LABELS, outputs={"y": "logits[B, N, 5]"},
        programs={"forward": {"outputs": ["lm.per_sample", "lm"]}},
        objectives={"lm": {"type": "loss.next_token", "edges": ["y -> lm.logits"]}},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_source_gives_equal_outputs(name, tmp_path):
    model = vlmgraph.compile(CASES[name])
    model.save(tmp_path / "made")
    found = importlib.util.spec_from_file_location(f"written_{name}", tmp_path / "made" / "model.py")
    written = importlib.util.module_from_spec(found)
    found.loader.exec_module(written)
    other = written.Model()
    other.load_state_dict(model.state_dict())
    given = {"x": torch.randn(2, 3, 8), "z": torch.randn(2, 4, 8), "mask": torch.tensor([[True] * 3, [False, True, True]])}
    given["labels"] = torch.tensor([[0, 1, 2], [3, 4, -100]])
    given = {k: v for k, v in given.items() if k in model.programs["forward"].graph().inputs}
    optional = [k for k in given if k != "x" and name != "loss"]
    for absent in ([], *([k] for k in optional), optional):
        inputs = {k: v for k, v in given.items() if k not in absent}
        wanted, got = model(**inputs), other(**inputs)
        assert wanted.keys() == got.keys() and all(torch.equal(wanted[k], got[k]) for k in wanted), absent


@pytest.mark.parametrize(
    ("preset", "field", "over", "wanted"),
    [
        ("siglip-b-16-224", "patch", {"type": "patch.linear"}, {"type": "patch.linear", "size": 16}),
        ("siglip-b-16-224", "mlp", {"act": "relu"}, {"hidden": 3072, "act": "relu"}),
    ],
)
def test_a_table_over_the_number_of_a_preset(preset, field, over, wanted):
    """The number is the field of the slot that it is short for: a side of a patch is no width of an MLP."""
    from vlmgraph.elaborate.configs import merged
    from vlmgraph.presets import load_preset

    assert merged(load_preset(preset, "vision.vit").fields, {field: over})[field] == wanted


def test_a_removed_edge_fits_the_schema():
    import json
    from pathlib import Path

    jsonschema = pytest.importorskip("jsonschema")
    schema = json.loads((Path(__file__).parents[2] / "specs/vlmgraph.schema.json").read_text(encoding="utf-8"))
    spec = {"vlmgraph": 1, "extends": "llava-1.5", "graph": {"edges": [{"remove": "attention_mask -> splice.mask"}]}}
    jsonschema.validate(spec, schema)
    assert "attention_mask -> splice.mask" not in vlmgraph.read_spec(spec).data["graph"]["edges"]
