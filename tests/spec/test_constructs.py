"""Every construct of the spec language in a small spec of its own, held by what it means in the graph or in what the model computes."""

from __future__ import annotations

import pytest
import torch

import vlmgraph
from vlmgraph.api import elaborate
from vlmgraph.ir.text import print_node

LINEAR = {"type": "connector.linear", "out": 8}
BASE = {
    "inputs": {"x": "tokens[B, N, 8]", "z": "tokens[B, N, 8]?"},
    "outputs": {"y": "tokens[B, N, 8]"},
    "programs": {"forward": {"outputs": ["y"]}},
}
DECODER = {"type": "decoder.transformer", "layers": 2, "width": 16, "heads": 2, "mlp": 24, "vocab": 40, "max_positions": 32}


def spec(edges, components=None, **tables):
    return {**BASE, "components": components or {}, "graph": {"edges": edges}, **tables}


def nodes(source, **options):
    """The graph's nodes by id: what each reads."""
    graph = elaborate(vlmgraph.read_spec(source, **options))
    return {node.id: dict(node.inputs) for node in graph.nodes}


def codes(source, **options):
    return [d.code for d in vlmgraph.check(vlmgraph.read_spec(source, **options))]


def shape(graph, value):
    return str(graph.types()[value])


# ---- edges


def test_chains_fan_out_and_ordered_fan_in():
    parts = {"a": LINEAR, "b": LINEAR, "sum": {"type": "op.add"}, "cat": {"type": "op.concat", "axis": "tokens"}}
    made = nodes(spec(["x -> a -> [b, cat]", "[b, x] -> sum -> y"], parts, outputs={"y": "tokens[B, N, 8]"}))
    assert made["b"] == {"x": "a"} and made["sum"] == {"x": ("b", "x")} and made["cat"] == {"x": ("a",)}


def test_absent_optionals_are_skipped_in_a_fan_in():
    model = vlmgraph.compile(spec(["[x, z] -> op.add -> y"]))
    x, z = torch.randn(2, 2, 3, 8)
    assert torch.equal(model(x=x)["y"], x) and torch.equal(model(x=x, z=z)["y"], x + z)


def test_inline_ops_are_one_node_a_mention():
    made = nodes(spec(["x -> op.normalize -> op.pool(mode='mean') -> y", "x -> op.normalize"], outputs={"y": "embedding[B, 8]"}))
    assert made == {"normalize_1": {"x": "x"}, "pool_1": {"x": "normalize_1"}, "normalize_2": {"x": "x"}}


def test_the_middle_of_a_chain_is_fed_at_its_port_and_goes_on_from_its_output():
    parts = {"similar": {"type": "head.similarity"}}
    source = spec(["x[0] -> similar.image -> y", "x[1] -> similar.text"], parts, outputs={"y": "scores[B, B]"})
    assert nodes(source)["similar"] == {"image": "x[0]", "text": "x[1]"}


def test_named_groups_of_edges():
    assert nodes(spec({"first": ["x -> a"], "second": ["a -> y"]}, {"a": LINEAR})) == {"a": {"x": "x"}}


def test_an_input_is_not_called_like_a_component_or_a_node():
    assert codes(spec(["x -> z -> y"], {"z": LINEAR})) == ["VG0104"]
    assert codes(spec(["x -> a -> z -> y"], {"a": LINEAR}, nodes={"z": {"uses": "a"}})) == ["VG0104"]


def test_slices_by_number_and_by_the_name_of_a_dim():
    source = spec(["[x, z] -> cat", "cat[:N] -> y", "cat[-1] -> last"], {"cat": {"type": "op.concat", "axis": "tokens"}})
    source["inputs"] = {"x": "tokens[B, N, 8]", "z": "tokens[B, M, 8]"}
    source["outputs"] = {"y": "tokens[B, N, 8]", "last": "embedding[B, 8]"}
    source["programs"] = {"forward": {"outputs": ["y", "last"]}}
    x, z = torch.randn(2, 3, 8), torch.randn(2, 4, 8)
    out = vlmgraph.compile(source)(x=x, z=z)
    assert torch.equal(out["y"], x) and torch.equal(out["last"], z[:, -1])
    source["graph"] = {"edges": ["[x, z] -> cat", "cat[:K] -> y", "cat[-1] -> last"]}
    assert codes(source) == ["VG0311"]  # K is no dim of an input


def test_taps_are_counted_from_both_ends():
    source = spec(["x -> t -> y", "t.hidden[0, -1] -> op.add -> op.normalize"], {"t": {"type": "text.transformer", **stack()}})
    assert nodes(source)["add_1"] == {"x": ("t.hidden.0", "t.hidden.2")}


def stack(**fields):
    return {"layers": 2, "width": 8, "heads": 2, "mlp": 12, "position": "none", **fields}


# ---- components


def test_like_has_the_fields_and_its_own_parameters():
    parts = {"a": {"type": "connector.mlp", "depth": 3, "out": 8}, "b": {"like": "a", "act": "relu"}}
    graph = elaborate(spec(["x -> a -> b -> y"], parts))
    a, b = graph.components["a"], graph.components["b"]
    assert type(a) is type(b) and (b.depth, b.act, a.act) == (3, "relu", "gelu")
    model = vlmgraph.compile(spec(["x -> a -> b -> y"], parts))
    assert len(dict(model.named_parameters())) == 2 * 6


def test_like_of_another_type_takes_the_fields_that_both_have():
    parts = {"a": {"type": "connector.mlp", "depth": 3, "out": 8}, "b": {"like": "a", "type": "connector.linear"}}
    graph = elaborate(spec(["x -> a -> b -> y"], parts))
    assert graph.components["b"].kind == "connector.linear" and graph.components["b"].out == 8


def test_a_copy_of_one_component_is_wired_by_hand_and_never_trains():
    parts = {"a": LINEAR, "t": {"copy": "a", "update": {"ema": 0.99}}}
    source = spec(["x -> a", "x -> t -> y"], parts, stages={"one": {"train": ["*"]}})
    graph = elaborate(source)
    assert graph.copies["t"].of == "a" and graph.copies["t"].ema == 0.99
    from vlmgraph.train.stage import begin

    model = vlmgraph.compile(source)
    assert not torch.equal(model.a.proj.weight, model.t.proj.weight)
    assert begin(model, "one") == ["a.proj.weight", "a.proj.bias"]
    assert torch.equal(model.a.proj.weight, model.t.proj.weight)


def copied():
    parts = {"a": LINEAR, "b": LINEAR, "c": LINEAR, "ref": {"copy": ["a", "c"]}}
    return spec(["x -> a -> b -> c -> y", "y -> op.normalize"], parts)


def test_a_copy_of_several_copies_their_slice():
    source = copied()
    source["programs"] = {"forward": {"outputs": ["y", "ref.y"]}}
    made = nodes(source)
    assert made["ref.a"] == {"x": "x"} and made["ref.b"] == {"x": "ref.a"} and made["ref.c"] == {"x": "ref.b"}
    graph = elaborate(vlmgraph.read_spec(source))
    assert graph.node("ref.b").component == "b" and graph.node("ref.c").component == "ref.c"  # what is not copied is shared
    assert "ref.normalize_1" not in made
    model = vlmgraph.compile(source)
    x = torch.randn(2, 3, 8)
    assert not torch.equal(model(x=x)["y"], model(x=x)["ref.y"])
    for part in "ac":
        getattr(model.ref, part).load_state_dict(getattr(model, part).state_dict())
    assert torch.equal(model(x=x)["y"], model(x=x)["ref.y"])


def test_a_copy_that_nobody_reads_is_not_made():
    assert [id for id in elaborate(copied()).components if id.startswith("ref")] == []


def test_a_copy_serves_an_objective():
    source = copied()
    source["objectives"] = {"same": {"type": "loss.contrastive", "edges": ["y[0] -> same.image", "ref.y[0] -> same.text"]}}
    graph = elaborate(vlmgraph.read_spec(source))
    assert graph.objectives["same"].nodes[0].inputs == {"image": "y[0]", "text": "ref.y[0]"}
    assert graph.node("ref.y[0]").inputs == {"x": "ref.c"} and graph.node("y[0]").inputs == {"x": "c"}


def test_what_is_wrong_with_a_copy_is_said():
    source = copied()
    source["components"]["ref"] = {"copy": ["a", "q"]}
    source["programs"] = {"forward": {"outputs": ["ref.y"]}}
    assert "VG0302" in codes(source)
    source["components"]["ref"] = {"copy": ["a"]}
    source["programs"] = {"forward": {"outputs": ["ref"]}}
    assert codes(source) == ["VG0303"]
    source["programs"] = BASE["programs"]
    source["graph"] = {"edges": ["x -> a -> b -> c -> y", "x -> ref"]}
    assert codes(source) == ["VG0304"]


def test_several_nodes_share_a_component():
    source = spec(["x -> a -> again -> y"], {"a": LINEAR}, nodes={"again": {"uses": "a"}})
    model = vlmgraph.compile(source)
    x = torch.randn(2, 3, 8)
    torch.testing.assert_close(model(x=x)["y"], model.a(model.a(x)))
    assert len(list(model.parameters())) == 2


# ---- blocks

PAIR = {
    "inputs": {"p": "tokens[B, N, $width]", "q": "tokens[B, N, 8]?"},
    "outputs": {"p": "u", "q": "v"},
    "fields": {"width": 8, "depth": 2},
    "components": {"u": {"type": "connector.mlp", "depth": "$depth", "out": 8}, "v": {"like": "u"}, "s": {"type": "op.add"}},
    "edges": ["[p, q] -> s -> [u, v]"],
}


def blocks(use, edges, block=PAIR, **tables):
    return spec(edges, {"c": {"type": "blocks.pair", **use}, "a": LINEAR}, blocks={"pair": block}, **tables)


def test_a_block_is_an_inner_graph_with_fields():
    made = nodes(blocks({"depth": 3}, ["x -> c.p", "x -> a -> c.q", "c.q -> y"]))
    assert made["c.s"] == {"x": ("x", "a")} and made["c.v"] == {"x": "c.s"}
    graph = elaborate(blocks({"depth": 3}, ["x -> c.p", "x -> a -> c.q", "c.q -> y"]))
    assert graph.components["c.v"].depth == 3 and graph.resolve("y") == "c.v" and graph.resolve("c") == "c.u"


def test_an_optional_input_of_a_block_may_be_unfed_and_a_needed_one_not():
    assert nodes(blocks({}, ["x -> c -> y", "x -> a"]))["c.s"] == {"x": ("x",)}
    assert codes(blocks({}, ["x -> c.q", "c -> y", "x -> a"])) == ["VG0307"]


def test_repeat_chains_outputs_into_inputs_of_the_same_names():
    made = nodes(blocks({"repeat": 3}, ["x -> c.p", "x -> a -> c.q", "c.q -> y"]))
    assert made["c.0.s"] == {"x": ("x", "a")} and made["c.1.s"] == {"x": ("c.0.u", "c.0.v")} and made["c.2.v"] == {"x": "c.2.s"}
    model = vlmgraph.compile(blocks({"repeat": 3}, ["x -> c.p", "x -> a -> c.q", "c.q -> y"]))
    assert model.get_parameter("c.2.v.fc1.weight").shape == (8, 8)  # each has its own
    assert set(model(x=torch.randn(1, 2, 8))) == {"y"}


def test_repeat_chains_a_single_pair_of_ports_whatever_they_are_called():
    one = {"inputs": {"x": "tokens[B, N, 8]"}, "components": {"l": LINEAR}, "edges": ["x -> l -> out"]}
    made = nodes(blocks({"repeat": 2}, ["x -> c -> y", "x -> a"], one))
    assert made["c.0.l"] == {"x": "x"} and made["c.1.l"] == {"x": "c.0.l"}


def test_a_block_has_nodes_of_its_own_and_groups_of_edges():
    inner = {
        "inputs": {"x": "tokens[B, N, 8]"},
        "components": {"l": LINEAR},
        "nodes": {"twice": {"uses": "l"}},
        "graph": {"edges": {"all": ["x -> l -> twice -> out"]}},
    }
    assert nodes(blocks({}, ["x -> c -> y", "x -> a"], inner))["c.twice"] == {"x": "c.l"}


def test_a_list_port_of_a_block_takes_an_ordered_list():
    inner = {"inputs": {"levels": "tokens[B, N, 8]*2"}, "components": {"s": {"type": "op.add"}}, "edges": ["levels -> s -> out"]}
    assert nodes(blocks({}, ["x -> a", "[a, x] -> c.levels -> y"], inner))["c.s"] == {"x": ("a", "x")}
    inner["components"] = {"s": LINEAR}
    assert "VG0306" in codes(blocks({}, ["x -> a", "[a, x] -> c.levels -> y"], inner))


def test_blocks_stand_in_blocks():
    outer = {"inputs": {"x": "tokens[B, N, 8]"}, "components": {"in": LINEAR}, "edges": []}
    outer["components"] = {"core": {"type": "blocks.pair", "depth": 1}}
    outer["edges"] = ["x -> core.p", "core -> out"]
    source = spec(["x -> c -> y"], {"c": {"type": "blocks.outer"}}, blocks={"pair": PAIR, "outer": outer})
    assert nodes(source)["c.core.s"] == {"x": ("x",)}


# ---- list outputs, by a component made for it

PYRAMID = """
from vlmgraph.components.base import Encoder, Ports
from vlmgraph.ir import types as T

class Pyramid(Encoder, name="test.pyramid"):
    levels: int = 3
    def signature(self, facet=""):
        maps = {f"maps.{i}": T.map_["B", 4 * 2**i, f"h/{2**i}", f"w/{2**i}"] for i in range(self.levels)}
        return Ports(maps, x=T.map_["B", 4, "h", "w"])

class Fuse(Encoder, name="test.fuse"):
    ports = Ports(T.map_["B", 4, "h", "w"], x=T.map_["B", "c", "i", "j"].many)
    def result(self, inputs):
        return {"out": inputs["x"][0]}
"""


@pytest.fixture
def pyramid(install):
    kinds = {"test.pyramid": "pyramid_parts:Pyramid", "test.fuse": "pyramid_parts:Fuse"}
    install("pyramid", {"vlmgraph.components": kinds}, {"pyramid_parts.py": PYRAMID})


def levels(*edges):
    parts = {"fpn": {"type": "test.pyramid"}, "fuse": {"type": "test.fuse"}}
    tables = {"inputs": {"x": "map[B, 4, 32, 32]"}, "outputs": {"y": "map[B, 4, h, w]"}}
    return spec(list(edges), parts, **tables)


@pytest.mark.parametrize(
    ("edge", "read"),
    [
        ("fpn -> fuse", ("fpn", "fpn.maps.1", "fpn.maps.2")),
        ("fpn.maps -> fuse", ("fpn", "fpn.maps.1", "fpn.maps.2")),
        ("fpn.maps[2, 0] -> fuse", ("fpn.maps.2", "fpn")),
        ("fpn.maps[-1] -> fuse", ("fpn.maps.2",)),
    ],
)
def test_a_list_output_is_read_whole_or_by_index(pyramid, edge, read):
    graph = vlmgraph.read_spec(levels("x -> fpn", edge, "fuse -> y"))
    from vlmgraph.elaborate import elaborate as wire

    assert wire(graph).node("fuse").inputs["x"] == read


def test_an_index_outside_of_a_list_is_found(pyramid):
    assert codes(levels("x -> fpn", "fpn.maps[3] -> fuse -> y")) == ["VG0310"]


# ---- dims


def test_dims_are_arithmetic_with_rounding_bounds_and_conditions():
    parts = {"cat": {"type": "op.concat", "axis": "tokens"}}
    source = spec(["[x, z] -> cat -> y"], parts)
    source["inputs"] = {"x": "tokens[B, ceil(H/14), 8]", "z": "tokens[B, tiles*(tiles > 1), 8]"}
    source["outputs"] = {"y": "tokens[B, (H + 13)//14 + tiles*(1 < tiles), 8]"}
    assert codes(source) == []
    source["outputs"] = {"y": "tokens[B, H//14 + tiles*(tiles > 1), 8]"}
    assert codes(source) == ["VG0411"]


def test_a_packed_dim_names_its_owner():
    source = spec(["x -> a -> y"], {"a": LINEAR})
    source["inputs"] = {"x": "tokens[N in B, 4, 8]"}
    source["outputs"] = {"y": "tokens[N in B, 4, 8]"}
    assert codes(source) == ["VG0401"] * 2  # nothing has a dim B
    source["inputs"] |= {"ids": "ids[B, T]?", "grid": "grid[N, 3]?"}
    assert shape(elaborate(source), "x") == "tokens[N in B, 4, 8]"
    source["inputs"]["x"] = "tokens[N in grid, 4, 8]"
    assert [c for c in codes(source) if c != "VG0315"] == []
    source["inputs"]["x"] = "tokens[N in gird, 4, 8]"
    [found] = [d for d in vlmgraph.check(source) if d.severity == "error"]
    assert found.code == "VG0401" and found.fix == "did you mean 'grid'?"


def test_extra_leading_dims_fold_and_come_back():
    source = spec(["x -> enc -> y"], {"enc": {"type": "text.transformer", **stack()}})
    source["inputs"], source["outputs"] = {"x": "tokens[B, M, N, 8]"}, {"y": "tokens[B, M, N, 8]"}
    model = vlmgraph.compile(source)
    x = torch.randn(2, 3, 4, 8)
    torch.testing.assert_close(model(x=x)["y"], model.enc(x.flatten(0, 1)).unflatten(0, (2, 3)))


def test_token_counts_of_a_spec_are_held_against_the_graph():
    parts = {"embed": {"type": "text.embedding", "of": "llm"}, "splice": {"type": "op.splice", "token": "<image>"}, "llm": DECODER}
    source = spec(
        ["x -> splice.vision", "ids -> [embed, splice.ids]", "embed -> splice.text", "splice -> llm -> y"],
        parts,
        inputs={"x": "tokens[B, 2*n + (n > 1), 16]", "ids": "ids[B, T]"},
        outputs={"y": "tokens[B, T, 16]"},
        tokens={"<image>": 39},
    )
    for formula, wanted in (("(n > 1) + n + n", []), ("3*n", ["VG0413"]), ("2*(", ["VG0413"]), ("tiles*256", []), (5, [])):
        assert codes({**source, "expect": {"visual_tokens": formula}}) == wanted, formula


# ---- stacks


@pytest.mark.parametrize(
    "fields",
    [
        {"attention": {"type": "attention.mha", "kv_heads": 1}, "norm": "norm.rms", "position": "position.rope"},
        {"pattern": ["narrow", "full"], "kinds": {"narrow": {"mlp": 20}}},
        {"insert": [{"name": "media", "every": 2, "block": {"type": "block.gated_cross_attention", "mlp": 20}}]},
    ],
    ids=["slots", "pattern", "insert"],
)
def test_slots_patterns_and_insertions(fields):
    source = spec(["x -> t -> y"], {"t": {"type": "decoder.transformer", **stack(vocab=40), **fields}})
    assert codes(source) == []


def test_an_insertion_opens_a_port_and_is_skipped_when_it_is_unfed():
    insert = {"insert": [{"name": "media", "every": 1, "block": {"type": "block.gated_cross_attention", "mlp": 20}}]}
    source = spec(["x -> t -> y", "z -> t.media"], {"t": {"type": "decoder.transformer", **stack(vocab=40), **insert}})
    model = vlmgraph.compile(source)
    for name, parameter in model.named_parameters():
        if "gate" in name and parameter.ndim <= 1:
            torch.nn.init.ones_(parameter)
    x, z = torch.randn(2, 2, 3, 8)
    assert not torch.equal(model(x=x)["y"], model(x=x, z=z)["y"])


# ---- objectives and stages


def losses(**objectives):
    parts = {"a": LINEAR, "b": LINEAR}
    source = spec(["x -> a -> op.pool(mode='mean') -> op.normalize -> u", "z -> b -> op.pool(mode='mean') -> op.normalize -> v"], parts)
    source["inputs"] = {"x": "tokens[B, N, 8]", "z": "tokens[B, N, 8]", "w": "tokens[B, N, 8]?"}
    source["outputs"] = {"u": "embedding[B, 8]", "v": "embedding[B, 8]"}
    source["programs"] = {"forward": {"outputs": ["u", "v"]}}
    return {**source, "objectives": objectives}


def test_ports_bind_by_name_and_edges_rebind_inside_one_objective_only():
    named = {"type": "loss.contrastive", "edges": ["u -> {0}.image", "v -> {0}.text"]}
    plain = {**named, "edges": [e.format("plain") for e in named["edges"]]}
    hard = {**named, "edges": [e.format("hard") for e in named["edges"]] + ["w -> b"], "when": "kind == 'image'"}
    graph = elaborate(losses(plain=plain, hard=hard))
    assert graph.objectives["hard"].rebind == {("b", "x"): "w"} and graph.objectives["plain"].rebind == {}
    assert graph.objectives["hard"].when == "kind == 'image'" and graph.node("b").inputs == {"x": "z"}


def test_an_objective_may_have_ops_of_its_own():
    own = {"type": "loss.contrastive", "edges": ["u -> own.image", "v -> op.normalize -> own.text"]}
    graph = elaborate(losses(own=own))
    assert [print_node(n).split(" ->")[0] for n in graph.objectives["own"].nodes] == [
        "objective.own := call objective.own(image=%normalize_1, text=%objective.own.normalize_1)",
        "objective.own.normalize_1 := call objective.own.normalize_1(x=%normalize_2)",
    ]


def stages(**tables):
    return spec(["x -> a -> b -> y"], {"a": LINEAR, "b": LINEAR}, stages=tables)


def test_a_stage_goes_on_as_the_one_before():
    made = elaborate(stages(one={"train": ["a"], "freeze": ["b"]}, two={"after": "one"}, three={"after": "two", "train": ["*"]})).stages
    assert (made["two"].train, made["two"].freeze, made["three"].train) == (("a",), ("b",), ("*",))


def test_weights_of_a_stage_start_from_addresses_rules_and_averages():
    init = {"b": "a", "a": {"from": "b", "rule": "inflate"}, "average": {"one": 0.5, "two": 0.5}}
    made = elaborate(stages(one={}, two={}, three={"init": init, "train": []}, four={"init": "clip"})).stages
    assert made["three"].init == init and made["four"].init == {"*": "clip"}
    assert codes(stages(one={"train": []})) == ["VG0508"]
    assert codes(stages(one={"init": {"average": {"zero": 1.0}}})) == ["VG0510"]
    assert codes(stages(one={"init": {"q": "a"}})) == ["VG0509"]
    assert codes(stages(one={"init": {"a": {"of": "b"}}})) == ["VG0103"]


def test_a_curriculum_overlays_step_by_step():
    source = stages(grow={"set": [{"components.a.bias": False}, {"components.b.bias": False}]})
    first, both = (elaborate(vlmgraph.read_spec(source, stage=stage)).components for stage in ("grow:0", "grow"))
    assert [first[id].bias for id in "ab"] == [False, True] and [both[id].bias for id in "ab"] == [False, False]


def test_the_names_of_a_stage_over_a_variant_are_those_of_the_variant():
    probe = {"variant": "probed", "train": ["probe"]}
    source = stages(probe=probe)
    source["variants"] = {"probed": {"components": {"probe": LINEAR}, "graph": {"edges": ["b -> probe -> y"]}}}
    assert codes(source) == [] and codes(source, stage="probe") == []
    source["stages"]["probe"]["train"] = ["prob"]
    assert codes(source) == [] and codes(source, stage="probe") == ["VG0509"]


def test_a_cache_is_named_by_component_node_or_part():
    llm = {**DECODER, "insert": [{"name": "media", "every": 1, "block": {"type": "block.gated_cross_attention", "mlp": 20}}]}
    source = spec(["ids -> embed -> llm -> y", "x -> llm.media"], {"embed": {"type": "text.embedding", "of": "llm"}, "llm": llm})
    source |= {"inputs": {"ids": "ids[B, T]", "x": "tokens[B, N, 8]?"}, "outputs": {"y": "tokens[B, T, 16]"}}
    source["programs"] = {"generate": {"outputs": ["y"], "cache": ["llm", "llm.media"]}}
    assert elaborate(source).programs["generate"].cache == ("llm",)
    source["programs"]["generate"]["cache"] = ["llm.medium"]
    assert codes(source) == ["VG0503"]


# ---- overlays


def test_an_edge_into_an_occupied_port_replaces_the_edge_that_was_there():
    source = spec(["x -> a -> b -> y"], {"a": LINEAR, "b": LINEAR})
    source["variants"] = {"short": {"graph": {"edges": ["x -> b"]}}}
    assert nodes(source, variant="short")["b"] == {"x": "x"}


def test_a_variant_takes_an_edge_away():
    source = spec(["[x, z] -> s -> y", "z -> a"], {"s": {"type": "op.add"}, "a": LINEAR})
    source["variants"] = {"alone": {"graph": {"edges": [{"remove": "z -> s"}, "x -> s"]}, "components": {"a": {"remove": True}}}}
    assert nodes(source, variant="alone") == {"s": {"x": ("x",)}}


def test_what_names_a_removed_component_goes_with_it():
    source = spec(["x -> a -> b -> y"], {"a": LINEAR, "b": LINEAR}, stages={"one": {"train": ["a", "b"], "init": {"b": "a"}}})
    source["graph"]["ties"] = ["b.proj.weight = a.proj.weight"]
    source["variants"] = {"short": {"components": {"b": {"remove": True}}, "graph": {"edges": ["a -> y"]}}}
    graph = elaborate(vlmgraph.read_spec(source, variant="short"))
    assert graph.stages["one"].train == ("a",) and graph.stages["one"].init == {} and graph.ties == ()


def test_extends_over_several_files(tmp_path):
    (tmp_path / "one.toml").write_text(
        'vlmgraph = 1\n[inputs]\nx = "tokens[B, N, 8]"\n[outputs]\ny = "tokens[B, N, 8]"\n[components]\n'
        'a = { type = "connector.mlp", depth = 2, out = 8 }\n[graph]\nedges = ["x -> a -> y"]\n'
        '[variants.deep]\ncomponents.a.depth = 4\n[stages.align]\ntrain = ["a"]\n',
        encoding="utf-8",
    )
    (tmp_path / "two.toml").write_text('vlmgraph = 1\nextends = "one:deep"\n[components.b]\nlike = "a"\n[graph]\nedges = ["a -> b -> y"]\n')
    (tmp_path / "three.toml").write_text('vlmgraph = 1\nextends = "two"\n[stages.tune]\nafter = "align"\n[components.b]\nact = "relu"\n')
    graph = elaborate(vlmgraph.read_spec(tmp_path / "three.toml"))
    assert {id: c.depth for id, c in graph.components.items()} == {"a": 4, "b": 4}
    assert graph.components["b"].act == "relu" and graph.node("b").inputs == {"x": "a"} and graph.stages["tune"].train == ("a",)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"graph": {"edges": ["x -> a -> b -> c", "ref.y -> y"]}}, "VG0308"),
        ({"graph": {"edges": ["x -> a -> b -> c", "ref.ref.c -> y"]}}, "VG0303"),
        ({"components": {"a": LINEAR, "b": LINEAR, "c": LINEAR, "ref": {"copy": ["a", "c"], "depth": 2}}}, "VG0204"),
    ],
    ids=["itself", "copy-of-a-copy", "broken"],
)
def test_copies_that_cannot_be_are_findings(change, code):
    source = {**copied(), "programs": {"forward": {"outputs": ["y", "ref.c"]}}, **change}
    assert set(codes(source)) == {code}
