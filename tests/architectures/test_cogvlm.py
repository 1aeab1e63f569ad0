"""CogVLM (Wang et al. 2023, arXiv 2311.03079): a visual expert beside every layer of a frozen language model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import PIL.Image
import pytest
import torch
from torch import Tensor

import vlmgraph
from tests.architectures import by_hand
from tests.architectures.common import (
    built,
    changed,
    close,
    count,
    enliven,
    fresh,
    graph,
    lively,
    measured,
    meta,
    moved,
    next_token_loss,
    noise,
    placed,
    processor,
    published,
    random_ids,
    trains,
)
from vlmgraph.diagnostics import DiagnosticError
from vlmgraph.ir.dims import Dim
from vlmgraph.processor.boxes import BoxCodec
from vlmgraph.report.tokens import visual_dims
from vlmgraph.train.stage import begin

IMAGE, N = 0, 11
"""Of the tiny size: the placeholder, and boi + 3 x 3 patches + eoi."""
BOI, EOI, END = 1, 11, 12
"""In the sequence: begin of image, end of image, first word behind it."""


@pytest.fixture(scope="module")
def model():
    return lively("cogvlm")


@pytest.fixture(scope="module")
def image() -> Tensor:
    return noise(1, 3, 42, 42)


@pytest.fixture(scope="module")
def ids() -> Tensor:
    """[BOS][boi][9 patches][eoi][6 words], section 2.2."""
    ids = placed(random_ids(1, 18), IMAGE, (0, 1, N))
    ids[:, 0] = 1
    return ids


@pytest.fixture(scope="module")
def visual() -> Tensor:
    """Where the visual expert applies: boi and patches."""
    return torch.tensor([[BOI <= t < EOI for t in range(18)]])


POSITIONS = [0, 1, *[2] * 9, 3, 4, 5, 6, 7, 8, 9]


def features_by_hand(model, image: Tensor) -> Tensor:
    """boi, the patches through the tower and the adapter, eoi: [1, 11, 48]."""
    s = by_hand.state(model)
    x = by_hand.linear(s, "adapter.proj", by_hand.eva_tower(by_hand.below(s, "vision."), image, heads=5)[:, 1:])
    x = by_hand.gelu(by_hand.layer_norm(s, "adapter.norm", x, 1e-5))
    return torch.cat([s["wrap.before"][None], by_hand.swiglu(s, "adapter", x), s["wrap.after"][None]], 1)


def logits_by_hand(model, ids: Tensor, image: Tensor, visual: Tensor, positions: list[int]) -> Tensor:
    s = by_hand.state(model)
    x = s["embed.tokens.weight"][ids]
    x[ids == IMAGE] = features_by_hand(model, image).flatten(0, 1)
    return by_hand.llama(by_hand.below(s, "llm."), x, torch.tensor([positions]), 6, visual) @ s["head.proj.weight"].T


def spliced(model, ids: Tensor, image: Tensor) -> dict[str, Tensor]:
    return model.splice(text=model.embed(ids), ids=ids, vision=model.programs["encode_image"](pixel_values=image)["wrap"])


def decoder(model, x: Tensor, visual: Tensor, layer: int = 1) -> Tensor:
    """Output of a layer for embeddings x, image positions given."""
    return model.llm(x, positions=torch.tensor([POSITIONS]), modality=visual.long(), taps=(layer,), until=True)[f"hidden.{layer}"]


@pytest.fixture(scope="module")
def vicuna(model):
    """The language model by itself, with the language experts' weights."""
    alone = vlmgraph.compile(
        {
            "inputs": {"input_ids": "ids[B, T]", "attention_mask": "mask[B, T]?"},
            "outputs": {"logits": "logits[B, T, vocab]"},
            "components": {
                "embed": {"type": "text.embedding", "of": "llm"},
                "llm": {
                    "type": "decoder.transformer", "preset": "vicuna-7b-v1.5", "layers": 2, "width": 48, "heads": 6, "kv_heads": 6,
                    "mlp": 88, "vocab": 320,
                },
                "head": {"type": "head.lm", "of": "llm"},
            },
            "graph": {"edges": ["input_ids -> embed -> llm -> head -> logits", "attention_mask -> llm.mask"]},
            "programs": {"forward": {"outputs": ["logits"]}},
        }
    )  # fmt: skip
    names = {k.replace(".experts.text", ""): v for k, v in model.state_dict().items() if k.startswith(("embed.", "llm.", "head."))}
    alone.load_state_dict({k: v for k, v in names.items() if ".experts." not in k})
    return alone


# ---- published numbers


def test_published_parameters() -> None:
    counts = published("cogvlm")
    assert counts["total"] == 17_639_685_376, "17B, 17.6B on the hub"
    assert counts["vision"] == 4_282_641_664 and counts["adapter"] + counts["wrap"] == 142_622_720


def test_published_parameters_of_the_experts() -> None:
    """A layer: 4 x 4096^2 + 3 x 4096 x 11008; the language model is Vicuna-7B to the last number; frozen but for 6.6B (paper: 6.5B)."""
    model = meta("cogvlm")
    assert count(model, "llm.vision") == 6_476_005_376 == 32 * (4 * 4096**2 + 3 * 4096 * 11008)
    assert count(model, "llm", "embed", "head") - count(model, "llm.vision") == 6_738_415_616
    trainable = {s.stage: s.trainable for s in measured("cogvlm").stages}
    assert trainable == dict.fromkeys(("caption", "refer", "sft"), 6_618_628_096)
    layer = {n: tuple(p.shape) for n, p in model.llm.layers[31].named_parameters() if ".vision." in n}
    assert layer == {
        **{f"attention.experts.vision.{n}.weight": (4096, 4096) for n in ("q", "k", "v", "out")},
        "mlp.experts.vision.gate.weight": (11008, 4096),
        "mlp.experts.vision.up.weight": (11008, 4096),
        "mlp.experts.vision.down.weight": (4096, 11008),
    }, "its own output projection too, and no bias anywhere"


def test_published_parameters_at_224() -> None:
    """Only the positions differ: 257 in place of 1226."""
    assert published("cogvlm", "base-224")["total"] == 17_639_685_376 - (1226 - 257) * 1792


@pytest.mark.parametrize(("size", "tokens"), [(None, 1227), ("base-224", 258)])
def test_published_visual_tokens(size: str | None, tokens: int) -> None:
    """(side / 14)^2 + 2, in three positions whatever the resolution."""
    assert list(visual_dims(graph("cogvlm", size)).values()) == [Dim.of(tokens)]
    spans = torch.tensor([[0, *range(1, tokens + 1), 0]])
    positions = lively("cogvlm").positions(ids=torch.zeros_like(spans), spans=spans)["positions"]
    assert positions.unique().tolist() == [0, 1, 2, 3, 4]


def test_published_size_runs_on_the_meta_device() -> None:
    """490 px are 1225 patches; every shape holds from the picture to the scores of 32000 words."""
    ids = torch.empty(1, 1232, dtype=torch.long, device="meta")
    out = meta("cogvlm")(pixel_values=torch.empty(1, 3, 490, 490, device="meta"), input_ids=ids)
    assert out["logits"].shape == (1, 1232, 32000)


def test_published_constants() -> None:
    """63 of the tower's 64 layers, epsilon 1e-6 there and no norm behind; RMS epsilon 1e-5 and 4096 wide, untied, in the decoder."""
    model = meta("cogvlm")
    assert len(model.vision.layers) == 63 and model.vision.final_norm is None and model.vision.pre_norm is None
    assert {m.eps for m in model.vision.modules() if isinstance(m, torch.nn.LayerNorm)} == {1e-6}
    assert (model.vision.layers[0].attention.heads, model.vision.layers[0].attention.head_dim) == (16, 112)
    assert {m.eps for n, m in model.llm.named_modules() if n.endswith(("norms.attention", "norms.mlp", "final_norm"))} == {1e-5}
    assert len(model.llm.layers) == 32 and model.llm.layers[0].attention.heads == 32 and not model.graph.ties


# ---- the tower (section 2.1)


def test_features_by_hand(model, image: Tensor) -> None:
    """x + LN(attention(x)), x + LN(mlp(x)), class token dropped after the last layer, no final norm; Linear, LayerNorm, GELU, SwiGLU;
    boi and eoi around the patches."""
    with torch.no_grad():
        close(model.programs["encode_image"](pixel_values=image)["wrap"], features_by_hand(model, image))


def test_a_block_of_the_tower_without_norm_weights_is_the_identity(model) -> None:
    """The norm stands on the branch's output: zero weight and bias switch the branch off. A pre-norm block would not be one."""
    block = model.vision.layers[1]
    x = noise(2, 10, 40)
    with torch.no_grad():
        assert not torch.allclose(block(x), x, atol=1e-2)
        kept = [p.clone() for p in block.norms.parameters()]
        for p in block.norms.parameters():
            p.zero_()
        same = torch.equal(block(x), x)
        for p, value in zip(block.norms.parameters(), kept):
            p.copy_(value)
    assert same


def test_the_class_token_is_dropped_after_the_tower(model, image: Tensor) -> None:
    """It takes part in every layer; its own place does not come out."""
    encode = model.programs["encode_image"]
    with torch.no_grad():
        before = encode(pixel_values=image)["wrap"]
        with changed(model, "vision.cls"):
            assert not torch.allclose(encode(pixel_values=image)["wrap"], before, atol=1e-3)
        handle = model.vision.layers[-1].register_forward_hook(lambda _, __, y: torch.cat([y[:, :1] + 5.0, y[:, 1:]], 1))
        try:
            assert torch.equal(encode(pixel_values=image)["wrap"], before)
        finally:
            handle.remove()


def test_biases(model) -> None:
    """Tower: everywhere, patch convolution too. Adapter: the norm alone. Decoder: nowhere."""
    biased = {n.removesuffix(".bias") for n, _ in model.named_parameters() if n.endswith(".bias")}
    tower = {n for n in biased if n.startswith("vision.layers.0.")}
    assert {n.removeprefix("vision.layers.0.") for n in tower} == {
        "attention.q", "attention.k", "attention.v", "attention.out", "mlp.fc1", "mlp.fc2", "norms.attention", "norms.mlp",
    }  # fmt: skip
    assert {n for n in biased if not n.startswith("vision.")} == {"adapter.norm"} and "vision.patch.proj" in biased


def test_learned_ends_start_at_zero_and_stand_around_the_patches(model, image: Tensor) -> None:
    new = built("cogvlm")
    assert not new.wrap.before.any() and not new.wrap.after.any()
    with torch.no_grad():
        out = model.programs["encode_image"](pixel_values=image)["wrap"]
    assert out.shape == (1, N, 48)
    assert torch.equal(out[:, 0], model.wrap.before) and torch.equal(out[:, -1], model.wrap.after)


def test_positions_of_the_tower_are_stretched_to_another_resolution(model) -> None:
    """224 px to 490 px in the second stage: the class token's row stays, those of the patches are resampled bicubically."""
    table = model.vision.position
    with torch.no_grad():
        got = table.table(5, 5)
        grid = table.weight[1:].T.reshape(1, 40, 3, 3)
        wanted = torch.nn.functional.interpolate(grid, size=(5, 5), mode="bicubic", align_corners=False)[0].flatten(1).T
        assert got.shape == (26, 40) and torch.equal(got[0], table.weight[0]) and table.table(3, 3) is table.weight
        close(got[1:], wanted, 1e-6)
        assert model.vision(noise(1, 3, 70, 70)).shape == (1, 26, 40)


# ---- the visual expert (section 2.1)


def test_logits_by_hand(model, ids: Tensor, image: Tensor, visual: Tensor) -> None:
    """Own q, k, v, out and SwiGLU for boi and patches, language's for eoi and words; shared norms; one causal softmax over all; RoPE at
    the positions of the paper."""
    with torch.no_grad():
        close(model(pixel_values=image, input_ids=ids)["logits"], logits_by_hand(model, ids, image, visual, POSITIONS))


def test_who_is_visual(model, ids: Tensor, image: Tensor, visual: Tensor) -> None:
    """An expert applies where this token and the next are of the image: eoi goes through the language expert, boi through the visual."""
    with torch.no_grad():
        modality = spliced(model, ids, image)["modality"]
    assert torch.equal(modality.bool(), visual)
    kinds = torch.tensor([[BOI <= t <= EOI for t in range(18)]])
    assert torch.equal(modality.bool()[:, :-1], kinds[:, :-1] & kinds[:, 1:])


OWN = ["attention.experts.{}.q", "attention.experts.{}.out", "mlp.experts.{}.gate", "mlp.experts.{}.up", "mlp.experts.{}.down"]
"""Matrices whose effect in their own layer stays at the place of the token."""
SHARED_KEYS = ["attention.experts.{}.k", "attention.experts.{}.v"]


@pytest.mark.parametrize("part", OWN)
def test_an_expert_moves_its_own_tokens(model, visual: Tensor, part: str) -> None:
    """Noise on one matrix of a layer: the output moves at the tokens of that expert's kind, and by no bit elsewhere."""
    x = noise(1, 18, 48)
    with torch.no_grad():
        before = decoder(model, x, visual)
        for name, places in (("vision", visual), ("text", ~visual)):
            with changed(model, f"llm.layers.0.{part.format(name)}.weight"):
                first = part[-1] == "q" and name == "text"  # the first token has one key: whatever its query, it takes that
                assert moved(before, decoder(model, x, visual)) == [not first and bool(places[0, 0]), *places[0, 1:].tolist()], name


@pytest.mark.parametrize("part", SHARED_KEYS)
def test_keys_and_values_of_both_experts_meet_in_one_attention(model, visual: Tensor, part: str) -> None:
    """Visual keys and values are seen by every later token, words too; a causal mask holds inside the image."""
    x = noise(1, 18, 48)
    with torch.no_grad():
        before = decoder(model, x, visual)
        with changed(model, f"llm.layers.0.{part.format('vision')}.weight"):
            assert moved(before, decoder(model, x, visual)) == [t >= BOI for t in range(18)]
        with changed(model, f"llm.layers.0.{part.format('text')}.weight"):
            after = moved(before, decoder(model, x, visual))
            assert all(after[BOI:]) and after[0] == ("v" in part[-1])


def test_image_tokens_are_causal_too(model, visual: Tensor) -> None:
    x = noise(1, 18, 48)
    other = x.clone()
    other[:, 6] += 1.0
    with torch.no_grad():
        assert moved(decoder(model, x, visual), decoder(model, other, visual)) == [t >= 6 for t in range(18)]


def test_norms_are_shared(model, visual: Tensor) -> None:
    assert [n for n, _ in model.llm.layers[0].named_parameters() if "norm" in n] == ["norms.attention.weight", "norms.mlp.weight"]
    x = noise(1, 18, 48)
    with torch.no_grad():
        before = decoder(model, x, visual)
        for norm in ("attention", "mlp"):
            with changed(model, f"llm.layers.0.norms.{norm}"):
                assert all(moved(before, decoder(model, x, visual)))


def test_the_expert_reaches_words_through_attention_alone(model, ids: Tensor, image: Tensor) -> None:
    """What it does behind the last layer's attention never reaches a word; its keys do. Without the image nothing of it counts."""
    with torch.no_grad():
        before = model(pixel_values=image, input_ids=ids)["logits"]
        last = [f"llm.layers.1.{part.format('vision')}.weight" for part in OWN]
        with changed(model, *last):
            after = model(pixel_values=image, input_ids=ids)["logits"]
            assert moved(before, after) == [BOI <= t < EOI for t in range(18)]
        for part in ("attention.experts.vision.k", "attention.experts.vision.v"):
            with changed(model, f"llm.layers.1.{part}.weight"):
                assert not torch.allclose(model(pixel_values=image, input_ids=ids)["logits"][:, END:], before[:, END:], atol=1e-3)
        words = random_ids(1, 9)
        alone = model(input_ids=words)["logits"]
        with changed(model, "llm.vision", "vision", "adapter", "wrap"):
            assert torch.equal(model(input_ids=words)["logits"], alone)


def test_text_alone_is_the_language_model(model, vicuna) -> None:
    """Bit-identical to Vicuna; the program holds no tower, no splice and no choice of experts."""
    words, mask = random_ids(2, 12), torch.ones(2, 12, dtype=torch.long)
    mask[1, :3] = 0
    with torch.no_grad():
        assert torch.equal(model(input_ids=words)["logits"], vicuna(input_ids=words)["logits"])
        close(
            model(input_ids=words, attention_mask=mask)["logits"][mask.bool()],
            vicuna(input_ids=words, attention_mask=mask)["logits"][mask.bool()],
            2e-6,
        )
    nodes = model.programs["forward"].graph(frozenset({"input_ids"})).nodes
    assert {n.component for n in nodes} <= {"embed", "positions", "llm", "head"}
    assert "modality" not in next(n for n in nodes if n.component == "llm").inputs


def test_experts_that_are_copies_make_the_language_model(vicuna, ids: Tensor, image: Tensor) -> None:
    """As pretraining begins, the network is the language model run on the mixed embeddings."""
    model = enliven(fresh("cogvlm"))
    begin(model, "caption")
    with torch.no_grad():
        mixed = spliced(model, ids, image)["out"]
        wanted = vicuna.head(vicuna.llm(mixed, positions=torch.tensor([POSITIONS])))
        close(model(pixel_values=image, input_ids=ids)["logits"], wanted, 2e-6)
        with changed(model, "llm.vision"):
            assert not torch.allclose(model(pixel_values=image, input_ids=ids)["logits"], wanted, atol=1e-2)


# ---- positions (section 2.2)


def test_an_image_takes_three_positions(model, ids: Tensor, image: Tensor) -> None:
    """boi p, all patches p + 1, eoi p + 2, words from p + 3: what RoPE sees in the program itself."""
    seen = []
    handle = model.llm.rope.register_forward_hook(lambda _, given, __: seen.append(given[0]))
    try:
        with torch.no_grad():
            model(pixel_values=image, input_ids=ids)
    finally:
        handle.remove()
    assert [p.tolist() for p in seen] == [[POSITIONS]]


def test_positions_of_padded_rows_and_several_images(model) -> None:
    """Padding on the left takes no position; a second image, words between, takes three more."""
    words = random_ids(1, 2 * N + 6)
    row = placed(words, IMAGE, (0, 3, N), (0, 5 + N, N))
    mask = torch.ones_like(row)
    mask[:, :2] = 0
    out = model.splice(text=model.embed(row), ids=row, vision=torch.zeros(2, N, 48), mask=mask)
    positions = model.positions(ids=row, spans=out["spans"], mask=mask)
    assert positions["positions"][0, 2:].tolist() == [0, 1, *[2] * 9, 3, 4, 5, 6, *[7] * 9, 8, 9]
    assert positions["next"].tolist() == [10]


def test_position_per_patch_would_be_another_model(model, ids: Tensor, image: Tensor) -> None:
    with torch.no_grad():
        x, visual = spliced(model, ids, image)["out"], spliced(model, ids, image)["modality"]
        own = model.llm(x, positions=torch.tensor([POSITIONS]), modality=visual)
        each = model.llm(x, positions=torch.arange(18)[None], modality=visual)
    assert ((own - each).norm() / own.norm()).item() > 1e-2


def test_the_order_of_patches_still_counts(model, visual: Tensor) -> None:
    """Their rotary phase is equal, yet the mask is causal: later patches see more. With a full mask the words could not tell."""
    x = noise(1, 18, 48)
    swapped = x.clone()
    order = [BOI + 1 + i for i in (4, 0, 8, 2, 6, 1, 7, 3, 5)]
    swapped[:, BOI + 1 : EOI] = x[:, order]
    with torch.no_grad():
        a, b = (decoder(model, y, visual, layer=2)[:, END:] for y in (x, swapped))
        assert not torch.allclose(a, b, atol=1e-3)
        with everyone_sees_everyone(model.llm):
            a, b = (decoder(model, y, visual, layer=2)[:, END:] for y in (x, swapped))
        close(a, b, 1e-5)


@contextmanager
def everyone_sees_everyone(stack) -> Iterator[None]:
    kept = stack.rules
    stack.rules = (("full",),) * len(kept)
    try:
        yield
    finally:
        stack.rules = kept


# ---- what is written (decoding)


def test_generation_goes_on_at_the_next_position_with_the_language_expert(model, ids: Tensor, image: Tensor) -> None:
    """With a cache, each step holds one new word: no image, no choice of experts, position last + 1. The same words come without one."""
    seen = []
    handle = model.llm.rope.register_forward_hook(lambda _, given, __: seen.append(given[0].tolist()))
    try:
        cached = model.generate(pixel_values=image, input_ids=ids, max_new_tokens=4)
    finally:
        handle.remove()
    assert seen == [[POSITIONS], [[10]], [[11]], [[12]]]
    assert torch.equal(cached, model.generate(pixel_values=image, input_ids=ids, max_new_tokens=4, use_cache=False))
    given = frozenset({"input_ids", "attention_mask", "positions.next"})
    step = model.programs["generate"].graph(given, step=True)
    assert {n.component for n in step.nodes} == {"embed", "positions", "llm", "head"}
    assert "modality" not in next(n for n in step.nodes if n.component == "llm").inputs


def test_left_padded_rows_generate_as_alone(model, ids: Tensor, image: Tensor) -> None:
    padded = torch.cat([torch.full((1, 3), 2), ids], 1)
    mask = torch.tensor([[0] * 3 + [1] * 18])
    alone = model.generate(pixel_values=image, input_ids=ids, max_new_tokens=4)[:, 18:]
    assert torch.equal(model.generate(pixel_values=image, input_ids=padded, attention_mask=mask, max_new_tokens=4)[:, 21:], alone)


def test_published_sampling_is_greedy_in_effect(model, ids: Tensor, image: Tensor) -> None:
    """temperature 0.8, top_p 0.4, top_k 1."""
    chat = dict(model.spec.data["inference"]["chat"])
    assert chat.pop("type") == "inference.generate" and chat == {"temperature": 0.8, "top_p": 0.4, "top_k": 1}
    given = {"pixel_values": image, "input_ids": ids, "max_new_tokens": 4}
    assert torch.equal(model.generate(**given, do_sample=True, **chat), model.generate(**given))


def test_placeholders_and_features_must_agree(model, ids: Tensor) -> None:
    with pytest.raises(DiagnosticError, match=r"11 placeholders.*22 feature rows"):
        model(pixel_values=noise(2, 3, 42, 42), input_ids=ids)


# ---- training (section 2.3)


def test_loss_counts_words_alone(model, ids: Tensor, image: Tensor) -> None:
    """Next-token cross entropy by hand; labels of -100 and visual places do not count."""
    loss, given = model.programs["objective.lm"], {"pixel_values": image, "input_ids": ids}
    labels = ids.masked_fill(ids == IMAGE, -100)
    labels[:, END : END + 2] = -100
    with torch.no_grad():
        logits = model(**given)["logits"]
        close(loss(**given, labels=labels)["loss"], next_token_loss(logits, labels))
        close(loss(**given, labels=ids)["loss"], next_token_loss(logits, ids, ignored=[IMAGE]))


@pytest.mark.parametrize("stage", ["caption", "refer", "sft"])
def test_stages(stage: str, ids: Tensor, image: Tensor) -> None:
    """The experts, the adapter and the two learned ends; tower and language model stay.

    A loss on words cannot reach what the last layer's expert does behind its keys and values: those tokens predict nothing.
    """
    model = enliven(fresh("cogvlm"))
    kept = {n: p.detach().clone() for n, p in model.named_parameters()}
    idle = [f"llm.layers.1.{part.format('vision')}.weight" for part in OWN]
    labels = ids.masked_fill(ids == IMAGE, -100)
    names = trains(model, stage, {"pixel_values": image, "input_ids": ids, "labels": labels}, idle=idle)
    assert names == {n for n in kept if n.startswith(("adapter.", "wrap.")) or ".experts.vision." in n}
    words = random_ids(1, 9)
    untouched = fresh("cogvlm")
    untouched.load_state_dict(kept)
    with torch.no_grad():
        assert torch.equal(model(input_ids=words)["logits"], untouched(input_ids=words)["logits"]), "text-only behaviour never changes"


def test_experts_start_as_copies_of_their_layer() -> None:
    """Once, as pretraining begins: later stages go on from what is there."""
    model = enliven(fresh("cogvlm"))
    begin(model, "caption")
    state = model.state_dict()
    pairs = {n: n.replace(".experts.vision.", ".experts.text.") for n in state if ".experts.vision." in n}
    assert len(pairs) == 2 * 7 and all(torch.equal(state[a], state[b]) for a, b in pairs.items())
    assert not torch.equal(state["llm.layers.0.mlp.experts.vision.up.weight"], state["llm.layers.1.mlp.experts.vision.up.weight"])
    with torch.no_grad():
        model.llm.layers[0].mlp.experts["vision"].up.weight.add_(1.0)
    begin(model, "refer")
    assert not torch.equal(state["llm.layers.0.mlp.experts.vision.up.weight"], state["llm.layers.0.mlp.experts.text.up.weight"])


@pytest.mark.parametrize(("stage", "tokens"), [("caption", 258), ("refer:0", 258), ("refer:1", 1227), ("sft", 1227)])
def test_resolution_of_the_stages(stage: str, tokens: int) -> None:
    """224 px first; the second stage ends at 490 px."""
    spec = vlmgraph.read_spec("cogvlm", stage=stage)
    assert not vlmgraph.check(spec)
    assert list(visual_dims(vlmgraph.api.elaborate(spec)).values()) == [Dim.of(tokens)]
    assert not vlmgraph.check(vlmgraph.read_spec("cogvlm", size="tiny", stage=stage.partition(":")[0])), "the tiny size stays tiny"


# ---- what goes in


def test_the_image_follows_the_start_token(model) -> None:
    """[BOS][boi][patches][eoi][text] without a tag in the text; resized to a square whatever its shape, CLIP's statistics."""
    own = processor("cogvlm")
    stripes = np.zeros((20, 120, 3), np.uint8)
    stripes[:, :60], stripes[:, 60:] = (10, 120, 250), (240, 30, 60)
    picture = PIL.Image.fromarray(stripes)
    given = own.ask("What?", images=picture)
    row = given["input_ids"][0].tolist()
    assert row[0] == 1 and row[1 : 1 + N] == [IMAGE] * N and IMAGE not in row[1 + N :]
    mean, std = np.array([0.48145466, 0.4578275, 0.40821073]), np.array([0.26862954, 0.26130258, 0.27577711])
    for columns, colour in ((slice(0, 19), (10, 120, 250)), (slice(23, 42), (240, 30, 60))):  # nothing is cut off, nothing added
        wanted = (np.array(colour) / 255 - mean) / std
        np.testing.assert_allclose(given["pixel_values"][0, :, :, columns], np.broadcast_to(wanted[:, None, None], (3, 42, 19)), atol=1e-5)
    with torch.no_grad():
        assert model(**{k: torch.from_numpy(v) for k, v in given.items()})["logits"].shape == (1, len(row), 320)


def test_templates() -> None:
    own = processor("cogvlm", None)
    talk = [{"role": r, "content": c} for r, c in (("user", "Who?"), ("assistant", "A cat."), ("user", "Why?"))]
    assert own.apply_chat(talk) == "Question: Who? Answer: A cat.\nQuestion: Why? Answer:"
    assert own.prompt("vqa", question="Who?") == "Question: Who? Short answer:"
    assert own.prompt("chat", question="Who?").rstrip() == "[INST] Who? [/INST]"
    assert own.prompt("base", question="Who?") == "Who?"


def test_boxes_are_text() -> None:
    """[[x0,y0,x1,y1]] in thousandths of the sides, three digits, several joined by ";"."""
    codec = processor("cogvlm", None).codecs["boxes"]
    assert isinstance(codec, BoxCodec)
    text = codec.text(np.array([[0, 0, 320, 120], [64, 24, 640, 240]]), size=(640, 240))
    assert text == "[[000,000,500,500;100,100,999,999]]"
    found = codec.parse("A cat [[100,200,300,400]] sits.", size=(1000, 500))
    assert len(found) == 1
    np.testing.assert_allclose(np.asarray(found[0].boxes)[0], [100, 100, 300, 200], atol=1.0)
