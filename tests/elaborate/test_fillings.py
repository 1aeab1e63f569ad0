"""A `[blocks.Z]` graph as the filling of a slot: checked, counted, built and computed like a layer."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import vlmgraph
from vlmgraph.api import elaborate
from vlmgraph.ir.dims import Dim
from vlmgraph.ir.text import parse_graph, print_graph
from vlmgraph.weights.lock import lock_text

GATED: dict[str, Any] = {
    "inputs": {"x": "tokens[B, N, 8]", "media": "tokens[B, M, d]", "media_mask": "mask[B, M]?"},
    "outputs": {"x": "sum"},
    "fields": {"depth": 2},
    "components": {
        "norm": {"type": "norm.layer"},
        "enter": {"type": "connector.linear", "out": 8},
        "mix": {"type": "connector.mlp", "depth": "$depth", "out": 8},
        "pool": {"type": "text.transformer", "layers": 1, "width": 8, "heads": 2, "mlp": 8, "position": "none", "cross": "attention.cross"},
        "sum": {"type": "op.add"},
    },
    "edges": ["x -> norm -> mix -> pool", "media -> enter -> pool.media", "media_mask -> pool.media_mask", "[x, pool] -> sum"],
}
BASE = {
    "inputs": {"x": "tokens[B, T, 8]", "z": "tokens[B, M, 6]?", "z_mask": "mask[B, M]?"},
    "outputs": {"y": "tokens[B, T, 8]"},
    "graph": {"edges": ["x -> llm -> y", "z -> llm.media", "z_mask -> llm.media_mask"]},
    "programs": {"forward": {"outputs": ["y"]}},
}


def spec(block=GATED, use=None, **fields):
    llm = {"type": "decoder.transformer", "layers": 4, "width": 8, "heads": 2, "mlp": 12, "vocab": 20, **fields}
    if not fields:
        llm["insert"] = [{"name": "gated", "every": 2, "start": 1, "block": {"type": "blocks.gate", **(use or {})}}]
    return {**BASE, "components": {"llm": llm}, "blocks": {"gate": block}}


def messages(source):
    return [(d.code, d.message) for d in vlmgraph.check(source)]


@pytest.fixture(scope="module")
def model():
    return vlmgraph.compile(spec(use={"depth": 3}))


def test_its_parameters_stand_under_the_names_of_its_components(model):
    names = {n.removeprefix("llm.inserts.gated.") for n in model.state_dict() if ".inserts." in n}
    assert {n.partition(".")[0] for n in names} == {"1", "3"}
    assert {"1.mix.fc1.weight", "1.mix.fc2.weight", "1.mix.fc3.weight", "1.norm.weight", "1.pool.layers.0.cross.q.weight"} <= names
    assert model.get_parameter("llm.inserts.gated.3.enter.proj.weight").shape == (8, 6)  # the media's width is inferred
    counted = elaborate(spec(use={"depth": 3})).components["llm"].total()
    assert counted == sum(p.numel() for p in model.parameters())


def test_it_computes_its_graph(model):
    x, z = torch.randn(2, 3, 8), torch.randn(2, 5, 6)
    block = model.llm.inserts["gated"]["1"]
    by_hand = x + block.pool(block.mix(block.norm(x)), media=block.enter(z))
    torch.testing.assert_close(block(x, z), by_hand, rtol=0, atol=0)
    mask = torch.tensor([[True] * 5, [True, True, False, False, False]])
    assert torch.equal(model(x=x, z=z, z_mask=mask)["y"][1], model(x=x, z=torch.where(mask[..., None], z, z + 1), z_mask=mask)["y"][1])
    assert not torch.equal(model(x=x, z=z)["y"], model(x=x, z=z + 1)["y"])


def test_without_the_media_that_it_needs_it_is_left_out(model):
    x = torch.randn(2, 3, 8)
    plain = vlmgraph.compile({**spec(layers=4), "graph": {"edges": ["x -> llm -> y"]}, "inputs": {"x": BASE["inputs"]["x"]}})
    plain.load_state_dict({k: v for k, v in model.state_dict().items() if ".inserts." not in k})
    assert torch.equal(model(x=x)["y"], plain(x=x)["y"])
    optional = {**GATED, "inputs": {**GATED["inputs"], "media": "tokens[B, M, d]?"}}
    assert not torch.equal(vlmgraph.compile(spec(optional, {"depth": 3}))(x=x)["y"], plain(x=x)["y"])


def test_it_trains_and_is_addressed_like_any_part():
    source = {**spec(), "stages": {"tune": {"train": ["llm.gated"]}, "mix": {"train": ["llm.mix"]}}}
    assert messages(source) == []
    source["stages"]["tune"]["train"] = ["llm.gate"]
    assert [code for code, _ in messages(source)] == ["VG0509"]


def test_an_mlp_may_be_a_block():
    block = {"inputs": {"x": "tokens[B, N, w]"}, "components": {"a": {"type": "connector.mlp", "depth": 2, "hidden": 20, "out": 8}}}
    block["edges"] = ["x -> a -> out"]
    model = vlmgraph.compile(
        {**spec(block, mlp="blocks.gate"), "graph": {"edges": ["x -> llm -> y"]}, "inputs": {"x": BASE["inputs"]["x"]}}
    )
    assert model.get_parameter("llm.layers.2.mlp.a.fc1.weight").shape == (20, 8)
    model(x=torch.randn(1, 3, 8))["y"].sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for n, p in model.named_parameters() if ".mlp." in n)


def test_text_form_and_lock_file_hold_it(tmp_path):
    graph = elaborate(spec())
    assert parse_graph(print_graph(graph)) == graph
    (tmp_path / "locked.toml").write_text(lock_text(vlmgraph.read_spec(spec()), graph), encoding="utf-8")
    assert elaborate(tmp_path / "locked.toml").components["llm"] == graph.components["llm"]


def test_blocks_stand_in_it_and_its_parts_have_several_uses():
    pair = {"inputs": {"p": "tokens[B, N, 8]"}, "components": {"l": {"type": "connector.linear", "out": 8}}, "edges": ["p -> l -> out"]}
    block = {
        "inputs": {"x": "tokens[B, N, 8]"},
        "components": {"core": {"type": "blocks.pair"}, "top": {"type": "connector.linear"}},
        "nodes": {"again": {"uses": "top"}},
        "edges": ["x -> core -> top -> again -> out"],
    }
    source = {**spec(block), "graph": {"edges": ["x -> llm -> y"]}, "inputs": {"x": BASE["inputs"]["x"]}}
    source["blocks"]["pair"] = pair
    block = vlmgraph.compile(source).llm.inserts["gated"]["3"]
    assert sorted(block.state_dict()) == ["core.l.proj.bias", "core.l.proj.weight", "top.proj.bias", "top.proj.weight"]
    x = torch.randn(2, 3, 8)
    assert torch.equal(block(x), block.top(block.top(block.core.l(x))))


def test_its_cost_is_counted():
    """Per layer with the block: two linear layers and the transformer over 16 tokens, one linear layer over 4 media."""
    layer = elaborate(spec()).components["llm"].groups()[0][1]
    sizes = {"N": Dim.of(16), "K": Dim.of(4)}
    mix, enter, pool = 2 * 2 * 16 * 8 * 8, 2 * 4 * 6 * 8, layer.graph.components["pool"]
    inside = pool.flops({"B": Dim.of(1), "N": Dim.of(16), "M_media": Dim.of(4)}).constant
    assert layer.flops(sizes).constant == mix + enter + inside and layer.flops({"N": Dim.of(16)}) == Dim()


@pytest.mark.parametrize(
    ("change", "code", "said"),
    [
        ({"inputs": {**GATED["inputs"], "x": "tokens[B, N, 7]"}}, "VG0205", "takes x: tokens[B, N, 7], but the stack is 8 wide"),
        ({"inputs": {**GATED["inputs"], "media": "tokens[B, M, 5]"}}, "VG0205", "takes media: tokens[B, M, 5], but the media are 6 wide"),
        ({"edges": ["x -> norm -> mix", "[x, mix] -> som"]}, "VG0205", "there is no component, node or output 'som'"),
        ({"components": {**GATED["components"], "mix": {"type": "connector.linear", "out": 5}}}, "VG0205", "does not fit here"),
        ({"outputs": ["mix", "sum"]}, "VG0205", "has 2 outputs, but one of them replaces the stream"),
        ({"inputs": {}}, "VG0205", "has no inputs"),
        ({"inputs": {**GATED["inputs"], "fourth": "tokens[B, K, 8]"}}, "VG0205", "fourth: tokens[B, K, 8], but a block in a slot is given"),
        ({"edges": [*GATED["edges"][:-1], "pool[0:] -> sum"]}, "VG0205", "has the step slice"),
        ({"fields": {}}, "VG0204", "has no field 'depth'"),
    ],
)  # fmt: skip
def test_a_block_that_does_not_fit_is_a_finding(change, code, said):
    found = messages(spec({**GATED, **change}))
    assert [c for c, _ in found if c == code] and any(said in text for _, text in found), found


@pytest.mark.parametrize(
    ("fields", "code", "said"),
    [
        ({"mlp": "blocks.gat"}, "VG0214", "there is no [blocks.gat]"),
        ({"attention": "blocks.gate"}, "VG0205", "a block fills the slots block and mlp, not 'attention'"),
        ({"norm": {"type": "blocks.gate"}}, "VG0205", "a block fills the slots block and mlp, not 'norm'"),
    ],
)
def test_slots_that_take_no_block_say_so(fields, code, said):
    assert (code, said) in [(c, t) for c, t in messages(spec(**fields))]
