"""Flamingo (arXiv 2204.14198) and OpenFlamingo: gates that start shut, one image at a time, a resampler for images and clips."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.architectures.common import (
    built,
    changed,
    close,
    count,
    fresh,
    graph,
    lively,
    loss_of,
    measured,
    meta,
    moved,
    next_token_loss,
    noise,
    placed,
    published,
    random_ids,
    trains,
)
from vlmgraph.components.connector.resampler import Resampler
from vlmgraph.components.vision.nfnet import NFNet
from vlmgraph.lower.generate import new_caches
from vlmgraph.lower.model import CompiledModel
from vlmgraph.passes.expect import visual_tokens
from vlmgraph.train.stage import begin

IMAGE, CHUNK, PAD = 318, 317, 319
GATES = ("llm.inserts.xattn.1.gates.cross.weight", "llm.inserts.xattn.1.gates.mlp.weight")


def page(*places: int, length: int = 12, seed: int = 2) -> Tensor:
    """One row of words with image markers at these places."""
    return placed(random_ids(1, length, seed=seed), IMAGE, *((0, place, 1) for place in places))


def images(count: int, frames: int = 1, seed: int = 1) -> Tensor:
    return noise(1, count, frames, 3, 42, 42, seed=seed)


def logits(pixels: Tensor | None, ids: Tensor, **inputs: Tensor) -> Tensor:
    with torch.no_grad():
        return lively("flamingo")(pixel_values=pixels, input_ids=ids, **inputs)["logits"]


# ---- counts (tables 1 and 5; the catalogue's arithmetic)


def test_counts_of_openflamingo() -> None:
    counts = published("flamingo")
    assert counts["resampler"] == 63_019_008
    assert count(meta("flamingo"), "llm.xattn") == 881_000_496 == 24 * 36_708_354
    nine = published("flamingo", "9b")
    assert nine["resampler"] == 63_019_008 and count(meta("flamingo", "9b"), "llm.xattn") == 1_115_815_952


@pytest.mark.parametrize(
    ("variant", "blocks", "width", "heads", "every", "gated"),
    [
        ("flamingo-3b", 24, 2048, 16, 1, 1.158),
        ("flamingo-9b", 40, 4096, 32, 4, 1.80),
        ("flamingo-80b", 80, 8192, 64, 7, 8.36),
    ],
)
def test_sizes_of_the_paper(variant: str, blocks: int, width: int, heads: int, every: int, gated: float) -> None:
    """Gated layers before blocks 0, n, 2n, ...; their parameters by arithmetic, where the paper's table says 1.2, 1.6 and 10 billion."""
    counts, model = published("flamingo", None, variant), meta("flamingo", None, variant)
    assert [int(i) for i in model.llm.inserts["xattn"]] == list(range(0, blocks, every)) and len(model.llm.layers) == blocks
    cross = model.llm.inserts["xattn"]["0"].cross
    assert cross.q.weight.shape == (heads * 128, width) and cross.k.weight.shape == (heads * 128, 1536)
    assert round(count(model, "llm.xattn") / 1e9, 2 if gated != 1.158 else 3) == gated
    assert counts["resampler"] == 170_038_272  # 170.0 million in the catalogue, without norms and embeddings; published 194
    stage = next(s for s in measured("flamingo", None, variant).stages if s.stage == "train")
    begin(model, "train")
    assert stage.trainable == sum(p.numel() for p in model.parameters() if p.requires_grad)
    if variant == "flamingo-3b":
        assert abs(counts["total"] / 1e9 - 3.2) < 0.12


def test_vision_encoder_of_the_paper() -> None:
    """NFNet-F6 has 435 million parameters with its last convolution; 320 pixels give 10 x 10 places."""
    whole = NFNet(layers=(7, 14, 42, 21), final=3072)
    with torch.device("meta"):
        built_ = whole.build()
    assert whole.total() == sum(p.numel() for p in built_.parameters()) == 435_286_116
    assert [str(d) for d in graph("flamingo", None, "flamingo-3b").types()["vision"].dims] == ["B", "M", "F", "100", "1536"]


def test_an_nfnet_keeps_its_variance() -> None:
    """Standardised filters, scaled activations and beta = 1 / sqrt(expected variance) do what norms do elsewhere (arXiv 2102.06171)."""
    torch.manual_seed(0)
    net = NFNet(layers=(2, 2, 2, 2), widths=(64, 64, 128, 128), stem=64, group=16).build()
    block = net.stages[1][1]
    with torch.no_grad():
        for gain in (b.gain for stage in net.stages for b in stage):
            gain.fill_(1.0)
        x = torch.randn(4, 64, 16, 16)
        before, after = (f(x * math.sqrt(1.04)) for f in (nn.Identity(), block))
        assert 0.9 < block.conv1(torch.randn(2, 64, 16, 16)).var() < 1.1  # unit in, unit out
        assert before.var() < after.var() < before.var() + 0.2
        block.gain.zero_()
        assert torch.equal(block(x), x)  # the branch starts shut
        scaled = net(noise(1, 3, 64, 64))
        net.stem[0].weight.mul_(3.0).add_(1.0)
        close(net(noise(1, 3, 64, 64)), scaled, 1e-3)  # scale and mean of a filter do not count, but for epsilon
    assert net(noise(1, 3, 96, 64)).shape == (1, 6, 128)


def test_visual_tokens() -> None:
    """256 patch tokens without the class token; 64 latents for an image or a clip of any length."""
    types = graph("flamingo").types()
    assert [str(d) for d in types["vision[1:]"].dims] == ["B", "M", "F", "256", "1024"]
    assert [str(d) for d in types["resampler"].dims] == ["B", "M", "64", "1024"]
    assert set(visual_tokens(graph("flamingo")).values()) == {64}
    encode = lively("flamingo").programs["encode_image"]
    for frames in (1, 8):
        assert encode(pixel_values=images(2, frames))["resampler"].shape == (1, 2, 5, 40)
    for tokens in (1, 7, 400):
        assert lively("flamingo").resampler(noise(1, 1, tokens, 40)).shape == (1, 5, 40)


# ---- the resampler (section 3.1.1)


def by_hand(weights: Mapping[str, Tensor], media: Tensor, layers: int, heads: int) -> Tensor:
    """Figure 5: media [K, d] → latents. Keys and values are of the media and the latents; the media never change."""

    def norm(x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], weights[f"{name}.weight"], weights[f"{name}.bias"], 1e-5)

    x = weights["queries"]
    for i in range(layers):
        layer = f"layers.{i}"
        latents = norm(x, f"{layer}.norms.attention")
        keys = torch.cat([norm(media, f"{layer}.norms.media"), latents])
        q, k, v = (
            (y @ weights[f"{layer}.attention.{p}.weight"].T).unflatten(-1, (heads, -1)).transpose(0, 1)
            for y, p in ((latents, "q"), (keys, "k"), (keys, "v"))
        )
        scores = (q @ k.transpose(-1, -2)) * q.shape[-1] ** -0.5
        x = x + (scores.softmax(-1) @ v).transpose(0, 1).flatten(1) @ weights[f"{layer}.attention.out.weight"].T
        hidden = F.gelu(norm(x, f"{layer}.norms.mlp") @ weights[f"{layer}.mlp.fc1.weight"].T)
        x = x + hidden @ weights[f"{layer}.mlp.fc2.weight"].T
    return norm(x, "final_norm")


@torch.no_grad()
def test_resampler_equations() -> None:
    resampler = lively("flamingo").resampler
    media = noise(2, 3, 9, 40)  # two clips of three frames
    out = resampler(media)
    for i in range(2):
        close(out[i], by_hand(resampler.state_dict(), media[i].flatten(0, 1), 2, 3))


@torch.no_grad()
def test_no_place_code_but_time_embeddings() -> None:
    """Places of an image may be permuted; frames may not, once they have embeddings."""
    tiny = {"d": 40, "queries": 5, "layers": 2, "heads": 3, "head_dim": 6}
    media = noise(1, 4, 9, 40)
    order = torch.tensor([3, 1, 0, 2])
    timed, still = Resampler(**tiny, frames=4).build(), Resampler(**tiny).build()
    for module in (timed, still):
        close(module(media[:, :, torch.randperm(9, generator=torch.Generator().manual_seed(3))]), module(media))
    close(still(media[:, order]), still(media))
    assert not torch.allclose(timed(media[:, order]), timed(media), atol=1e-2)
    paper = lively("flamingo", "tiny", "flamingo-3b")
    assert paper.resampler.frames is not None and paper.resampler.frames.shape == (3, 40)
    clip = noise(1, 1, 3, 3, 64, 64)
    with changed(paper, "resampler.frames"):
        other = paper.programs["encode_image"](pixel_values=clip)["resampler"]
    assert not torch.equal(other, paper.programs["encode_image"](pixel_values=clip)["resampler"])


@torch.no_grad()
def test_more_frames_than_embeddings() -> None:
    """Section 3.1.1 and appendix: trained on 8 frames, tested on 30 by linear interpolation of the time embeddings."""
    resampler = Resampler(d=40, queries=5, layers=1, heads=3, head_dim=6, frames=8).build()
    table = resampler.frames
    media = noise(1, 30, 4, 40)
    places = torch.arange(30) * 7 / 29
    low = places.floor().long().clamp(max=6)
    stretched = table[low] + (places - low)[:, None] * (table[low + 1] - table[low])
    still = Resampler(d=40, queries=5, layers=1, heads=3, head_dim=6).build()
    still.load_state_dict({k: v for k, v in resampler.state_dict().items() if k != "frames"})
    close(resampler(media), still(media + stretched[:, None]))
    close(resampler(media[:, :1]), still(media[:, :1] + table[0]))  # a still image is the first frame


# ---- gated cross-attention (section 3.1.2)


def language_model_alone(model: CompiledModel, ids: Tensor) -> Tensor:
    """Logits of the frozen decoder without anything inserted."""
    stack = copy.deepcopy(model.llm)
    stack.inserts = nn.ModuleDict()
    return model.head(stack(model.embed(ids)))


@torch.no_grad()
def test_the_identity_at_first() -> None:
    """Gates are tanh(0): the logits are those of the frozen language model, bit by bit, whatever the images are."""
    model, ids = built("flamingo"), page(2, 7)
    wanted = language_model_alone(model, ids)
    for pixels in (images(2), 100 * images(2, seed=3), None):
        assert torch.equal(model(pixel_values=pixels, input_ids=ids)["logits"], wanted)
    for gate in GATES:
        with changed(model, gate):
            assert not torch.equal(model(pixel_values=images(2), input_ids=ids)["logits"], wanted)


def test_first_gradients() -> None:
    """At the start the gates learn and what they shut out does not."""
    model = fresh("flamingo")
    begin(model, "train")
    ids = page(2, 7)
    loss_of(model, "train", {"pixel_values": images(2), "input_ids": ids, "labels": ids}).backward()
    for name, parameter in model.llm.inserts["xattn"].named_parameters():
        assert parameter.grad is not None and bool(parameter.grad.any()) == ("gates" in name), name
    assert all(not bool(p.grad.any()) for p in model.resampler.parameters())


@torch.no_grad()
def test_gated_block_equations() -> None:
    """y + tanh(a) * XAttn(norm y, media); y + tanh(b) * FFW(y). Media are not normalised; 8 heads of 64 in the released models."""
    block = lively("flamingo").llm.inserts["xattn"]["1"]
    weights = block.state_dict()
    y, media, allowed = noise(1, 6, 48), noise(1, 10, 40, seed=3), torch.zeros(1, 6, 10, dtype=torch.bool)
    allowed[0, 2:4, :5], allowed[0, 4:, 5:] = True, True

    def norm(x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x, (48,), weights[f"norms.{name}.weight"], weights[f"norms.{name}.bias"], 1e-5)

    q, k, v = (
        (x @ weights[f"cross.{p}.weight"].T).unflatten(-1, (4, 5)).transpose(1, 2)
        for x, p in ((norm(y, "cross"), "q"), (media, "k"), (media, "v"))
    )
    shares = (q @ k.transpose(-1, -2) / 5**0.5).masked_fill(~allowed[:, None], float("-inf")).softmax(-1).nan_to_num(0.0)
    wanted = y + weights["gates.cross.weight"].tanh() * ((shares @ v).transpose(1, 2).flatten(2) @ weights["cross.out.weight"].T)
    hidden = F.gelu(norm(wanted, "mlp") @ weights["mlp.fc1.weight"].T)
    wanted = wanted + weights["gates.mlp.weight"].tanh() * (hidden @ weights["mlp.fc2.weight"].T)
    close(block(y, media, allowed), wanted)
    assert weights["gates.cross.weight"].numel() == weights["gates.mlp.weight"].numel() == 1
    released = meta("flamingo").llm.inserts["xattn"]["0"]
    assert released.cross.q.weight.shape == (8 * 64, 2048) and released.mlp.fc1.weight.shape == (4 * 2048, 2048)
    assert not any(name.endswith("bias") for name, _ in released.named_parameters() if not name.startswith("norms"))


@torch.no_grad()
def test_placement() -> None:
    """The gated layer stands in front of a whole decoder block, not inside it; OpenFlamingo's is at (index + 1) mod n = 0."""
    assert list(lively("flamingo").llm.inserts["xattn"]) == ["1", "3"]
    assert list(lively("flamingo", "tiny", "flamingo-3b").llm.inserts["xattn"]) == ["0", "3"]
    model, ids = lively("flamingo"), page(0)
    stack, x = model.llm, model.embed(ids)
    media = model.programs["encode_image"](pixel_values=images(1))["resampler"]
    allowed = model.xmask(media=media, ids=ids)["out"]
    seen: list[Tensor] = []
    handles = [
        stack.layers[0].register_forward_hook(lambda *a: seen.append(a[2])),
        stack.layers[1].register_forward_pre_hook(lambda *a: seen.append(a[1][0])),
    ]
    try:
        stack(x, media=media.flatten(1, 2), media_mask=allowed)
    finally:
        for handle in handles:
            handle.remove()
    close(seen[1], stack.inserts["xattn"]["1"](seen[0], media.flatten(1, 2), allowed))


def test_activations() -> None:
    """Squared ReLU in the paper's new parts, GELU in its frozen decoder; exact GELU in OpenFlamingo."""
    paper, released = lively("flamingo", "tiny", "flamingo-3b"), lively("flamingo")
    x = torch.tensor([-2.0, 0.5, 3.0])
    for mlp in (paper.resampler.layers[0].mlp, paper.llm.inserts["xattn"]["0"].mlp):
        assert mlp.act(x).tolist() == [0.0, 0.25, 9.0]
    for mlp in (paper.llm.layers[0].mlp, released.resampler.layers[0].mlp, released.llm.inserts["xattn"]["1"].mlp):
        close(mlp.act(x), F.gelu(x))


# ---- one image at a time (section 3.1.3)


def cross_outputs(pixels: Tensor, ids: Tensor) -> Tensor:
    """What the first gated layer's cross-attention adds to the stream, [1, T, d]."""
    model = lively("flamingo")
    norms, seen = model.llm.inserts["xattn"]["1"].norms, []
    handles = [norms[name].register_forward_pre_hook(lambda _, args: seen.append(args[0])) for name in ("cross", "mlp")]
    try:
        logits(pixels, ids)
    finally:
        for handle in handles:
            handle.remove()
    return seen[1] - seen[0]


def test_a_token_sees_the_last_image_alone() -> None:
    """phi(t) counts the markers up to t; the marker itself sees its own image."""
    ids, pixels = page(2, 7), images(2)
    first, second = pixels.clone(), pixels.clone()
    first[0, 0] += 1
    second[0, 1] += 1
    before = cross_outputs(pixels, ids)
    assert moved(before, cross_outputs(first, ids)) == [2 <= t < 7 for t in range(12)]
    assert moved(before, cross_outputs(second, ids)) == [t >= 7 for t in range(12)]
    assert moved(logits(pixels, ids), logits(second, ids)) == [t >= 7 for t in range(12)]
    assert moved(logits(pixels, ids), logits(first, ids)) == [t >= 2 for t in range(12)]  # earlier images go on through self-attention


def test_nothing_before_the_first_image() -> None:
    """phi = 0: the cross-attention is exactly zero, not an average over all images; the gated MLP acts all the same."""
    ids, pixels = page(4), images(1)
    out = cross_outputs(pixels, ids)
    assert not out[0, :4].any() and bool(out[0, 4:].any())
    assert torch.isfinite(logits(pixels, ids)).all()
    close(logits(pixels, ids)[:, :4], logits(None, ids)[:, :4])
    with changed(lively("flamingo"), "llm.inserts.xattn.1.mlp.fc1.weight"):
        other = logits(pixels, ids)
    assert all(moved(logits(pixels, ids), other))


def test_text_alone_is_not_the_frozen_model_after_training() -> None:
    ids = page()
    with changed(lively("flamingo"), "llm.inserts.xattn.1.mlp.fc1.weight"):
        other = logits(None, ids)
    assert all(moved(logits(None, ids), other))
    with changed(lively("flamingo"), "llm.inserts.xattn.1.cross.q.weight"):
        assert torch.equal(logits(None, ids), logits(None, ids))
        assert torch.equal(logits(None, ids), logits_without_cross(ids))


def logits_without_cross(ids: Tensor) -> Tensor:
    model = lively("flamingo")
    with torch.no_grad():
        return model.head(model.llm(model.embed(ids)))


def test_interleaved_pages_of_different_length() -> None:
    """A batch of pages: text first, two images in a row, one image beside an unused one, padding on the left."""
    rows = [page(3, 8), page(0, 1, seed=3), page(2, seed=4)]
    pixels = torch.cat([images(2, seed=s) for s in (1, 2, 3)])
    whole = logits(pixels, torch.cat(rows))
    for i, row in enumerate(rows):
        close(whole[i : i + 1], logits(pixels[i : i + 1], row))
    unused = pixels.clone()
    unused[2, 1] += 1
    assert torch.equal(whole, logits(unused, torch.cat(rows)))
    padded = torch.cat([torch.full((1, 3), PAD), rows[0]], 1)
    mask = (padded != PAD).long()
    close(logits(pixels[:1], padded, attention_mask=mask)[:, 3:], whole[:1])


def test_clips() -> None:
    """A clip is read as one medium: every frame counts, the tokens do not grow."""
    ids, pixels = page(1), images(1, frames=3)
    for frame in range(3):
        other = pixels.clone()
        other[0, 0, frame] += 1
        assert any(moved(logits(pixels, ids), logits(other, ids)))


@torch.no_grad()
def test_new_tokens_stay_with_the_last_image() -> None:
    model, ids = lively("flamingo"), torch.cat([page(2, 7), page(0, 4, seed=3)])
    pixels = torch.cat([images(2), images(2, seed=2)])
    out = model.generate(input_ids=ids, pixel_values=pixels, max_new_tokens=4)
    assert torch.equal(out, model.generate(input_ids=ids, pixel_values=pixels, max_new_tokens=4, use_cache=False))
    program, cache = model.programs["generate"], new_caches(model, "generate")
    first = program.run({"input_ids": ids, "pixel_values": pixels}, cache)
    carried = {key.partition(".")[2]: value for key, value in first.items() if key.startswith("carry.")}
    assert carried["xmask.seen"].tolist() == [2, 2]
    new = random_ids(2, 1, seed=6)
    step = program.run({"input_ids": new, **carried}, cache, step=True)["logits"]
    close(step, model(input_ids=torch.cat([ids, new], 1), pixel_values=pixels)["logits"][:, -1:])


# ---- training (section 3.2)


@torch.no_grad()
def test_loss_leaves_out_images_and_padding() -> None:
    ids = page(2, 7)
    ids[0, -2:] = PAD
    given = {"pixel_values": images(2), "input_ids": ids}
    loss = lively("flamingo").programs["objective.lm"](**given, labels=ids)["loss"].item()
    assert abs(loss - next_token_loss(logits(images(2), ids), ids, (IMAGE, PAD)).item()) < 1e-5


@pytest.mark.parametrize("variant", [None, "flamingo-3b"])
def test_training(variant: str | None) -> None:
    """Resampler, gated layers and the new rows of the table train; vision and language model stay bit by bit as they were."""
    model = fresh("flamingo", "tiny", variant)
    with torch.no_grad():
        for name, parameter in model.llm.named_parameters():
            if "gates" in name:
                parameter.fill_(0.4)  # shut gates let nothing through to what they gate
        for name, parameter in model.vision.named_parameters():
            if name.endswith("gain") and parameter.dim() == 0:
                parameter.fill_(1.0)
    side = 64 if variant else 42
    ids = torch.cat([page(2, 7), page(0, 4, seed=3)])
    ids[0, 6] = ids[1, 3] = CHUNK
    names = trains(model, "train", {"pixel_values": noise(2, 2, 3, 3, side, side), "input_ids": ids, "labels": ids})
    rows = {"embed.added.weight"} if variant is None else {"embed.added.weight", "head.added.weight"}  # MPT's head shares its table
    assert (model.head.added.weight is model.embed.added.weight) == (variant is None)
    assert all(".inserts.xattn." in n for n in names if n.startswith("llm."))
    assert {n for n in names if not n.startswith(("resampler.", "llm."))} == rows


def test_tower_is_read_before_its_last_norm() -> None:
    model = lively("flamingo")
    assert model.vision.final_norm is None and meta("flamingo").vision.final_norm is None
    with torch.no_grad():
        tokens = model.vision(images(1)[:, 0, 0])
        wanted = model.resampler(tokens[:, None, 1:])
        close(model.programs["encode_image"](pixel_values=images(1))["resampler"][0], wanted)
