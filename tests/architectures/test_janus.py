"""Janus (arXiv 2410.13848): one language model, SigLIP features in for understanding, VQ codes in and out for drawing."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import vlmgraph
from tests.architectures.by_hand import State, below, depth, gelu, layer_norm, linear, rms_norm, rope, softmax_attention, state, swiglu
from tests.architectures.common import (
    built_counts,
    changed,
    close,
    declared_counts,
    fresh,
    graph,
    lively,
    measured,
    meta,
    next_token_loss,
    noise,
    published,
    random_ids,
    spec,
    trains,
)  # fmt: skip
from vlmgraph.diagnostics import DiagnosticError
from vlmgraph.diagnostics import codes as C
from vlmgraph.lower.model import CompiledModel
from vlmgraph.lower.sample_image import without_words
from vlmgraph.nn.vq import Downsample, PixelAttention
from vlmgraph.processor import Processor
from vlmgraph.processor.model import model_processor
from vlmgraph.train.stage import addressed, begin
from vlmgraph.weights.import_config import import_config

BOS, EOS, PAD, BOI, IMAGE, EOI, CODE = range(300, 307)
"""Ids of the tiny size; an image is 16 tokens on both paths."""
GREEDY = {"generation_mode": "image", "do_sample": False}


@pytest.fixture(scope="module")
def model() -> CompiledModel:
    return lively("janus")


@pytest.fixture(scope="module")
def processor() -> Processor:
    return model_processor(spec("janus", "tiny"), graph("janus", "tiny"))


def understanding() -> Tensor:
    """bos, a word, boi, the tokens of an image, eoi, four words."""
    ids = random_ids(1, 24)
    ids[:, 0], ids[:, 2], ids[:, 3:19], ids[:, 19] = BOS, BOI, IMAGE, EOI
    return ids


def generation(words: int = 5) -> Tensor:
    """bos, words, boi, the codes of an image, eoi."""
    ids = random_ids(1, words + 19, seed=3)
    ids[:, 0], ids[:, words + 1], ids[:, words + 2 : words + 18], ids[:, words + 18] = BOS, BOI, CODE, EOI
    return ids


def prompts(rows: int = 1, length: int = 7) -> Tensor:
    ids = random_ids(rows, length, seed=4)
    ids[:, 0], ids[:, -1] = BOS, BOI
    return ids


def picture(seed: int = 1) -> Tensor:
    return noise(1, 3, 56, 56, seed=seed)


def target(count: int = 1) -> Tensor:
    return noise(count, 3, 16, 16, seed=6).clamp(-1, 1)


@torch.no_grad()
def run(model: CompiledModel, program: str, **inputs: Any) -> Tensor:
    return next(iter(model.programs[program](**inputs).values()))


# ---- what was published


def test_parameters() -> None:
    """The released checkpoint: 2,076,636,811 in all; 1,442,940,928 of the decoder's body count its table of tokens."""
    assert published("janus") == {
        "vision": 303_688_704, "und_adaptor": 6_295_552, "vq": 71_883_403, "gen_embed": 131_072, "gen_adaptor": 4_214_784,
        "embed": 209_715_200, "llm": 1_442_940_928 - 209_715_200, "head": 209_715_200, "gen_head": 37_767_168, "total": 2_076_636_811,
    }  # fmt: skip
    assert declared_counts("janus", "tiny") == built_counts(lively("janus"))


def test_parts_of_the_tokenizer() -> None:
    """Encoder 29,298,176 and decoder 42,449,795 without the 1x1 convolutions to and from the codes; one table of 16384 x 8 for both."""
    vq: Any = meta("janus").vq
    apart = ("codebook", "to_code", "from_code")
    sides = [sum(p.numel() for n, p in s.named_parameters() if n.split(".")[0] not in apart) for s in (vq.encode, vq.decode)]
    assert sides == [29_298_176, 42_449_795]
    assert vq.encode.codebook is vq.decode.codebook and tuple(vq.encode.codebook.weight.shape) == (16_384, 8)
    assert tuple(vq.encode.to_code.weight.shape) == (8, 256, 1, 1) and tuple(vq.decode.from_code.weight.shape) == (256, 8, 1, 1)


def test_tokens_of_an_image() -> None:
    """384 / 16 = 24: 576 tokens of width 2048 on both paths."""
    assert measured("janus").visual_tokens == {"splice.vision": "576", "splice.codes": "576"}
    types = graph("janus").types()
    for path in ("und_adaptor", "gen_adaptor"):
        assert [str(d) for d in types[path].dims[1:]] == ["576", "2048"]
    assert types["image_ids"].dims[-1].constant == 576


def test_dimensions() -> None:
    parts: Any = graph("janus").components
    tower = {k: getattr(parts["vision"], k) for k in ("layers", "width", "heads", "image_size", "act", "norm_eps", "cls", "final_norm")}
    assert tower == {
        "layers": 24, "width": 1024, "heads": 16, "image_size": 384, "act": "gelu", "norm_eps": 1e-6, "cls": False, "final_norm": None,
    }  # fmt: skip
    assert parts["vision"].patch.size == 16 and parts["vision"].mlp.hidden == 4096
    words = {k: getattr(parts["llm"], k) for k in ("layers", "width", "heads", "norm_eps", "vocab", "tie")}
    assert words == {"layers": 24, "width": 2048, "heads": 16, "norm_eps": 1e-6, "vocab": 102_400, "tie": False}
    assert parts["llm"].kv_heads in (None, 16) and parts["llm"].mlp.hidden == 5632
    names = ("channels", "multipliers", "blocks", "latent", "codes", "code_width", "distance", "normalize")
    assert [getattr(parts["vq"], k) for k in names] == [128, (1, 1, 2, 2, 4), 2, 256, 16_384, 8, "cosine", True]


# ---- two paths in


def test_decoupled_encoders(model: CompiledModel) -> None:
    """Section 3.1: no parameter in common, and neither path notices the other's."""
    paths = [
        {id(p) for a in group for p in addressed(model, a).values()}
        for group in (("vision", "und_adaptor"), ("vq", "gen_embed", "gen_adaptor"))
    ]
    assert not paths[0] & paths[1]

    def scores() -> Tensor:
        return run(model, "forward_image", input_ids=generation(), image_ids=run(model, "encode_codes", gen_values=target()))

    seen, codes = run(model, "encode_image", pixel_values=picture()), scores()
    with changed(model, "vq", "gen_embed", "gen_adaptor"):
        assert torch.equal(run(model, "encode_image", pixel_values=picture()), seen)
        assert not torch.allclose(scores(), codes)
    with changed(model, "vision", "und_adaptor"):
        assert not torch.allclose(run(model, "encode_image", pixel_values=picture()), seen)
        assert torch.equal(scores(), codes)


def siglip(s: State, image: Tensor, heads: int) -> Tensor:
    """Patches and learned positions, pre-norm blocks, a norm behind them; no class token, no pooling."""
    patch = s["patch.proj.weight"].shape[-1]
    x = F.unfold(image.double(), patch, stride=patch).transpose(1, 2) @ s["patch.proj.weight"].flatten(1).T + s["patch.proj.bias"]
    x = x + s["position.weight"]
    for i in range(depth(s)):
        block = below(s, f"layers.{i}.")
        y = layer_norm(block, "norms.attention", x, 1e-6)
        q, k, v = (linear(block, f"attention.{n}", y) for n in "qkv")
        x = x + linear(block, "attention.out", softmax_attention(q, k, v, heads, False))
        x = x + linear(block, "mlp.fc2", gelu(linear(block, "mlp.fc1", layer_norm(block, "norms.mlp", x, 1e-6))))
    return layer_norm(s, "final_norm", x, 1e-6)


def test_understanding_path(model: CompiledModel) -> None:
    """SigLIP after its last norm, then Linear - GELU - Linear."""
    adaptor = state(model.und_adaptor)
    wanted = linear(adaptor, "fc2", gelu(linear(adaptor, "fc1", siglip(state(model.vision), picture(), heads=5))))
    close(run(model, "encode_image", pixel_values=picture()), wanted)


def test_generation_path(model: CompiledModel) -> None:
    """A table of its own, then Linear - GELU - Linear: what stands in the place of the codes."""
    codes = run(model, "encode_codes", gen_values=target())
    adaptor = state(model.gen_adaptor)
    vectors = state(model.gen_embed)["tokens.weight"][codes]
    inside = linear(adaptor, "fc2", gelu(linear(adaptor, "fc1", vectors)))
    x = model.embed(generation()).double()
    x[:, 7:23] = inside
    close(run(model, "draw", input_ids=generation(), image_ids=codes), by_hand_scores(model, x))


def test_gen_embed_is_not_the_codebook(model: CompiledModel) -> None:
    assert tuple(meta("janus").gen_embed.tokens.weight.shape) == (16_384, 8)  # type: ignore[union-attr, operator]
    assert not {id(p) for p in model.gen_embed.parameters()} & {id(p) for p in model.vq.parameters()}
    codes = run(model, "encode_codes", gen_values=target())
    with changed(model, "gen_embed"):
        assert torch.equal(run(model, "encode_codes", gen_values=target()), codes)


# ---- two heads out


def by_hand_states(model: CompiledModel, x: Tensor) -> Tensor:
    """The LLaMA decoder over vectors [B, N, width], after its norm."""
    s = state(model.llm)
    places = torch.arange(x.shape[1])[None]
    for i in range(depth(s)):
        block = below(s, f"layers.{i}.")
        y = rms_norm(block, "norms.attention", x, 1e-6)
        q, k, v = (linear(block, f"attention.{n}", y) for n in "qkv")
        y = softmax_attention(rope(q, places, 6), rope(k, places, 6), v, 6, causal=True)
        x = x + linear(block, "attention.out", y)
        x = x + swiglu(block, "mlp", rms_norm(block, "norms.mlp", x, 1e-6))
    return rms_norm(s, "final_norm", x, 1e-6)


def by_hand_scores(model: CompiledModel, x: Tensor) -> Tensor:
    """The generation head, Linear - GELU - Linear, on every state."""
    head = state(model.gen_head)
    return linear(head, "fc2", gelu(linear(head, "fc1", by_hand_states(model, x))))


def test_two_heads_on_the_same_state(model: CompiledModel) -> None:
    """The text head is one untied matrix, the other a small network; each leaves the other's scores alone."""
    x = model.embed(prompts(2)).double()
    close(run(model, "forward", input_ids=prompts(2)), by_hand_states(model, x) @ state(model.head)["proj.weight"].T)
    close(run(model, "draw", input_ids=prompts(2)), by_hand_scores(model, x))
    assert model.head.proj.weight is not model.embed.tokens.weight  # type: ignore[union-attr]
    words, scores = run(model, "forward", input_ids=prompts()), run(model, "draw", input_ids=prompts())
    with changed(model, "gen_head"):
        assert torch.equal(run(model, "forward", input_ids=prompts()), words)
    with changed(model, "head"):
        assert torch.equal(run(model, "draw", input_ids=prompts()), scores)


def test_text_only_is_the_plain_decoder(model: CompiledModel) -> None:
    program = model.programs["forward"].graph(frozenset({"input_ids", "attention_mask"}))
    assert {n.component for n in program.nodes} == {"embed", "llm", "head"}
    ids = random_ids(2, 9)
    with changed(model, "vision", "und_adaptor", "vq", "gen_embed", "gen_adaptor", "gen_head"):
        close(run(model, "forward", input_ids=ids), by_hand_states(model, model.embed(ids).double()) @ state(model.head)["proj.weight"].T)


def test_understanding_does_not_depend_on_generation(model: CompiledModel) -> None:
    inputs = {"input_ids": understanding(), "pixel_values": picture()}
    program = model.programs["forward"].graph(frozenset(inputs))
    assert {n.component for n in program.nodes} == {"vision", "und_adaptor", "embed", "splice", "llm", "head"}
    logits = run(model, "forward", **inputs)
    with changed(model, "vq", "gen_embed", "gen_adaptor", "gen_head"):
        assert torch.equal(run(model, "forward", **inputs), logits)
    other = run(model, "forward", **{**inputs, "pixel_values": picture(seed=2)})
    assert torch.equal(other[:, :3], logits[:, :3]) and bool((other[:, 3:] != logits[:, 3:]).any(-1).all())


def test_generation_does_not_depend_on_understanding(model: CompiledModel) -> None:
    program = model.programs["draw"].graph(frozenset({"input_ids", "image_ids"}))
    assert {n.component for n in program.nodes} == {"gen_embed", "gen_adaptor", "embed", "splice", "llm", "gen_head"}
    codes, pixels = model.generate(prompts(), **GREEDY), model.generate_image(prompts(), do_sample=False)
    with changed(model, "vision", "und_adaptor", "head"):
        assert torch.equal(model.generate(prompts(), **GREEDY), codes)
        assert torch.equal(model.generate_image(prompts(), do_sample=False), pixels)


def test_pictures_of_both_kinds_in_one_batch(model: CompiledModel) -> None:
    """Each placeholder takes its own path's vectors; rows do not mix."""
    ids = torch.cat([understanding(), generation()])
    both = model(input_ids=ids, pixel_values=picture(), gen_values=target())["logits"]
    close(both[:1], run(model, "forward", input_ids=ids[:1], pixel_values=picture()))
    close(both[1:], run(model, "forward", input_ids=ids[1:], gen_values=target()))


# ---- the tokenizer of images


def test_nearest_code_by_direction(model: CompiledModel) -> None:
    """Both sides are normalised before the distance: arg max of the cosine, in raster order. The plain distance chooses otherwise."""
    vq: Any = model.vq
    with torch.no_grad():
        z, table = vq.encode.features(target(4)).double(), vq.encode.codebook.weight.double()
    assert z.shape == (4, 4, 4, 8)
    cosine = torch.einsum("bhwc,kc->bhwk", z, table) / z.norm(dim=-1)[..., None] / table.norm(dim=-1)
    codes = run(model, "encode_codes", gen_values=target(4))
    assert torch.equal(codes, cosine.argmax(-1).reshape(4, 16)) and codes.unique().numel() > 4
    plain = (z[..., None, :] - table).square().sum(-1).argmin(-1).reshape(4, 16)
    assert not torch.equal(plain, codes)


def test_the_decoder_gets_unit_vectors(model: CompiledModel) -> None:
    vq: Any = model.vq
    codes = run(model, "encode_codes", gen_values=target(2))
    got: list[Tensor] = []
    handle = vq.decode.from_code.register_forward_pre_hook(lambda _, inputs: got.append(inputs[0]))
    try:
        run(model, "decode_image", image_ids=codes)
    finally:
        handle.remove()
    wanted = F.normalize(vq.decode.codebook.weight.detach(), dim=-1)[codes].view(2, 4, 4, 8).permute(0, 3, 1, 2)
    close(got[0], wanted)


def test_length_of_codebook_rows_means_nothing() -> None:
    model = fresh("janus")
    vq: Any = model.vq
    codes = run(model, "encode_codes", gen_values=target(3))
    pixels = run(model, "decode_image", image_ids=codes)
    with torch.no_grad():
        vq.encode.codebook.weight.mul_(torch.rand(32, 1, generator=torch.Generator().manual_seed(1)) * 5 + 0.2)
    assert torch.equal(run(model, "encode_codes", gen_values=target(3)), codes)
    close(run(model, "decode_image", image_ids=codes), pixels)


def test_shape_of_the_tokenizer() -> None:
    """Two residual blocks a level, three in the decoder; attention at the lowest resolution and in the middle alone; norms of 32 groups,
    eps 1e-6; sides halved by a stride behind padding right and below, doubled by repeating before a convolution."""
    vq: Any = meta("janus").vq
    assert [len(level.blocks) for level in vq.encode.levels] == [2] * 5 and [len(level.blocks) for level in vq.decode.levels] == [3] * 5
    for side, attended in ((vq.encode, "levels.4."), (vq.decode, "levels.0.")):
        places = [n for n, m in side.named_modules() if isinstance(m, PixelAttention)]
        assert [n for n in places if n.startswith("levels.")] == [n for n in places if n.startswith(attended)]
        assert len(places) == (3 if side is vq.encode else 4)
        assert [n for n in places if n.startswith("middle.")] == ["middle.1"]
    norms = [m for m in vq.modules() if isinstance(m, torch.nn.GroupNorm)]
    assert {(m.num_groups, m.eps) for m in norms} == {(32, 1e-6)}
    assert [level.blocks[-1].conv2.out_channels for level in vq.encode.levels] == [128, 128, 256, 256, 512]
    assert sum(isinstance(m, Downsample) for m in vq.encode.modules()) == 4 and vq.encode.out.out_channels == 256


def test_sides_are_halved_behind_one_sided_padding() -> None:
    down = Downsample(2)
    x = noise(1, 2, 6, 6)
    framed = torch.zeros(1, 2, 7, 7)
    framed[:, :, :6, :6] = x
    windows = framed.unfold(2, 3, 2).unfold(3, 3, 2)  # [1, 2, 3, 3, 3, 3]
    wanted = torch.einsum("bchwij,ocij->bohw", windows, down.conv.weight) + down.conv.bias[:, None, None]
    close(down(x), wanted)


def test_codes_to_pixels_and_back() -> None:
    """encode → ids → decode is the tokenizer's own forward, and its decoder learns to give back a picture from 16 codes."""
    model = fresh("janus")
    vq: Any = model.vq
    codes = run(model, "encode_codes", gen_values=target(2))
    with torch.no_grad():
        assert torch.equal(vq(target(2)), run(model, "decode_image", image_ids=codes))
    pictures = F.interpolate(noise(2, 3, 4, 4, seed=8).clamp(-1, 1), scale_factor=4.0)
    codes = torch.randint(0, 32, (2, 16), generator=torch.Generator().manual_seed(2))
    optimizer = torch.optim.Adam(vq.decode.parameters(), lr=3e-3)
    for _ in range(25):
        optimizer.zero_grad()
        loss = (vq.decode(codes) - pictures).square().mean()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.3 * pictures.var().item()


# ---- drawing


@torch.no_grad()
def drawn_by_hand(model: CompiledModel, ids: Tensor, guidance: float, mask: Tensor | None = None) -> Tensor:
    """The loop of the published code, over the whole sequence each time: codes [1, 16]."""
    other = ids.clone()
    other[:, 1:-1] = PAD
    streams = [model.embed(ids), model.embed(other)]
    codes: list[Tensor] = []
    for _ in range(16):
        c, u = (model.gen_head(model.llm(x)[:, -1]) for x in streams)
        codes.append((u + guidance * (c - u)).argmax(-1))
        new = model.gen_adaptor(model.gen_embed(codes[-1][:, None]))
        streams = [torch.cat([x, new], 1) for x in streams]
    return torch.stack(codes, 1)


@pytest.mark.parametrize("guidance", [0.0, 1.0, 2.5, 5.0])
def test_classifier_free_guidance(model: CompiledModel, guidance: float) -> None:
    """u + s (c - u), the same code to both streams; the second one's prompt keeps its first and its last token."""
    got = model.generate(prompts(), **GREEDY, guidance_scale=guidance)
    assert torch.equal(got, drawn_by_hand(model, prompts(), guidance))


def test_the_weight_of_guidance_matters(model: CompiledModel) -> None:
    drawn = {s: model.generate(prompts(), **GREEDY, guidance_scale=s).tolist() for s in (0.0, 1.0, 5.0)}
    assert drawn[0.0] != drawn[1.0] != drawn[5.0] != drawn[0.0]
    assert model.generate(prompts(), **GREEDY).tolist() == drawn[5.0]  # the published weight, where none is given


def test_a_weight_of_one_is_no_guidance(model: CompiledModel) -> None:
    """One stream is run, and it is the conditional one: teacher forcing on what was drawn finds each code again as the most likely."""
    rows: list[int] = []
    handle = model.llm.register_forward_pre_hook(
        lambda _, inputs, kwargs: rows.append(len(inputs[0] if inputs else kwargs["x"])), with_kwargs=True
    )
    try:
        codes = model.generate(prompts(), **GREEDY, guidance_scale=1.0)
        assert rows == [1] * 16
        rows.clear()
        model.generate(prompts(), **GREEDY, guidance_scale=3.0)
        assert rows == [2] * 16
    finally:
        handle.remove()
    ids = torch.cat([prompts(), torch.full((1, 16), CODE)], 1)
    assert torch.equal(run(model, "forward_image", input_ids=ids, image_ids=codes).argmax(-1), codes)


def test_streams_of_a_prompt_without_words_agree(model: CompiledModel) -> None:
    ids = prompts()
    ids[:, 1:-1] = PAD
    drawn = [model.generate(ids, **GREEDY, guidance_scale=s).tolist() for s in (0.0, 1.0, 5.0)]
    assert drawn[0] == drawn[1] == drawn[2]


def test_unconditional_prompts() -> None:
    """The first real token and the last stay, the length too; padding on the left is none of the prompt."""
    ids = torch.tensor([[BOS, 5, 6, 7, BOI], [PAD, PAD, BOS, 8, BOI]])
    mask = torch.tensor([[1, 1, 1, 1, 1], [0, 0, 1, 1, 1]])
    assert without_words(ids, mask, PAD, "").tolist() == [[BOS, PAD, PAD, PAD, BOI], [PAD, PAD, BOS, PAD, BOI]]
    assert without_words(ids[:1], None, PAD, "").tolist() == [[BOS, PAD, PAD, PAD, BOI]]


def test_cache_changes_nothing(model: CompiledModel) -> None:
    ids = prompts(2)
    assert torch.equal(model.generate(ids, **GREEDY), model.generate(ids, **GREEDY, use_cache=False))


def test_prompts_of_different_length(model: CompiledModel) -> None:
    """Padded on the left, each draws what it draws alone."""
    short, long = prompts(length=4), prompts(length=8)
    ids = torch.cat([F.pad(short, (4, 0), value=PAD), long])
    mask = torch.ones_like(ids)
    mask[0, :4] = 0
    both = model.generate(ids, mask, **GREEDY)
    assert torch.equal(both, torch.cat([model.generate(short, **GREEDY), model.generate(long, **GREEDY)]))
    assert torch.equal(both, model.generate(ids, mask, **GREEDY, use_cache=False))


def test_codes_are_drawn_from_the_scores(model: CompiledModel) -> None:
    """By a seed; at low temperature the most likely ones; several for one prompt."""

    def draw(seed: int, **options: Any) -> Tensor:
        return model.generate(prompts(), generation_mode="image", generator=torch.Generator().manual_seed(seed), **options)

    assert torch.equal(draw(1), draw(1)) and not torch.equal(draw(1), draw(2))
    assert torch.equal(draw(1, temperature=1e-4), model.generate(prompts(), **GREEDY))
    several = draw(1, num_return_sequences=3)
    assert several.shape == (3, 16) and len({tuple(row) for row in several.tolist()}) == 3


def test_first_code_has_the_guided_distribution(model: CompiledModel) -> None:
    """2000 draws against softmax((u + s (c - u)) / t): the total variation of so many from 32 classes stays below 0.08; without the
    temperature it would be 0.4, without guidance 0.23."""
    ids, other = prompts(), prompts()
    other[:, 1:-1] = PAD
    c, u = (run(model, "draw", input_ids=x)[0, -1] for x in (ids, other))
    wanted = ((u + 4.0 * (c - u)) / 3.0).softmax(-1)
    # the other codes are not wanted: a streamer sees the first ones
    first: list[Tensor] = []

    class Enough(Exception):
        pass

    def streamer(codes: Tensor) -> None:
        first.append(codes)
        raise Enough

    options = {"guidance_scale": 4.0, "temperature": 3.0, "num_return_sequences": 2000, "generator": torch.Generator().manual_seed(0)}
    with pytest.raises(Enough):
        model.generate(ids, generation_mode="image", streamer=streamer, **options)
    share = torch.bincount(first[0], minlength=32) / 2000
    assert 0.5 * (share - wanted).abs().sum().item() < 0.08


def test_an_image_end_to_end(model: CompiledModel, processor: Processor) -> None:
    """Prompt → 16 codes → pixels → a picture: clip((x + 1) / 2 * 255)."""
    text = processor.prompt("generate_image", prompt="a red fox")
    assert text == "<|User|>: a red fox\n\n<|Assistant|>:<begin_of_image>"
    inputs = processor(text=text)
    assert inputs["input_ids"][0, 0] == BOS and inputs["input_ids"][0, -1] == BOI
    codes = model.generate(**inputs, **GREEDY)
    pixels = model.generate_image(**inputs, do_sample=False)
    assert codes.shape == (1, 16) and pixels.shape == (1, 3, 16, 16) and not pixels.requires_grad
    assert torch.equal(pixels, run(model, "decode_image", image_ids=codes))
    [made] = processor.pictures(pixels.numpy())
    wanted = np.clip((pixels[0].numpy().transpose(1, 2, 0) + 1) / 2 * 255, 0, 255)
    assert made.size == (16, 16) and np.abs(np.asarray(made) - wanted).max() <= 1.001


def test_half_precision_draws_pictures(processor: Processor) -> None:
    """numpy has no bfloat16: pixels come in float32 whatever the model computes in."""
    model = vlmgraph.compile(spec("janus", "tiny"), dtype="bfloat16")
    pixels = model.generate_image(**processor(text=processor.prompt("generate_image", prompt="a fox")), num_return_sequences=2)
    assert pixels.dtype == torch.float32 and len(processor.pictures(pixels.numpy())) == 2


def test_what_is_saved_draws_the_same(model: CompiledModel, tmp_path: Path) -> None:
    model.save(tmp_path / "janus")
    again = vlmgraph.load(tmp_path / "janus")
    assert again.graph.procedures == model.graph.procedures
    assert torch.equal(again.generate(prompts(), **GREEDY), model.generate(prompts(), **GREEDY))


def code_of(error: pytest.ExceptionInfo[DiagnosticError]) -> str:
    return error.value.diagnostics[0].code


def test_what_cannot_draw_says_so(model: CompiledModel) -> None:
    with pytest.raises(DiagnosticError) as caught:
        lively("llava-1.5").generate_image(prompts())
    assert code_of(caught) == C.NO_GENERATE and "inference.sample_image" in str(caught.value.diagnostics[0].fix)
    with pytest.raises(DiagnosticError) as caught:
        model.generate(prompts(), torch.tensor([[1, 1, 1, 1, 1, 1, 0]]), **GREEDY)
    assert code_of(caught) == C.BAD_INPUT_VALUE
    with pytest.raises(DiagnosticError) as caught:
        model.generate(prompts().float(), **GREEDY)
    assert code_of(caught) == C.BAD_INPUT_DTYPE
    for wrong, code in (
        ({"input_ids": prompts(), "pixel_values": picture()}, C.UNKNOWN_INPUT),
        ({"input_ids": prompts(), "num_beams": 3}, C.UNKNOWN_INPUT),
        ({"input_ids": prompts()[:, :0]}, C.BAD_INPUT_VALUE),
        ({"input_ids": prompts(), "num_return_sequences": 0}, C.BAD_INPUT_VALUE),
        ({"input_ids": prompts()[0]}, C.BAD_INPUT_SHAPE),
    ):
        with pytest.raises(DiagnosticError) as caught:
            model.generate_image(**wrong)
        assert code_of(caught) == code
    with pytest.raises(DiagnosticError) as caught:
        without_words(prompts(), None, None, "janus")
    assert code_of(caught) == C.NO_GENERATE and "pad_token_id" in str(caught.value.diagnostics[0].fix)


@pytest.mark.parametrize(
    ("key", "value", "code", "said"),
    [
        ("program", "draww", C.PROCEDURE_PROGRAM, "did you mean 'draw'?"),
        ("then", "pixelate", C.PROCEDURE_PROGRAM, "programs: "),
        ("program", "generate", C.PROCEDURE_PROGRAM, 'inputs = ["image_ids"]'),
        ("guidence", 5.0, C.UNKNOWN_FIELD, "did you mean 'guidance'?"),
        ("guidance", "much", C.INVALID_FIELD, None),
        ("pad", "<padding>", C.UNKNOWN_TOKEN, "did you mean '<pad>'?"),
    ],
)
def test_mistakes_in_the_procedure_are_found(key: str, value: Any, code: str, said: str | None) -> None:
    found = vlmgraph.check(vlmgraph.read_spec("janus", size="tiny", overrides={f"inference.generate_image.{key}": value}))
    assert [d.code for d in found] == [code] and (said is None or said in str(found[0].fix))


def test_same_codes_as_the_reference(tmp_path: Path) -> None:
    """transformers' JanusForConditionalGeneration on random weights, greedy, with guidance, a prompt padded on the left; then pixels."""
    pytest.importorskip("transformers", minversion="5.0", reason="the reference implementation is that of transformers 5")
    from tests.parity.models import janus

    reference = janus(False)
    settings = reference.generation_config
    settings.generation_kwargs = {"boi_token_id": 94}
    settings.bos_token_id, settings.pad_token_id, settings.eos_token_id = 1, 0, None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        reference.save_pretrained(tmp_path)
    model = vlmgraph.load(tmp_path)
    ids = random_ids(2, 9, low=3, high=94, seed=0)
    ids[:, 0], ids[:, -1] = 1, 94
    ids[1] = torch.tensor([0, 0, 0, 1, *ids[1, 4:].tolist()])
    mask = torch.ones_like(ids)
    mask[1, :3] = 0
    for guidance in (2.0, 5.0):
        wanted = reference.generate(ids, attention_mask=mask, generation_mode="image", do_sample=False, guidance_scale=guidance)
        codes = model.generate(ids, mask, **GREEDY, guidance_scale=guidance, pad_token_id=0)
        assert torch.equal(codes, wanted) and wanted.unique().numel() > 2
    pixels = model.generate_image(ids, mask, do_sample=False, pad_token_id=0)
    close(pixels, reference.decode_image_tokens(wanted).detach().permute(0, 3, 1, 2), 2e-5)


@pytest.mark.parametrize(("vocab", "known"), [(102_400, True), (99, False)])
def test_tokens_of_a_checkpoint(tmp_path: Path, vocab: int, known: bool) -> None:
    """config.json states the image placeholder alone. With the published vocabulary the other ids are the published ones; a smaller one has
    none of them, and the token for the unconditional prompt is asked for in the call."""
    image = 100_581 if known else 95
    words = {"model_type": "llama", "vocab_size": vocab, "hidden_size": 2048}
    parts = {"text_config": words, "vision_config": {}, "vq_config": {"num_patches": 24}}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "janus", "image_token_id": image, **parts}))
    made: Any = import_config(tmp_path / "config.json").spec
    ids = {k: v for k, v in made["tokens"].items() if isinstance(v, int)}
    assert ids["<image_placeholder>"] == image
    if known:
        assert ids == {k: spec("janus").data["tokens"][k] for k in ids} and len(ids) == 7
    else:
        assert ids == {"<image_placeholder>": 95, "<gen_placeholder>": 95}
    assert not [d for d in vlmgraph.check(made) if d.severity == "error"]


# ---- pictures in


def test_pictures_to_understand_are_padded(processor: Processor) -> None:
    """The long side to 56, the short one truncated as in the published code (37 * 0.56 = 20.72 → 20), grey 127 around it, to [-1, 1]."""
    picture = PIL.Image.new("RGB", (100, 37), (255, 255, 255))
    out = processor(images=[picture])["pixel_values"][0]
    grey = np.isclose(out, 127 / 127.5 - 1, atol=1e-6).all((0, 2))
    assert out.shape == (3, 56, 56) and grey.tolist() == [True] * 18 + [False] * 20 + [True] * 18
    assert np.allclose(out[:, 18:38], 1.0)


def test_pictures_to_draw_are_cropped(processor: Processor) -> None:
    """The short side to 16, then the centre: no grey."""
    array = np.zeros((32, 96, 3), dtype=np.uint8)
    array[:, 32:64] = 255
    out = processor(gen_values=[PIL.Image.fromarray(array)])["gen_values"][0]
    assert out.shape == (3, 16, 16) and np.allclose(out[:, :, 1:-1], 1.0)


def test_conversations(processor: Processor) -> None:
    """System sentence, then the picture wrapped into its start and end tokens before the question."""
    inputs = processor.ask("What is this?", images=[PIL.Image.new("RGB", (60, 60))])
    ids = inputs["input_ids"][0].tolist()
    start = ids.index(BOI)
    assert ids[start : start + 18] == [BOI, *[IMAGE] * 16, EOI] and ids.count(IMAGE) == 16 and ids[0] == BOS
    said = processor.decode(ids)
    assert said.startswith("You are a helpful language and vision assistant.") and said.endswith("\nWhat is this?\n\n<|Assistant|>:")
    assert "\n\n<|User|>: " in said


# ---- training


def training() -> dict[str, Tensor]:
    """One row to understand, one to draw; images and padding have no label, the word behind an image has one."""
    ids = torch.cat([understanding(), generation()])
    labels = ids.masked_fill((ids == IMAGE) | (ids == CODE), -100)
    return {"input_ids": ids, "labels": labels, "pixel_values": picture(), "gen_values": target()}


def test_objectives(model: CompiledModel) -> None:
    """Text: cross entropy on words, <end_of_image> among them, none on images. Codes: each predicted by the state before it."""
    inputs = training()
    with torch.no_grad():
        logits = model(**{k: v for k, v in inputs.items() if k != "labels"})["logits"]
        text = model.programs["objective.text"](**inputs)["loss"]
        image = model.programs["objective.image"](**inputs)["loss"]
    close(text, next_token_loss(logits, inputs["labels"]))
    assert inputs["labels"][1, 23] == EOI and not bool((inputs["labels"][0, 3:19] != -100).any())
    codes = run(model, "encode_codes", gen_values=inputs["gen_values"])
    scores = run(model, "draw", input_ids=inputs["input_ids"][1:], image_ids=codes)[0, 6:22].double()
    close(image, -scores.log_softmax(-1)[torch.arange(16), codes[0]].mean())
    other = {**inputs, "gen_values": -inputs["gen_values"]}
    assert model.programs["objective.image"](**other)["loss"] != image


def test_labels_with_placeholders_do_not_teach_them(model: CompiledModel) -> None:
    """Ids given as labels: placeholders are never words to predict."""
    inputs = training()
    with torch.no_grad():
        plain = model.programs["objective.text"](**inputs)["loss"]
        careless = model.programs["objective.text"](**{**inputs, "labels": inputs["input_ids"]})["loss"]
    close(careless, plain)


@pytest.mark.parametrize(
    ("stage", "parts"),
    [
        ("adaptors", {"und_adaptor", "gen_adaptor", "gen_embed", "gen_head"}),
        ("unified", {"und_adaptor", "gen_adaptor", "gen_embed", "gen_head", "embed", "llm", "head"}),
        ("sft", {"vision", "und_adaptor", "gen_adaptor", "gen_embed", "gen_head", "embed", "llm", "head"}),
    ],
)
def test_stages(stage: str, parts: set[str]) -> None:
    """Table 1: both losses train the parts of the stage and no others; the tokenizer of images is never among them."""
    model = fresh("janus")
    names = trains(model, stage, training())
    assert {n.split(".")[0] for n in names} == parts and names == {n for n, _ in model.named_parameters() if n.split(".")[0] in parts}


def test_both_losses_count_once_in_every_stage() -> None:
    """One sum; what a task weighs is the mix of data alone."""
    weights = [dict(s.objectives) for s in graph("janus").stages.values()]
    assert list(graph("janus").stages) == ["adaptors", "unified", "sft"] and weights == [{"text": 1.0, "image": 1.0}] * 3
    assert [s.after for s in graph("janus").stages.values()] == ["", "adaptors", "unified"]


def test_trained_parameters_of_the_published_size() -> None:
    """What the report counts for a stage is what trains in it: all but the tower and the tokenizer, then all but the tokenizer."""
    trainable = {row.stage: row.trainable for row in measured("janus").stages}
    model = meta("janus")
    assert trainable == {stage: sum(model.get_parameter(n).numel() for n in begin(model, stage)) for stage in trainable}
    assert trainable["unified"] == 2_076_636_811 - 303_688_704 - 71_883_403 and trainable["sft"] == 2_076_636_811 - 71_883_403


@pytest.mark.parametrize(("objective", "reached"), [("text", {"und_adaptor"}), ("image", {"gen_adaptor", "gen_embed", "gen_head"})])
def test_each_objective_trains_its_own_path(objective: str, reached: set[str]) -> None:
    """A text loss on understanding reaches no part of generation, and the other way round; each falls by itself."""
    model = fresh("janus")
    begin(model, "adaptors")
    whole = training()
    row = slice(0, 1) if objective == "text" else slice(1, 2)
    image = "pixel_values" if objective == "text" else "gen_values"
    inputs = {"input_ids": whole["input_ids"][row], image: whole[image]} | ({"labels": whole["labels"][row]} if objective == "text" else {})
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=2e-3)
    losses = []
    for _ in range(4):
        optimizer.zero_grad()
        loss = model.programs[f"objective.{objective}"](**inputs)["loss"]
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert {n.split(".")[0] for n, p in model.named_parameters() if p.grad is not None and bool(p.grad.any())} == reached
