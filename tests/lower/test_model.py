"""Calling a compiled model: what is checked before anything runs, and what runs when inputs are left out."""

from __future__ import annotations

import functools

import pytest
import torch
from torch import fx

import vlmgraph
from tests.lower.prompts import PROMPTS, ids, noise
from vlmgraph.diagnostics import DiagnosticError
from vlmgraph.diagnostics import codes as C


@functools.cache
def model(spec: str, mode: str = "eager"):
    return vlmgraph.compile(vlmgraph.read_spec(spec, size="tiny"), mode=mode)


def finding(call):
    with pytest.raises(DiagnosticError) as caught:
        call()
    (found,) = caught.value.diagnostics
    return found


PIXELS, IDS = noise(1, 3, 42, 42), torch.ones(1, 4, dtype=torch.long)


@pytest.mark.parametrize(
    ("inputs", "code", "words"),
    [
        ({"input_id": IDS}, C.UNKNOWN_INPUT, ("input_id", "did you mean 'input_ids'?")),
        ({"pixel_values": PIXELS}, C.MISSING_INPUT, ("input_ids", "ids[B, T]")),
        ({}, C.MISSING_INPUT, ("input_ids",)),
        ({"input_ids": IDS[0]}, C.BAD_INPUT_SHAPE, ("input_ids", "1 dims (4,)", "ids[B, T]")),
        ({"input_ids": IDS, "pixel_values": noise(1, 3, 42, 41)}, C.BAD_INPUT_SHAPE, ("pixel_values", "41", "42")),
        ({"input_ids": IDS, "attention_mask": IDS[:, :3]}, C.BAD_INPUT_SHAPE, ("attention_mask", "input_ids", "T", "3", "4")),
        ({"input_ids": IDS.float()}, C.BAD_INPUT_DTYPE, ("input_ids", "torch.float32", "integers")),
        ({"input_ids": IDS, "pixel_values": PIXELS.byte()}, C.BAD_INPUT_DTYPE, ("torch.uint8", "normalise")),
        ({"input_ids": IDS * 10_000}, C.BAD_INPUT_VALUE, ("10000", "0 to")),
        ({"input_ids": -IDS}, C.BAD_INPUT_VALUE, ("-1",)),
        ({"input_ids": IDS, "pixel_values": PIXELS}, C.BAD_INPUT_VALUE, ("0", "9")),  # nine features without a placeholder
        ({"input_ids": IDS * 300}, C.BAD_INPUT_VALUE, ("4 placeholders", "'vision'", "give the image")),
    ],
    ids=lambda v: v if isinstance(v, str) else None,
)
def test_a_wrong_call_is_a_diagnostic(inputs, code, words):
    found = finding(lambda: model("llava-1.5")(**inputs))
    assert found.code == code
    text = " ".join([found.message, *found.notes, found.fix or ""])
    assert all(w in text for w in words), text


def test_a_placeholder_id_in_the_padding_stands_for_nothing():
    mask = torch.tensor([[0, 0, 1, 1]])
    assert "logits" in model("llava-1.5")(input_ids=torch.tensor([[300, 300, 1, 1]]), attention_mask=mask)


def test_none_is_not_given():
    given = {"input_ids": ids(1)}
    with torch.no_grad():
        assert torch.equal(model("llava-1.5")(**given)["logits"], model("llava-1.5")(**given, pixel_values=None)["logits"])


@pytest.mark.parametrize("spec", PROMPTS)
def test_text_alone_runs_no_vision(spec):
    made = model(spec)
    with torch.no_grad():
        assert made(input_ids=ids(1))["logits"].isfinite().all()
    program, module = made.programs["forward"].lowered(frozenset({"input_ids"}))
    called = {n.target for n in module.graph.nodes if n.op == "call_module"}
    assert called and not any(str(t).startswith(("vision", "visual", "resampler", "qformer")) for t in called), called
    assert set(program.inputs) == {"input_ids"}


@pytest.mark.parametrize("spec", ["clip", *PROMPTS])
def test_every_program_is_a_torch_fx_graph_of_its_modules(spec):
    made = model(spec)
    assert set(made.graph.programs) <= set(made.programs)
    for name in made.programs:
        form = made.programs[name].fx
        assert isinstance(form, fx.GraphModule)
        inputs = [n.target for n in form.graph.nodes if n.op == "placeholder"]
        assert set(inputs) >= set(made.programs[name].graph().inputs)
        own = {id(p) for p in made.parameters()}
        assert all(id(p) in own for p in form.parameters())


def ended(clip):
    return torch.cat([ids(1), torch.full((2, 1), clip.graph.tokens["<|endoftext|>"])], 1)


def test_programs_share_their_weights():
    made = vlmgraph.compile(vlmgraph.read_spec("clip", size="tiny"))
    with torch.no_grad():
        before = made.programs["encode_image"](pixel_values=PIXELS)["image_embeds"]
        whole = made(pixel_values=PIXELS, input_ids=ended(made))["image_embeds"]
        assert torch.equal(before, whole)
        made.image_proj.proj.weight.neg_()
        assert torch.equal(made.programs["encode_image"](pixel_values=PIXELS)["image_embeds"], -before)


def test_a_call_lowers_once_for_each_set_of_inputs():
    made = vlmgraph.compile(vlmgraph.read_spec("llava-1.5", size="tiny"))
    for _ in range(3):
        made(input_ids=ids(1))
        made(input_ids=ids(1), attention_mask=torch.ones_like(ids(1)))
    assert len(made.programs["forward"]._lowered) == 2


def test_modes():
    with pytest.raises(ValueError, match="eager"):
        vlmgraph.compile(vlmgraph.read_spec("clip", size="tiny"), mode="fast")
