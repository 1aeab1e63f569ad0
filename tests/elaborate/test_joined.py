"""What travels with tokens goes through lists: joined where tokens stand one behind the other, kept where values share their tokens."""

from __future__ import annotations

import pytest
import torch

import vlmgraph
from vlmgraph.api import elaborate
from vlmgraph.ir.text import parse_graph, print_graph

STACK = {"layers": 1, "width": 8, "heads": 2, "mlp": 16}
LLM = {"type": "decoder.transformer", **STACK, "vocab": 32, "mask": "full"}
BASE = {
    "inputs": {"input_ids": "ids[B, T]", "attention_mask": "mask[B, T]?", "image": "tokens[B, 4, 8]?"},
    "outputs": {"logits": "logits[B, M, 32]"},
    "components": {
        "embed": {"type": "text.embedding", "of": "llm"},
        "words": {"type": "text.transformer", **STACK},
        "cat": {"type": "op.concat"},
        "llm": LLM,
        "head": {"type": "head.lm", "of": "llm"},
    },
    "programs": {"forward": {"outputs": ["logits"]}, "generate": {"outputs": ["logits"], "cache": ["llm"]}},
}
START = ["input_ids -> embed -> words", "attention_mask -> words.mask"]
JOINED = [*START, "[image, words] -> cat -> llm -> head -> logits"]


def spec(edges=JOINED, components=None, **tables):
    return {**BASE, **tables, "components": {**BASE["components"], **(components or {})}, "graph": {"edges": edges}}


def nodes(source):
    return {node.id: dict(node.inputs) for node in elaborate(source).nodes}


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return vlmgraph.compile(spec())


@pytest.fixture(scope="module")
def given():
    """Two prompts, the first padded by two places on the left, and what stands at the padding changed."""
    torch.manual_seed(1)
    ids = torch.randint(0, 32, (2, 6))
    changed = ids.clone()
    changed[0, :2] = (changed[0, :2] + 7) % 32
    mask = torch.ones(2, 6, dtype=torch.long)
    mask[0, :2] = 0
    return ids, changed, mask, torch.randn(2, 4, 8)


def test_padding_of_one_part_is_not_attended(model, given):
    ids, changed, mask, image = given
    real = torch.cat([torch.ones(2, 4, dtype=torch.bool), mask.bool()], 1)
    out, other = (model(input_ids=x, attention_mask=mask, image=image)["logits"] for x in (ids, changed))
    assert out.shape == (2, 10, 32) and torch.equal(out[real], other[real])
    free, other = (model(input_ids=x, image=image)["logits"] for x in (ids, changed))
    assert not torch.equal(free[real], other[real])
    seen = model(input_ids=ids, attention_mask=mask, image=image + 1)["logits"]
    assert not torch.equal(out[:, -1], seen[:, -1])  # a part without a mask is seen as a whole


def test_programs_that_leave_a_part_out(model, given):
    ids, changed, mask, _ = given
    out, other = (model(input_ids=x, attention_mask=mask)["logits"] for x in (ids, changed))
    assert out.shape == (2, 6, 32) and torch.equal(out[mask.bool()], other[mask.bool()])

    def steps(*inputs):
        program = model.programs["forward"].graph(frozenset(inputs))
        return {node.id: dict(node.inputs) for node in program.nodes}

    assert steps("input_ids", "attention_mask")["cat_mask"] == {"x1": "words", "given1": "attention_mask"}
    assert "cat_mask" not in steps("input_ids", "image")  # where nothing is masked no mask is made


def test_a_cache_keeps_the_mask_of_joined_tokens(given):
    """Each step brings one new token and the text's whole mask; the past, image included, is in the cache."""
    ids, changed, mask, image = given
    parts = {"words": {"type": "norm.layer"}, "llm": {**LLM, "mask": "causal"}, "splice": {"type": "op.splice", "token": 31}}
    edges = ["input_ids -> [embed, splice.ids]", "embed -> splice.text", "attention_mask -> splice.mask", "splice -> words",
             "extra -> splice.vision", "[image, words] -> cat -> llm -> head -> logits"]  # fmt: skip
    torch.manual_seed(0)
    made = vlmgraph.compile(spec(edges, parts, inputs={**BASE["inputs"], "extra": "tokens[B, 1, 8]?"}))
    options = {"attention_mask": mask, "image": image, "max_new_tokens": 5}
    ids, changed = ids % 31, changed % 31
    new = made.generate(ids, **options)
    assert torch.equal(new, made.generate(ids, use_cache=False, **options))
    assert torch.equal(new[:, 6:], made.generate(changed, **options)[:, 6:])


def test_modality_ids_are_joined_too():
    experts = {"type": "attention.modality_expert", "experts": ["text", "vision"]}
    parts = {"splice": {"type": "op.splice", "token": 3}, "llm": {**LLM, "attention": experts}, "words": {"type": "norm.layer"}}
    edges = ["input_ids -> [embed, splice.ids]", "embed -> splice.text -> words", "image -> splice.vision", "[embed, words] -> cat -> llm",
             "llm -> head -> logits"]  # fmt: skip
    made = nodes(spec(edges, parts))
    assert made["llm"] == {"x": "cat", "mask": "cat_mask", "modality": "cat_modality"} and "cat_spans" not in made
    assert made["cat_modality"] == {"x0": "embed", "x1": "words", "given1": "splice.modality"}
    model = vlmgraph.compile(spec(edges, parts))
    ids = torch.tensor([[3, 3, 3, 3, 9]])
    program = model.programs["forward"]
    _, module = program.lowered(frozenset({"input_ids", "image"}))
    caught = []
    handle = module.get_submodule("cat_modality").register_forward_hook(lambda _m, _a, out: caught.append(out))
    program(input_ids=ids, image=torch.randn(1, 4, 8))
    handle.remove()
    assert caught[0].tolist() == [[0] * 5 + [1, 1, 1, 1, 0]]


@pytest.mark.parametrize("parts", ["[words, embed] -> op.add", "[embed, words] -> op.add", "[embed, words] -> op.concat(axis='channels')"])
def test_values_that_share_their_tokens_keep_what_one_of_them_carries(parts):
    width = {"llm": {**LLM, "width": 16}, "embed": {"type": "text.embedding", "vocab": 32, "width": 8}} if "channels" in parts else {}
    assert nodes(spec([*START, f"{parts} -> llm -> head -> logits"], width))["llm"]["mask"] == "attention_mask"


def test_joined_tokens_are_sliced_with_their_mask():
    made = nodes(spec([*START, "[image, words] -> cat", "cat[4:] -> llm -> head -> logits"]))
    assert made["llm"]["mask"] == "cat_mask[4:]" and made["cat_mask[4:]"] == {"x": "cat_mask"}


def test_an_edge_by_hand_wins_and_nothing_is_made_in_vain():
    inputs = {**BASE["inputs"], "whole": "mask[B, T + 4]?"}
    made = nodes(spec([*JOINED, "whole -> llm.mask"], inputs=inputs))
    assert made["llm"]["mask"] == "whole" and "cat_mask" not in made
    plain = spec(["input_ids -> embed", "[image, embed] -> cat -> llm -> head -> logits"], {"words": LLM})
    assert "cat_mask" not in nodes(plain)


def test_names_of_the_spec_are_left_alone():
    parts = {"cat_mask": {"type": "norm.layer"}}
    made = nodes(spec([*START, "[image, words] -> cat -> cat_mask -> llm -> head -> logits"], parts))
    assert made["llm"] == {"x": "cat_mask", "mask": "cat_mask_1"} and made["cat_mask"] == {"x": "cat"}


def test_an_objective_that_joins_has_the_mask_in_its_own_slice(given):
    """The loss alone reads the joined tokens; what it pools is the real ones."""
    own = {"type": "loss.cross_entropy", "edges": ["[image, words] -> cat -> op.pool -> kind -> own.logits", "labels -> own.labels"]}
    source = spec([*START, "words -> llm -> head -> logits"], {"kind": {"type": "head.linear", "out": 3}}, objectives={"own": own})
    source["inputs"] = {**BASE["inputs"], "labels": "ids[B]?"}
    source["outputs"] = {"logits": "logits[B, T, 32]"}
    source["components"].pop("cat")
    own["edges"][0] = own["edges"][0].replace("-> cat ->", "-> op.concat ->")
    ids, changed, mask, image = given
    model = vlmgraph.compile(source)
    loss = model.programs["objective.own"]
    labels = torch.tensor([0, 2])
    one, two = (loss(input_ids=x, attention_mask=mask, image=image, labels=labels)["loss"] for x in (ids, changed))
    assert torch.equal(one, two)
    one, two = (loss(input_ids=x, image=image, labels=labels)["loss"] for x in (ids, changed))
    assert not torch.equal(one, two)


def test_the_text_form_has_the_joined_mask():
    graph = elaborate(spec())
    text = print_graph(graph)
    assert "cat_mask := call cat_mask(x0=%image, x1=%words, given1=%attention_mask) -> out: mask[B, T+4]" in text
    assert parse_graph(text) == graph
