"""What travels with tokens: mask, modality ids, spans and ids reach the ports that ask for them without an edge."""

from __future__ import annotations

import pytest

import vlmgraph
from vlmgraph.api import elaborate

DECODER = {"type": "decoder.transformer", "layers": 1, "width": 8, "heads": 2, "mlp": 16, "vocab": 32}
EXPERTS = {
    "attention": {"type": "attention.modality_expert", "experts": ["text", "vision"]},
    "mlp": {"type": "mlp.modality_expert", "experts": ["text", "vision"], "hidden": 16},
}
BASE = {
    "inputs": {"ids": "ids[B, T]", "mask": "mask[B, T]?", "image": "tokens[N, 4, 8]?", "other": "mask[B, T]?"},
    "outputs": {"y": "tokens[B, T, 8]"},
    "tokens": {"<image>": 3},
    "components": {
        "embed": {"type": "text.embedding", "of": "llm"},
        "splice": {"type": "op.splice", "token": "<image>"},
        "llm": DECODER,
    },
}
START = ["ids -> [embed, splice.ids]", "embed -> splice.text", "image -> splice.vision", "mask -> splice.mask"]


def wired(edges, components=None, **tables):
    spec = {**BASE, **tables, "components": {**BASE["components"], **(components or {})}, "graph": {"edges": [*START, *edges]}}
    graph = elaborate(spec)
    return graph, {node.id: dict(node.inputs) for node in graph.nodes}


@pytest.mark.parametrize("through", ["", "op.normalize -> ", "proj -> ", "norm -> ", "proj -> norm -> op.normalize -> "])
def test_a_mask_goes_through_what_keeps_the_tokens(through):
    parts = {"proj": {"type": "connector.mlp", "out": 8}, "norm": {"type": "norm.layer"}}
    _, nodes = wired([f"splice -> {through}llm -> y"], {name: part for name, part in parts.items() if f" {name} ->" in f" {through}"})
    assert nodes["llm"]["mask"] == "splice.mask" and "modality" not in nodes["llm"]


def test_modality_ids_reach_experts():
    _, nodes = wired(["splice -> norm -> llm -> y"], {"llm": {**DECODER, **EXPERTS}, "norm": {"type": "norm.layer"}})
    assert nodes["llm"] == {"x": "norm", "mask": "splice.mask", "modality": "splice.modality"}


def test_an_explicit_edge_wins():
    _, nodes = wired(["splice -> llm -> y", "other -> llm.mask"])
    assert nodes["llm"]["mask"] == "other"


def test_a_token_slice_takes_its_companions_along():
    graph, nodes = wired(["splice[1:] -> llm -> y"], outputs={"y": "tokens[B, M, 8]"})
    assert nodes["llm"]["mask"] == "splice.mask[1:]" and nodes["splice.mask[1:]"] == {"x": "splice.mask"}
    types = graph.types()
    assert str(types["splice.mask[1:]"]) == "mask[B, T-1]" and str(types["splice[1:]"]) == "tokens[B, T-1, 8]"


def test_the_companions_of_a_stack_go_on_behind_it():
    _, nodes = wired(["splice -> llm -> second -> y"], {"second": {**DECODER}})
    assert nodes["second"]["mask"] == "splice.mask"


def test_one_token_alone_has_no_mask():
    _, nodes = wired(["splice -> llm[0] -> y"], outputs={"y": "embedding[B, 8]"})
    assert set(nodes["llm[0]"]) == {"x"}


def test_taps_carry_what_their_stack_carries():
    _, nodes = wired(["splice -> llm.hidden[0] -> second -> y"], {"second": {**DECODER}})
    assert nodes["second"] == {"x": "llm.hidden.0", "mask": "splice.mask"}


def test_media_bring_their_own_mask_to_the_port_of_that_name():
    media = {"inputs": {**BASE["inputs"], "words": "tokens[B, S, 8]", "words_mask": "mask[B, S]?"}}
    second = {**DECODER, "cross": "attention.cross"}
    edges = ["words -> reader", "words_mask -> reader.mask", "reader -> second.media", "splice -> second -> y"]
    _, nodes = wired(
        edges, {"second": second, "reader": {"type": "text.transformer", "layers": 1, "width": 8, "heads": 2, "mlp": 16}}, **media
    )
    assert nodes["second"] == {"x": "splice", "media": "reader", "mask": "splice.mask", "media_mask": "words_mask"}


def test_the_same_part_twice_gets_the_mask_of_each_use():
    nodes_table = {"again": {"uses": "llm"}}
    inputs = {**BASE["inputs"], "plain": "tokens[B, T, 8]"}
    _, nodes = wired(["splice -> llm -> y", "plain -> again"], nodes=nodes_table, inputs=inputs)
    assert nodes["llm"]["mask"] == "splice.mask" and "mask" not in nodes["again"]


def test_a_padded_text_does_not_see_its_padding():
    """The wire is not only drawn: what stands behind the mask does not move the output."""
    import torch

    spec = {**BASE, "graph": {"edges": [*START, "splice -> norm -> llm -> y"]}, "programs": {"forward": {"outputs": ["y"]}}}
    spec["components"] = {**BASE["components"], "norm": {"type": "norm.layer"}, "llm": {**DECODER, "mask": "full"}}
    model = vlmgraph.compile(spec)
    ids, mask = torch.tensor([[5, 6, 7, 8]]), torch.tensor([[True, True, True, False]])
    changed = ids.clone()
    changed[0, 3] = 9
    image = torch.randn(1, 4, 8)
    ids[0, 0], changed[0, 0] = 3, 3
    ids, changed = (torch.cat([torch.full((1, 3), 3), x], 1) for x in (ids, changed))
    mask = torch.cat([torch.ones(1, 3, dtype=torch.bool), mask], 1)
    out = [model(ids=x, mask=mask, image=image)["y"][:, :6] for x in (ids, changed)]
    assert torch.equal(*out)
    free = [model(ids=x, mask=torch.ones_like(mask), image=image)["y"][:, :6] for x in (ids, changed)]
    assert not torch.equal(*free)
