"""The overlay rules: what a layer changes, what it leaves, and that every value knows who gave it and where."""

from __future__ import annotations

import pytest

import vlmgraph
from vlmgraph.api import elaborate
from vlmgraph.diagnostics import codes as C
from vlmgraph.spec.resolved import resolved

BASE = """vlmgraph = 1
[model]
name = "base"
[inputs]
image = "image[B, 3, 28, 28]"
ids   = "ids[B, T]"
[outputs]
logits = "logits[B, T, V]"
[tokens]
"<image>" = 3
[components]
vision = { type = "vision.vit", image_size = 28, patch = 14, layers = 2, width = 16, heads = 2, mlp = 32 }
proj   = { type = "connector.mlp", depth = 2, act = "gelu" }
embed  = { type = "text.embedding", of = "llm" }
splice = { type = "op.splice", token = "<image>" }
llm    = { type = "decoder.transformer", layers = 2, width = 24, heads = 4, mlp = { type = "mlp.gated", hidden = 48 }, vocab = 64 }
head   = { type = "head.lm", of = "llm" }
[graph.edges]
sight = ["image -> vision[1:] -> proj -> splice.vision"]
text  = ["ids -> [embed, splice.ids]", "embed -> splice.text", "splice -> llm -> head -> logits"]
[stages.one]
train = ["proj"]
set   = { "llm.layers" = 1, "components.proj.depth" = 3 }
[stages.two]
after = "one"
train = ["llm"]
set   = [{ "llm.layers" = 3 }, { "llm.layers" = 4 }, { "vision.layers" = 5 }]
[variants.deep]
components.llm.layers = 8
components.vision     = { layers = 6 }
[variants.deeper]
extends               = "deep"
components.llm.layers = 16
[sizes.wide]
components.llm.width = 48
components.llm.layers = 3
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "base.toml").write_text(BASE)
    return tmp_path


def read(folder, text="", name="own", **options):
    """A spec over `base`, or `base` itself."""
    if text:
        (folder / f"{name}.toml").write_text(f'vlmgraph = 1\nextends = "base"\n{text}')
    spec = vlmgraph.read_spec(folder / f"{name if text else 'base'}.toml", **options)
    assert not [d for d in spec.diagnostics if d.severity == "error"], spec.diagnostics
    return spec


def edges(spec):
    found = spec.data["graph"]["edges"]
    listed = [edge for group in found.values() for edge in group] if isinstance(found, dict) else found
    return [" ".join(edge.split()) for edge in listed]


def at(spec, path):
    value = spec.data
    for key in path.split("."):
        value = value[key]
    return value


# ---- merging


def test_tables_merge_by_key_at_any_depth(folder):
    spec = read(folder, "components.llm.layers = 5\ncomponents.llm.mlp.hidden = 96")
    assert at(spec, "components.llm") == {
        "type": "decoder.transformer", "layers": 5, "width": 24, "heads": 4, "mlp": {"type": "mlp.gated", "hidden": 96}, "vocab": 64,
    }  # fmt: skip
    assert list(spec.data["components"]) == ["vision", "proj", "embed", "splice", "llm", "head"]


def test_a_new_type_replaces_the_whole_table_and_the_same_type_does_not(folder):
    assert at(read(folder, 'components.proj = { type = "connector.linear" }'), "components.proj") == {"type": "connector.linear"}
    assert at(read(folder, 'components.proj = { type = "connector.mlp", act = "silu" }'), "components.proj")["depth"] == 2
    assert at(read(folder, 'components.llm.mlp = { type = "mlp.dense", hidden = 9 }'), "components.llm.mlp") == {
        "type": "mlp.dense",
        "hidden": 9,
    }


def test_short_forms_of_slots_merge_with_long_ones(folder):
    assert at(read(folder, "components.llm.mlp = 96"), "components.llm.mlp") == {"type": "mlp.gated", "hidden": 96}
    spec = read(folder, 'components.llm.norm = "norm.rms"\n[sizes.s]\ncomponents.llm.norm = { eps = 0.1 }', size="s")
    assert at(spec, "components.llm.norm") == {"type": "norm.rms", "eps": 0.1}


def test_lists_are_replaced_and_not_joined(folder):
    assert at(read(folder, 'stages.one.train = ["llm"]'), "stages.one.train") == ["llm"]


def test_stages_and_edge_groups_merge_by_name(folder):
    spec = read(folder, 'stages.one.freeze = ["vision"]\nstages.three = { after = "two" }\ngraph.edges.more = ["vision -> op.normalize"]')
    assert list(spec.data["stages"]) == ["one", "two", "three"] and at(spec, "stages.one.train") == ["proj"]
    assert list(spec.data["graph"]["edges"]) == ["sight", "text", "more"]


# ---- edges


@pytest.mark.parametrize(
    ("new", "expected"),
    [
        # the port of the old edge in the middle of a chain: it is cut in front, what comes behind still runs
        ("vision.hidden[1][1:] -> proj", ["image -> vision[1:]", "proj -> splice.vision", "vision.hidden[1][1:] -> proj"]),
        # at the end of a chain
        ("vision -> splice.vision", ["image -> vision[1:] -> proj", "vision -> splice.vision"]),
        # by the port's name and by default it is the same port
        ("vision -> proj.x", ["image -> vision[1:]", "proj -> splice.vision", "vision -> proj.x"]),
        # a port that is free: nothing goes
        ("ids -> op.normalize", ["image -> vision[1:] -> proj -> splice.vision", "ids -> op.normalize"]),
    ],
)
def test_a_new_edge_takes_an_occupied_port(folder, new, expected):
    spec = read(folder, f'graph.edges.sight = ["{new}"]')
    assert [" ".join(edge.split()) for edge in at(spec, "graph.edges.sight")] == expected
    assert len(at(spec, "graph.edges.text")) == 3


def test_a_new_edge_into_a_fan_out_takes_only_its_port(folder):
    spec = read(folder, 'inputs.other = "ids[B, T]"\ngraph.edges.text = ["other -> splice.ids"]')
    assert "ids -> [embed ]" in edges(spec) and "other -> splice.ids" in edges(spec)
    assert vlmgraph.check(spec) == []


def test_removing_a_component_removes_its_edges_and_joins_their_ends(folder):
    spec = read(folder, "components.proj = { remove = true }")
    assert "proj" not in spec.data["components"] and edges(spec)[0] == "image -> vision[1:] -> splice.vision"
    text = "components = { vision = { remove = true }, proj = { remove = true } }\ninputs.image = { remove = true }\n"
    spec = read(folder, text + 'stages = { one = { remove = true }, two = { after = "" } }')
    assert not [edge for edge in edges(spec) if "vision" in edge or "image" in edge] and vlmgraph.check(spec) == []


def test_a_removed_value_is_gone_and_one_that_is_not_there_is_said(folder):
    assert "act" not in at(read(folder, "components.proj.act = { remove = true }"), "components.proj")
    spec = read(folder, "components.porj = { remove = true }")
    (found,) = spec.diagnostics
    assert (found.code, found.severity, found.fix) == (C.BAD_OVERRIDE, "warning", "did you mean 'proj'?") and found.primary.span.line == 3


# ---- layers


@pytest.mark.parametrize(
    ("options", "layers", "width"),
    [
        ({}, 2, 24),
        ({"variant": "deep"}, 8, 24),
        ({"variant": "deeper"}, 16, 24),
        ({"size": "wide"}, 3, 48),
        ({"variant": "deep", "size": "wide"}, 3, 48),  # a size comes over a variant
        ({"size": "wide", "stage": "one"}, 1, 48),  # a stage over both
        ({"stage": "two:0"}, 3, 24),
        ({"stage": "two"}, 4, 24),  # a curriculum: all its steps
        ({"stage": "two", "overrides": {"llm.layers": 7}}, 7, 24),  # what the caller says last
        ({"overrides": ["components.llm.layers=7", "llm.width = 48"]}, 7, 48),
    ],
)
def test_layers_come_in_order(folder, options, layers, width):
    spec = read(folder, **options)
    assert (at(spec, "components.llm.layers"), at(spec, "components.llm.width")) == (layers, width)
    assert not {"sizes", "variants", "extends"} & spec.data.keys()


def test_a_variant_of_another_spec_is_extended_by_its_name(folder):
    (folder / "own.toml").write_text('vlmgraph = 1\nextends = "base:deep"\ncomponents.proj.depth = 1\n')
    spec = vlmgraph.read_spec(folder / "own.toml")
    assert (at(spec, "components.llm.layers"), at(spec, "components.vision.layers"), at(spec, "components.proj.depth")) == (8, 6, 1)
    assert vlmgraph.read_spec("base:deep", search=[folder]).data == vlmgraph.read_spec("base", variant="deep", search=[folder]).data


def test_sizes_and_variants_are_inherited_and_merged(folder):
    spec = read(folder, "[sizes.wide]\ncomponents.llm.heads = 8\n[sizes.more]\ncomponents.llm.heads = 2", size="wide")
    assert (at(spec, "components.llm.width"), at(spec, "components.llm.heads")) == (48, 8) and set(spec.sizes) == {"wide", "more"}


def test_a_size_does_not_bring_back_what_a_variant_removed(folder):
    text = "[variants.blind]\ncomponents.proj = { remove = true }\n[sizes.s]\ncomponents.proj.depth = 1\ncomponents.llm.layers = 1\n"
    spec = read(folder, text, variant="blind", size="s")
    assert "proj" not in spec.data["components"] and at(spec, "components.llm.layers") == 1


# ---- overrides


@pytest.mark.parametrize(
    ("key", "value", "path", "expected"),
    [
        ("llm.layers", 9, "components.llm.layers", 9),
        ("components.llm.layers", 9, "components.llm.layers", 9),
        ("llm.mlp", 9, "components.llm.mlp", {"type": "mlp.gated", "hidden": 9}),
        ("llm.mlp.hidden", 9, "components.llm.mlp", {"type": "mlp.gated", "hidden": 9}),
        ("proj", {"type": "connector.linear"}, "components.proj", {"type": "connector.linear"}),
        ("components.new", {"type": "norm.rms"}, "components.new", {"type": "norm.rms"}),
        ("proj.act", {"remove": True}, "components.proj", {"type": "connector.mlp", "depth": 2}),
        ('tokens."<image>"', 4, "tokens", {"<image>": 4}),
        ("stages.one.train", ["llm"], "stages.one.train", ["llm"]),
        ("inputs.ids", "ids[B, 5]", "inputs.ids", "ids[B, 5]"),
        ("model.name", "x", "model.name", "x"),
    ],
)
def test_overrides_follow_the_overlay_rules(folder, key, value, path, expected):
    assert at(read(folder, overrides={key: value}), path) == expected


def test_an_override_of_one_reaches_all_that_are_of_it(folder):
    graph = elaborate(read(folder, overrides={"llm.vocab": 99}))
    assert {graph.components[name].vocab for name in ("llm", "embed", "head")} == {99}


@pytest.mark.parametrize(
    ("override", "words", "fix"),
    [
        ({"lmm.layers": 1}, "no component or table 'lmm'", "did you mean 'llm'?"),
        ({"components.lmm.layers": 1}, "no 'lmm' in [components]", "did you mean 'llm'?"),
        ({"components": 1}, "whole table", None),
        ({"sizes.wide": {}}, "cannot be overridden", None),
        ({"extends": "x"}, "cannot be overridden", None),
        ({"": 1}, "not a dotted key", None),
        ({"a = b": 1}, "not a dotted key", None),
        ({"llm.layers": None}, "not NoneType", None),
        ({"graph.edges.sight.x": "a -> b"}, "is a list of 1", None),
        (["llm.layers"], "not an override", "write KEY=VALUE"),
    ],
)
def test_overrides_that_mean_nothing(folder, override, words, fix):
    found = vlmgraph.read_spec(folder / "base.toml", overrides=override).diagnostics
    assert [d.code for d in found] == [C.BAD_OVERRIDE] and words in found[0].message, found
    assert fix is None or fix in (found[0].fix or "")


# ---- provenance


def test_every_value_knows_its_layer_and_its_place(folder):
    spec = read(folder, "components.proj.depth = 3\n", variant="deep", size="wide", stage="one", overrides={"vision.heads": 4})
    wanted = {
        ("components", "vision", "width"): ("extends", "base", "base.toml", "16"),
        ("components", "vision", "layers"): ("variant", "deep", "base.toml", "6"),
        ("components", "llm", "width"): ("size", "wide", "base.toml", "48"),
        ("components", "llm", "layers"): ("stage", "one", "base.toml", "1"),
        ("components", "vision", "heads"): ("override", "vision.heads", None, None),
    }
    for path, (layer, name, file, text) in wanted.items():
        origin = spec.origin(path)
        assert (origin.layer, origin.name) == (layer, name), path
        if file is None:
            assert origin.span is None
            continue
        span = origin.span
        assert span.file.endswith(file)
        assert (folder / file).read_text().split("\n")[span.line - 1][span.column - 1 : span.end_column - 1] == text
    lines = resolved(spec).split("\n")
    assert any(line.startswith("components.llm.layers = 1 ") and "stage one" in line and "base.toml:" in line for line in lines)
    assert len(lines) == len({line.partition(" = ")[0] for line in lines})


def test_every_problem_of_the_structure_is_found_at_once(folder):
    text = """
model = { naem = "x", survey = "one" }
inputs = { Image = "ids[B]", "a b" = "ids[B]", n = 3 }
graph.edges = ["a -> b", 3]
programs = { forward = { outputs = 3 }, class = {} }
stages = { one = { tarin = ["all"], set = 3 }, two = { objectives = { lm = "much" } } }
weights = { hub = 1 }
expect = { params = { total = "many" } }
sizes = { Big = {}, small = { componets = {} } }
nothing = 1
"""
    (folder / "own.toml").write_text("vlmgraph = 1\n" + text)
    found = vlmgraph.read_spec(folder / "own.toml").diagnostics
    places = {(d.code, d.primary.span.line) for d in found}
    assert places == {
        (C.UNKNOWN_KEY, 3), (C.WRONG_VALUE, 3), (C.BAD_NAME, 4), (C.WRONG_VALUE, 4), (C.WRONG_VALUE, 5), (C.WRONG_VALUE, 6),
        (C.BAD_NAME, 6), (C.UNKNOWN_KEY, 7), (C.WRONG_VALUE, 7), (C.WRONG_VALUE, 8), (C.WRONG_VALUE, 9), (C.BAD_NAME, 10),
        (C.UNKNOWN_KEY, 10), (C.UNKNOWN_KEY, 11),
    }  # fmt: skip
    assert len(found) == 16


def test_published_numbers_are_not_expected_of_a_model_changed_by_hand():
    assert vlmgraph.check(vlmgraph.read_spec("cogvlm", overrides={"llm.layers": 4})) == []
    (found,) = vlmgraph.check(vlmgraph.read_spec("cogvlm", overrides={"expect.visual_tokens": 4}))
    assert found.code == C.EXPECT_TOKENS
