"""Decoding: a cache changes the speed, never a token."""

from __future__ import annotations

import functools

import pytest
import torch

import vlmgraph
from tests.lower.prompts import PROMPTS
from vlmgraph.diagnostics import DiagnosticError
from vlmgraph.diagnostics import codes as C

NEW = 6


@functools.cache
def model(spec: str):
    """Tiny, in float64 and with larger weights than at the start of training: then every token depends on the prompt."""
    made = vlmgraph.compile(vlmgraph.read_spec(spec, size="tiny"), dtype="float64", seed=1)
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if parameter.dim() > 1:
                parameter.mul_(3)
            elif "gate" in name:
                parameter.fill_(0.7)
    return made


@functools.cache
def prompt(spec: str):
    return PROMPTS[spec](model(spec))


def new(spec: str, **options):
    given = prompt(spec)
    return model(spec).generate(**given, max_new_tokens=NEW, **options)[:, given["input_ids"].shape[1] :]


@pytest.mark.parametrize("spec", PROMPTS)
def test_cached_is_uncached(spec):
    cached, plain = new(spec), new(spec, use_cache=False)
    assert cached.shape == (2, NEW) and torch.equal(cached, plain)
    assert cached.unique().numel() > 2  # a model that says one thing would prove nothing


@pytest.mark.parametrize("spec", PROMPTS)
def test_steps_compute_what_the_whole_sequence_computes(spec):
    """Logits of each step against those of one uncached run over prompt and answer."""
    made, given = model(spec), prompt(spec)
    steps: list[torch.Tensor] = []
    run = type(made.programs["generate"]).run

    def watched(self, *args, **options):
        out = run(self, *args, **options)
        steps.append(out["logits"][:, -1])
        return out

    type(made.programs["generate"]).run = watched
    try:
        whole = made.generate(**given, max_new_tokens=NEW)
    finally:
        type(made.programs["generate"]).run = run
    length = given["input_ids"].shape[1]
    more = dict(given, input_ids=whole, attention_mask=torch.cat([given["attention_mask"], torch.ones(2, NEW, dtype=torch.long)], 1))
    if "image_attention_mask" in given:
        last = given["image_attention_mask"][:, -1:]
        more["image_attention_mask"] = torch.cat([given["image_attention_mask"], last.expand(-1, NEW, -1)], 1)
    with torch.no_grad():
        wanted = made(**more)["logits"][:, -NEW - 1 : -1]
    assert len(steps) == NEW and whole.shape[1] == length + NEW
    torch.testing.assert_close(torch.stack(steps, 1), wanted, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("spec", PROMPTS)
def test_padding_says_nothing(spec):
    given = dict(prompt(spec))
    ids = given["input_ids"].clone()
    ids[1, given["attention_mask"][1] == 0] = 61
    assert not torch.equal(ids, given["input_ids"])
    length = ids.shape[1]
    assert torch.equal(model(spec).generate(**{**given, "input_ids": ids}, max_new_tokens=NEW)[:, length:], new(spec))


@pytest.mark.parametrize("spec", PROMPTS)
def test_the_image_is_seen(spec):
    given = dict(prompt(spec))
    given["pixel_values"] = -2 * given["pixel_values"].flip(0)
    with torch.no_grad():
        before, after = (model(spec)(**g)["logits"][:, -1] for g in (prompt(spec), given))
    assert ((before - after).abs().amax(-1) > 1e-6).all()


def test_a_row_ends_at_eos_and_is_padded_while_others_go_on():
    plain = new("llava-1.5")
    eos = plain[0, 1].item()
    assert eos not in plain[1, :3].tolist()
    out = new("llava-1.5", eos_token_id=eos, pad_token_id=63)
    assert out[0].tolist() == [*plain[0, : plain[0].tolist().index(eos) + 1].tolist()] + [63] * (
        out.shape[1] - plain[0].tolist().index(eos) - 1
    )
    assert out[1, :3].tolist() == plain[1, :3].tolist()
    both = new("llava-1.5", eos_token_id=[plain[0, 0].item(), plain[1, 0].item()])
    assert both.shape[1] == 1  # nothing is computed once every row has ended


def test_sampling_follows_its_generator_and_its_filters():
    def draw(seed, **options):
        return new("llava-1.5", do_sample=True, generator=torch.Generator().manual_seed(seed), **options)

    assert torch.equal(draw(5), draw(5)) and not torch.equal(draw(5), draw(6))
    greedy = new("llava-1.5")
    for narrow in ({"top_k": 1}, {"top_p": 1e-9}, {"temperature": 1e-5}):
        assert torch.equal(draw(5, **narrow), greedy)


def test_a_streamer_gets_every_token_as_it_comes():
    got: list[torch.Tensor] = []
    out = new("llava-1.5", streamer=got.append)
    assert torch.equal(torch.stack(got, 1), out)


def test_what_cannot_generate_says_so():
    clip = vlmgraph.compile(vlmgraph.read_spec("clip", size="tiny"))
    with pytest.raises(DiagnosticError) as caught:
        clip.generate(torch.ones(1, 4, dtype=torch.long))
    assert caught.value.diagnostics[0].code == C.NO_GENERATE


def test_padding_on_the_right_is_refused():
    given = dict(prompt("llava-1.5"))
    given["attention_mask"] = given["attention_mask"].flip(1)
    with pytest.raises(DiagnosticError) as caught:
        model("llava-1.5").generate(**given)
    (found,) = caught.value.diagnostics
    assert found.code == C.BAD_INPUT_VALUE and "row 1" in found.message and "left" in (found.fix or "")


def test_no_token_is_written_behind_the_last_position():
    """OPT's positions are a table: an answer longer than it is a finding, not an index error."""
    opt = vlmgraph.compile(vlmgraph.read_spec("blip-2", size="tiny", overrides={"llm.max_positions": 12}))
    ids = torch.randint(10, 60, (1, 8))
    assert opt.generate(ids, max_new_tokens=5).shape == (1, 13)  # the last token is written, never read
    with pytest.raises(DiagnosticError) as caught:
        opt.generate(ids, max_new_tokens=6)
    assert caught.value.diagnostics[0].code == C.BAD_INPUT_VALUE and "0 to 11" in caught.value.diagnostics[0].message
