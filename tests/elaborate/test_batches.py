"""Objectives over several named batches, and losses among the outputs of programs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

import vlmgraph
from vlmgraph.api import elaborate
from vlmgraph.diagnostics import DiagnosticError
from vlmgraph.ir.text import parse_graph, print_graph
from vlmgraph.train.stage import begin

DPO: dict[str, Any] = {"type": "loss.dpo", "beta": 0.5, "edges": ["logits -> dpo.policy", "ref.logits -> dpo.reference"]}
INPUTS = {"input_ids": "ids[B, T]", "attention_mask": "mask[B, T]?", "labels": "ids[B, T]?", "image": "tokens[B, 2, 8]?"}


def spec(dpo=DPO, **tables):
    return {
        "inputs": INPUTS,
        "outputs": {"logits": "logits[B, T, 20]"},
        "tokens": {"<image>": 19},
        "components": {
            "embed": {"type": "text.embedding", "of": "llm"},
            "proj": {"type": "connector.linear"},
            "splice": {"type": "op.splice", "token": "<image>"},
            "llm": {"type": "decoder.transformer", "layers": 1, "width": 8, "heads": 2, "mlp": 12, "vocab": 20},
            "head": {"type": "head.lm", "of": "llm"},
            "ref": {"copy": ["llm", "head"]},
        },
        "graph": {
            "edges": ["input_ids -> [embed, splice.ids]", "embed -> splice.text", "image -> proj -> splice.vision",
                      "attention_mask -> splice.mask", "splice -> llm -> head -> logits"]
        },
        "programs": {"forward": {"outputs": ["logits"]}},
        "objectives": {"dpo": dpo},
        "stages": {"prefer": {"train": ["llm", "head"]}},
        **tables,
    }  # fmt: skip


def messages(source):
    return [(d.code, d.message) for d in vlmgraph.check(source)]


@pytest.fixture(scope="module")
def model():
    return vlmgraph.compile(spec({**DPO, "shared": ["image"]}))


@pytest.fixture(scope="module")
def batch():
    torch.manual_seed(0)
    made = {}
    for name, length in (("chosen", 6), ("rejected", 5)):
        ids = torch.randint(0, 19, (2, length))
        ids[:, :2] = 19
        labels = ids.masked_fill(ids == 19, -100)
        mask = torch.ones_like(ids)
        labels[1, -1], mask[1, -1] = -100, 0
        made |= {f"{name}_input_ids": ids, f"{name}_labels": labels, f"{name}_attention_mask": mask}
    return made | {"image": torch.randn(2, 2, 8)}


def test_every_batch_has_inputs_of_its_own(model):
    inputs = {name: str(type_) for name, type_ in model.programs["objective.dpo"].graph().inputs.items()}
    assert inputs == {
        "image": "tokens[B, 2, 8]?",
        **{f"{b}_input_ids": f"ids[B, T_{b}]" for b in ("chosen", "rejected")},
        **{f"{b}_attention_mask": f"mask[B, T_{b}]?" for b in ("chosen", "rejected")},
        **{f"{b}_labels": f"ids[B, T_{b}]?" for b in ("chosen", "rejected")},
    }
    assert set(model.programs["forward"].graph().inputs) == {"input_ids", "attention_mask", "image"}


def test_the_loss_is_that_of_the_paper(model, batch):
    def likelihood(name, prefix):
        words = {k.removeprefix(f"{name}_"): v for k, v in batch.items() if k.startswith(name)}
        labels = words.pop("labels")
        state = model.splice(
            text=model.embed(words["input_ids"]), ids=words["input_ids"], mask=words["attention_mask"], vision=model.proj(batch["image"])
        )
        part = model.get_submodule(prefix) if prefix else model
        logits = part.head(part.llm(state["out"], mask=state["mask"]))
        losses = F.cross_entropy(logits[:, :-1].transpose(1, 2), labels[:, 1:], ignore_index=-100, reduction="none")
        return -losses.sum(1)

    with torch.no_grad():
        for parameter in model.ref.parameters():
            parameter.add_(0.1)
        margin = sum(
            sign * (likelihood(name, "") - likelihood(name, "ref")) for sign, name in ((1, "chosen"), (-1, "rejected"))
        )  # fmt: skip
        wanted = -F.logsigmoid(0.5 * margin).mean()
    loss = model.programs["objective.dpo"](**batch)["loss"]
    torch.testing.assert_close(loss.detach(), wanted, rtol=1e-5, atol=1e-6)  # the same numbers in another order of sums
    swapped = {
        k.replace("chosen", "x").replace("rejected", "chosen").replace("x", "rejected", 1) if k[0] in "cr" else k: v
        for k, v in batch.items()
    }
    assert not torch.equal(loss, model.programs["objective.dpo"](**swapped)["loss"])


def test_a_policy_that_is_the_reference_is_at_log_two_and_only_the_policy_trains(model, batch):
    begin(model, "prefer")
    loss = model.programs["objective.dpo"](**batch)["loss"]
    torch.testing.assert_close(loss, torch.tensor(2.0).log(), rtol=1e-6, atol=0)
    loss.backward()
    assert {n.partition(".")[0] for n, p in model.named_parameters() if p.grad is not None} == {"llm", "head"}


def test_batches_go_row_by_row(model, batch):
    with pytest.raises(DiagnosticError, match="disagree about B"):
        model.programs["objective.dpo"](**{**batch, "rejected_input_ids": batch["rejected_input_ids"][:1]})
    with pytest.raises(DiagnosticError, match="needs"):
        model.programs["objective.dpo"](input_ids=batch["chosen_input_ids"], image=batch["image"])


def test_values_may_be_named_by_batch():
    """Written out, in an order of its own and under other names."""
    edges = [
        "[good.logits, bad.logits] -> dpo.policy",
        "[good.ref.logits, bad.ref.logits] -> dpo.reference",
        "[good.labels, bad.labels] -> dpo.labels",
    ]
    by_hand = elaborate(spec({**DPO, "batches": ["good", "bad"], "edges": edges}))
    assert by_hand.objectives["dpo"].nodes[0].inputs["labels"] == ("good_labels", "bad_labels")
    short = elaborate(spec({**DPO, "batches": ["good", "bad"]}))
    assert short.objectives["dpo"] == by_hand.objectives["dpo"]
    assert str(short.objectives["dpo"].inputs["good_image"]) == "tokens[B, 2, 8]?"  # not shared


def test_the_text_form_has_the_inputs_of_batches():
    graph = elaborate(spec())
    assert parse_graph(print_graph(graph)) == graph


@pytest.mark.parametrize(
    ("change", "code", "said"),
    [
        ({"batches": ["one"]}, "VG0408", "policy takes two values, of the chosen batch and of the rejected one, not 1"),
        ({"batches": ["chosen", "head"]}, "VG0103", "batch 'head' already names something of the graph"),
        ({"shared": ["imag"]}, "VG0302", "shares the input 'imag', which is not declared"),
        ({"edges": [*DPO["edges"][:1], "chosen -> dpo.reference"]}, "VG0303", "chosen is a batch: say which value of it"),
        ({"edges": [*DPO["edges"][:1], "[chosen.ref.logits, rejected.ref.logit] -> dpo.reference"]}, "VG0302", "'logit'"),
        ({"edges": [*DPO["edges"][:1], "[rejected.ref.logits, chosen.ref.logits] -> dpo.reference"]}, "VG0408", "chosen batch policy is"),
        ({"edges": DPO["edges"][:1]}, "VG0506", "reference is fed by nothing"),
    ],
)  # fmt: skip
def test_batches_that_cannot_be_are_findings(change, code, said):
    found = messages(spec({**DPO, **change}))
    assert any(c == code and said in text for c, text in found), found


# ---- losses among the outputs of programs

LM = {"type": "loss.next_token"}
SCORED = {"forward": {"outputs": ["logits"]}, "score": {"from": "forward", "outputs": ["lm.per_sample", "lm"]}}


def scored(objective=LM, **programs):
    return spec(objectives={"lm": objective}, programs={**SCORED, **programs})


def test_a_program_gives_a_loss_of_every_sample(batch):
    model = vlmgraph.compile(scored())
    given = {k.removeprefix("chosen_"): v for k, v in batch.items() if not k.startswith("rejected")}
    out = model.programs["score"](**given)
    logits = model.programs["forward"](**given)["logits"]
    each = F.cross_entropy(logits[:, :-1].transpose(1, 2), given["labels"][:, 1:], ignore_index=-100, reduction="none")
    count = (given["labels"][:, 1:] != -100).sum(1)
    torch.testing.assert_close(out["lm.per_sample"], each.sum(1) / count, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(out["lm"], each.sum() / count.sum(), rtol=1e-5, atol=1e-6)
    assert torch.equal(out["lm"], model.programs["objective.lm"](**given)["loss"])
    with pytest.raises(DiagnosticError, match="labels"):
        model.programs["score"](**{k: v for k, v in given.items() if k != "labels"})


def test_the_ops_of_an_objective_come_along():
    own = {**LM, "edges": ["logits -> op.normalize -> lm.logits"]}
    graph = elaborate(scored(own))
    assert graph.node("lm").inputs == {"logits": "lm.normalize_1", "labels": "labels"}
    assert graph.node("lm.normalize_1").inputs == {"x": "head"} and parse_graph(print_graph(graph)) == graph


@pytest.mark.parametrize(
    ("objective", "output", "said"),
    [
        (LM, "lm.per_token", "write lm or lm.per_sample"),
        ({"type": "loss.cross_entropy"}, "lm.per_sample", "loss.cross_entropy is over the whole batch"),
        ({**LM, "edges": ["labels -> embed.ids"]}, "lm", "feeds the graph otherwise"),
        ({**DPO, "edges": [e.replace("dpo", "lm") for e in DPO["edges"]]}, "lm", "compares batches"),
    ],
)
def test_losses_that_a_program_cannot_give(objective, output, said):
    found = messages(scored(objective, score={"outputs": [output]}))
    assert [c for c, _ in found] == ["VG0501"] and said in found[0][1], found
