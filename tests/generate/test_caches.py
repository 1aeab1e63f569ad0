"""Caches: what is allocated and computed once."""

from __future__ import annotations

import pytest
import torch

from tests.generate.programs import answers, placeholders, prompt, writer
from vlmgraph.lower.generate import new_caches
from vlmgraph.lower.generate.decoder import Decoder
from vlmgraph.lower.generate.grow import written_input
from vlmgraph.lower.generate.loop import started
from vlmgraph.nn.attention import CrossAttention
from vlmgraph.nn.cache import KVCache, LayerCache
from vlmgraph.nn.stack import Stack


def kv(rows: int, count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(seed)
    return torch.randn(rows, 2, count, 4, generator=random), torch.randn(rows, 2, count, 3, generator=random)


def test_a_static_cache_holds_the_same_in_one_place():
    growing, static = LayerCache(), LayerCache(room=3)
    places = set()
    for step, count in enumerate((5, 1, 1)):
        wanted, got = (cache.append(*kv(2, count, step)) for cache in (growing, static))
        assert all(torch.equal(a, b) for a, b in zip(wanted, got))
        places.add(static.k.data_ptr())
    assert len(places) == 1 and static.held[0].shape[2] == 8
    for rows in ([1, 0], [1, 1]):
        for cache in (growing, static):
            cache.reorder(torch.tensor(rows))
        assert torch.equal(growing.k, static.k) and torch.equal(growing.v, static.v) and static.k.data_ptr() in places
    growing.reorder(torch.tensor([0, 0, 1]))
    static.reorder(torch.tensor([0, 0, 1]))
    assert torch.equal(growing.append(*kv(3, 1, 9))[1], static.append(*kv(3, 1, 9))[1])
    with pytest.raises(ValueError, match="8 places"):
        static.append(*kv(3, 1, 9))


def test_a_static_cache_has_room_for_prompt_and_answer():
    model, _ = writer("llava-1.5")
    given, made = prompt("llava-1.5"), []
    new_cache = KVCache.__init__

    def kept(self, room=None):
        new_cache(self, room)
        made.append(self)

    KVCache.__init__ = kept
    try:
        model.generate(**given, max_new_tokens=6, cache_implementation="static")
    finally:
        KVCache.__init__ = new_cache
    length = given["input_ids"].shape[1]
    assert len(made) == 1 and {layer.held[0].shape[2] for layer in made[0].layers} == {length + 5}  # the last token is never read


@pytest.mark.parametrize("name", ["florence-2", "flamingo", "llama-3.2-vision", "blip-2:flan-t5", "blip:captioner", "blip:vqa"])
def test_keys_of_media_and_what_an_encoder_makes_are_made_once(name, monkeypatch):
    model, _ = writer(name)
    cross = [m for m in model.modules() if isinstance(m, CrossAttention)]
    projected, encoded = [], []
    plain = CrossAttention.project
    monkeypatch.setattr(CrossAttention, "project", lambda self, *args: projected.append(id(self)) or plain(self, *args))
    stack = Stack.forward
    monkeypatch.setattr(Stack, "forward", lambda self, *a, **k: encoded.append(id(self)) or stack(self, *a, **k))
    answers(name, prompt(name), new=4)
    reads = {id(m) for m in cross}
    assert projected and len(projected) == len(set(projected)) and set(projected) <= reads
    counts = sorted(encoded.count(i) for i in set(encoded))
    assert counts[-1] == 4 and set(counts[:-1]) == {1}  # the stack that writes runs each step, all others once


@pytest.mark.parametrize("name", ["qwen2-vl", "deepseek-vl2", "minimax-text-01", "florence-2", "llama-3.2-vision"])
def test_rows_are_exchanged_with_all_that_belongs_to_them(name):
    """Beams exchange rows: positions that go on, latent keys, states of linear attention, media. By hand: the two rows change places."""
    model, _ = writer(name)
    inputs = model.prepare(prompt(name) or prompt(name, media=False) or {}, "generate")
    written = written_input(model)
    inputs.setdefault(written, started(model, inputs))
    plain, turned = (Decoder(model, "generate", inputs, written, cached=True, room=None) for _ in range(2))
    with torch.no_grad():
        for decoder in (plain, turned):
            decoder.step(decoder.start().argmax(-1))
        turned.reorder(torch.tensor([1, 0]))
        tokens = torch.tensor([11, 12])
        torch.testing.assert_close(turned.step(tokens.flip(0)), plain.step(tokens).flip(0), rtol=1e-9, atol=1e-9)


def test_several_answers_share_the_prompt():
    name = "qwen2-vl"
    model, _ = writer(name)
    runs = []
    plain = Stack.forward
    given = prompt(name)
    options = {"do_sample": True, "temperature": 2.0, "max_new_tokens": 4, "suppress_tokens": placeholders(name)}

    def watched(self, x, *args, **options):
        runs.append(x.shape[0])
        return plain(self, x, *args, **options)

    Stack.forward = watched
    try:
        many = model.generate(**given, **options, num_return_sequences=3, seed=5)
    finally:
        Stack.forward = plain
    assert many.shape[0] == 6 and runs[-4:] == [2, 6, 6, 6]  # the prompt ran once for its three answers
    assert torch.equal(many, model.generate(**given, **options, num_return_sequences=3, seed=5, use_cache=False))
    assert torch.equal(many[[0, 3]], model.generate(**given, **options, seed=(5, 8)))
    alone = model.generate(**prompt(name, batch=1), **options, seed=5)
    assert torch.equal(alone[0, -4:], many[0, -4:]) and len({tuple(row) for row in many[:, -4:].tolist()}) > 3


def test_new_caches_are_of_what_a_program_caches():
    model, _ = writer("blip-2:flan-t5")
    assert set(new_caches(model, "generate")) == {"llm"} and new_caches(model, "generate", room=4)["llm"].room == 4
