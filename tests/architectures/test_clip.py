"""CLIP (Radford et al. 2021, arXiv 2103.00020): two towers and a symmetric softmax over the batch."""

from __future__ import annotations

import math
import multiprocessing

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
    meta,
    noise,
    processor,
    published,
    random_ids,
    trains,
)
from tests.architectures.ranks import contrastive
from vlmgraph.ir.dims import Dim
from vlmgraph.lower.zero_shot import classify
from vlmgraph.nn.losses import Contrastive
from vlmgraph.report.tokens import visual_dims
from vlmgraph.train.step import after_step

START, END = 318, 319  # of the tiny size


@pytest.fixture(scope="module")
def model():
    return lively("clip")


@pytest.fixture(scope="module")
def images() -> Tensor:
    return noise(4, 3, 42, 42)


@pytest.fixture(scope="module")
def texts() -> Tensor:
    """Four texts of 3, 6, 4 and 8 words between start and end, zeros behind."""
    ids = torch.zeros(4, 12, dtype=torch.long)
    words = random_ids(4, 12)
    for row, length in enumerate((3, 6, 4, 8)):
        ids[row, 0], ids[row, 1 : 1 + length], ids[row, 1 + length] = START, words[row, :length], END
    return ids


def tower_features(model, images: Tensor) -> Tensor:
    """ln_post of the class token alone, then the projection (section 2.4)."""
    s = by_hand.state(model)
    x = by_hand.clip_vision(by_hand.below(s, "vision."), images, heads=5)[-1][:, 0]
    return by_hand.layer_norm(s, "vision.final_norm", x, 1e-5) @ s["image_proj.proj.weight"].T


def text_features(model, ids: Tensor) -> Tensor:
    """The final norm's state at the largest id, then the projection (section 2.4)."""
    s = by_hand.state(model)
    x = s["embed.tokens.weight"][ids] + s["embed.positions.weight"][: ids.shape[1]]
    x = by_hand.clip_blocks(by_hand.below(s, "text."), x, heads=4, causal=True)[-1]
    x = by_hand.layer_norm(s, "text.final_norm", x, 1e-5)[torch.arange(len(ids)), ids.argmax(1)]
    return x @ s["text_proj.proj.weight"].T


def unit(x: Tensor) -> Tensor:
    return x / x.square().sum(-1, keepdim=True).sqrt()


def loss_by_hand(images: Tensor, texts: Tensor, scale: float) -> Tensor:
    """(CE(logits, arange) + CE(logits transposed, arange)) / 2 (section 2.3, figure 3)."""
    logits = scale * unit(images.double()) @ unit(texts.double()).T
    own = torch.arange(len(logits))
    return -(logits.log_softmax(1)[own, own].mean() + logits.log_softmax(0)[own, own].mean()) / 2


# ---- published numbers


@pytest.mark.parametrize(
    ("size", "total", "tokens"),
    [(None, 151_277_313, 50), ("b16", 149_620_737, 197), ("l14", 427_616_513, 257), ("l14-336", 427_944_193, 577)],
)
def test_published_parameters_and_tokens(size: str | None, total: int, tokens: int) -> None:
    """Table 20 and the released models; (image / patch)^2 + 1 tokens."""
    assert published("clip", size)["total"] == total
    assert list(visual_dims(graph("clip", size)).values()) == [Dim.of(tokens)]
    side = graph("clip", size).inputs["pixel_values"].dims[-1].constant
    assert meta("clip", size).vision(torch.empty(2, 3, side, side, device="meta")).shape[1] == tokens


def test_parameters_by_part() -> None:
    counts = published("clip")
    assert counts["vision"] + counts["image_proj"] == 87_849_216
    assert counts["embed"] + counts["text"] + counts["text_proj"] == 63_428_096
    assert counts["similarity"] == 1, "one scalar"


@pytest.mark.parametrize(
    ("variant", "total", "tokens"),
    [
        ("rn50", 102_007_137, 49),
        ("rn101", 119_688_033, 49),
        ("rn50x4", 178_300_601, 81),
        ("rn50x16", 290_979_217, 144),
        ("rn50x64", 623_258_305, 196),
    ],
)
def test_resnet_parameters_and_places(variant: str, total: int, tokens: int) -> None:
    """Table 19 and the released models; (image / 32)^2 places are pooled."""
    assert published("clip", None, variant)["total"] == total
    assert list(visual_dims(graph("clip", None, variant)).values()) == [Dim.of(tokens)]


# ---- names


def test_inputs_and_outputs_go_by_the_names_of_transformers(model, images: Tensor, texts: Tensor) -> None:
    out = model(pixel_values=images[:3], input_ids=texts, attention_mask=torch.ones_like(texts))
    shapes = {name: tuple(value.shape) for name, value in out.items()}
    assert shapes == {"logits_per_image": (3, 4), "logits_per_text": (4, 3), "image_embeds": (3, 28), "text_embeds": (4, 28)}
    assert torch.equal(out["logits_per_text"], out["logits_per_image"].T)


def test_each_tower_runs_alone(model, images: Tensor, texts: Tensor) -> None:
    both = model(pixel_values=images, input_ids=texts)
    image, text = model.programs["encode_image"], model.programs["encode_text"]
    assert torch.equal(image(pixel_values=images)["image_embeds"], both["image_embeds"])
    assert torch.equal(text(input_ids=texts)["text_embeds"], both["text_embeds"])
    assert {n.component for n in image.graph().nodes} & {"embed", "text", "eot", "text_proj"} == set()
    assert {n.component for n in text.graph().nodes} & {"vision", "image_proj"} == set()


# ---- towers (section 2.4)


def test_image_tower_by_hand(model, images: Tensor) -> None:
    """Patches without bias, class token, positions, ln_pre before the blocks, pre-norm blocks with QuickGELU, ln_post on the class token,
    a bias-free projection; normalised after it."""
    assert "vision.patch.proj.bias" not in model.state_dict() and "image_proj.proj.bias" not in model.state_dict()
    with torch.no_grad():
        close(model.programs["encode_image"](pixel_values=images)["image_embeds"], unit(tower_features(model, images)))


def test_text_tower_by_hand(model, texts: Tensor) -> None:
    """Tokens plus learned positions, causal pre-norm blocks with QuickGELU, a final norm, the state at end-of-text, projected."""
    assert "text_proj.proj.bias" not in model.state_dict()
    with torch.no_grad():
        close(model.programs["encode_text"](input_ids=texts)["text_embeds"], unit(text_features(model, texts)))


@pytest.mark.parametrize("tower", ["vision", "text"])
def test_both_towers_use_quick_gelu(model, tower: str) -> None:
    """x * sigmoid(1.702 x), which exact GELU misses by up to 0.02: models without it do not match the released weights."""
    x = torch.linspace(-5, 5, 101)
    for layer in getattr(model, tower).layers:
        close(layer.mlp.act(x), x * torch.sigmoid(1.702 * x), 1e-6)
        assert (layer.mlp.act(x) - torch.nn.functional.gelu(x)).abs().max() > 0.01


def test_the_last_norm_acts_on_the_class_token_only_through_the_feature(model, images: Tensor) -> None:
    """Hidden states are those before ln_post; the feature is behind it."""
    with torch.no_grad():
        hidden = model.vision(images, taps=(2,))["hidden.2"]
        feature = model.programs["encode_image"](pixel_values=images)["image_embeds"]
        with changed(model, "vision.final_norm"):
            assert torch.equal(model.vision(images, taps=(2,))["hidden.2"], hidden)
            assert not torch.allclose(model.programs["encode_image"](pixel_values=images)["image_embeds"], feature, atol=1e-3)


def test_patch_tokens_reach_the_feature_through_attention_alone(model, images: Tensor) -> None:
    """No pooling over patches: what the last block gives at patch positions is not read."""
    feature = model.programs["encode_image"]
    with torch.no_grad():
        before = feature(pixel_values=images)["image_embeds"]
        last = model.vision.layers[-1]
        handle = last.register_forward_hook(lambda _, __, y: torch.cat([y[:, :1], y[:, 1:] + 3.0], 1))
        try:
            assert torch.equal(feature(pixel_values=images)["image_embeds"], before)
        finally:
            handle.remove()


def test_tokens_behind_the_end_change_nothing(model, texts: Tensor) -> None:
    """The causal mask: the feature is bit-identical whatever stands behind end-of-text."""
    feature = model.programs["encode_text"]
    other = texts.clone()
    for row, end in enumerate((texts == END).int().argmax(1).tolist()):
        other[row, end + 1 :] = random_ids(texts.shape[1] - end - 1, seed=77 + row)
    before = feature(input_ids=texts)["text_embeds"]
    assert torch.equal(feature(input_ids=other)["text_embeds"], before)
    real = (texts != 0).long()
    close(feature(input_ids=other, attention_mask=real)["text_embeds"], before, 1e-6)
    for at in (0, 1, 2, 3):  # and every token before it counts
        changed_ids = texts.clone()
        changed_ids[:, at] = 5
        assert ((feature(input_ids=changed_ids)["text_embeds"] - before).abs().amax(1) > 1e-4).all()


@pytest.mark.parametrize("at", ["first", "largest"])
def test_padding_with_the_end_token_takes_the_first_of_them(texts: Tensor, at: str) -> None:
    """The original pads with 0, transformers with end-of-text. Both by the token's id and by the largest id, the first one is meant."""
    own = {"type": "op.gather_states", "at": at} | ({"token": "<|endoftext|>"} if at == "first" else {})
    other = vlmgraph.compile({"extends": "clip", **tiny_tables(), "components": {**tiny_tables()["components"], "eot": own}})
    padded = texts.clone()
    for row, end in enumerate((texts == END).int().argmax(1).tolist()):
        padded[row, end:] = END
    feature = other.programs["encode_text"]
    assert torch.equal(feature(input_ids=padded)["text_embeds"], feature(input_ids=texts)["text_embeds"])


def tiny_tables() -> dict:
    return {**vlmgraph.read_spec("clip").sizes["tiny"], "expect": {"remove": True}}


def test_a_text_without_end_is_refused(model) -> None:
    with pytest.raises(vlmgraph.diagnostics.DiagnosticError):
        model.programs["encode_text"](input_ids=random_ids(1, 5))


def test_features_are_normalised_after_the_projection(model, images: Tensor, texts: Tensor) -> None:
    """Scaling a feature before normalisation changes nothing: by a power of two, not one bit. The projection is linear, nothing stands
    between it and the norm."""
    with torch.no_grad():
        before = model(pixel_values=images, input_ids=texts)
        for name in ("image_embeds", "text_embeds"):
            assert torch.allclose(before[name].norm(dim=-1), torch.ones(4), atol=1e-6)
        for projection in (model.image_proj.proj, model.text_proj.proj):
            kept = projection.weight.clone()
            projection.weight.mul_(4)
            after = model(pixel_values=images, input_ids=texts)
            projection.weight.copy_(kept)
            assert all(torch.equal(after[name], before[name]) for name in before)


# ---- residual networks (section 2.4)


@pytest.fixture(scope="module")
def resnet():
    return lively("clip", variant="rn50")


def test_attention_pooling_by_hand(resnet) -> None:
    """The mean is put in front, all get learned positions, and the mean alone asks; one output projection, no other behind it."""
    images = noise(2, 3, 48, 48)
    s = by_hand.state(resnet)
    with torch.no_grad():
        x = resnet.vision(images).double()
        assert x.shape == (2, 36, 80)
        x = torch.cat([x.mean(1, keepdim=True), x], 1) + s["image_proj.positions"]
        pool = by_hand.below(s, "image_proj.")
        q, k, v = (by_hand.linear(pool, f"attention.{n}", x) for n in "qkv")
        wanted = by_hand.linear(pool, "attention.out", by_hand.softmax_attention(q, k, v, 5, causal=False))[:, 0]
        close(resnet.programs["encode_image"](pixel_values=images)["image_embeds"], unit(wanted))


def test_resnet_is_the_modified_one(resnet) -> None:
    """A stem of three convolutions, strides 2, 1, 1, and an average pool; strided steps pool before a convolution of stride 1."""
    stem = resnet.vision.stem
    assert [(m.kernel_size[0], m.stride[0]) for m in (stem.conv1, stem.conv2, stem.conv3)] == [(3, 2), (3, 1), (3, 1)]
    assert stem(noise(1, 3, 48, 48)).shape[-1] == 12
    convolutions = {n: m for n, m in resnet.vision.named_modules() if isinstance(m, torch.nn.Conv2d)}
    assert [n for n, m in convolutions.items() if m.stride != (1, 1)] == ["stem.conv1"]
    assert all(m.bias is None for m in convolutions.values())
    block = resnet.vision.stages[1][0]
    with torch.no_grad():  # the mean of 2 x 2 places is all that the strided step's last convolution and shortcut see
        x = noise(1, 40, 12, 12)
        wanted = block.shortcut.norm(block.shortcut.conv(torch.nn.functional.avg_pool2d(x, 2)))
        close(block.shortcut(x), wanted, 1e-6)


def test_residual_branches_of_the_resnet_start_at_zero() -> None:
    model = built("clip", variant="rn50")
    blocks = [b for stage in model.vision.stages for b in stage]
    assert len(blocks) == 3 and not any(b.norm3.weight.any() for b in blocks)


# ---- the loss (section 2.3)


def test_loss_by_hand(model, images: Tensor, texts: Tensor) -> None:
    loss = model.programs["objective.contrastive"](pixel_values=images, input_ids=texts)["loss"]
    with torch.no_grad():
        wanted = loss_by_hand(tower_features(model, images), text_features(model, texts), math.exp(model.similarity.log_scale.item()))
    close(loss, wanted)
    assert wanted > 0.1


def test_scale_begins_at_one_over_0_07() -> None:
    """Section 2.5: ln(1 / 0.07) = 2.6592600."""
    model = built("clip")
    assert model.similarity.log_scale.shape == () and abs(model.similarity.log_scale.item() - 2.6592600) < 1e-6
    assert abs(model.similarity.scale().item() - 14.285714) < 1e-5


def test_scale_is_held_at_100(images: Tensor, texts: Tensor) -> None:
    """Section 2.5: logits are never multiplied by more than 100, in the scores and in the loss; from there it can still come down."""
    model = fresh("clip")
    cosines = None
    for value, scale in ((math.log(50.0), 50.0), (math.log(100.0), 100.0), (6.0, 100.0)):
        with torch.no_grad():
            model.similarity.log_scale.fill_(value)
            out = model(pixel_values=images, input_ids=texts)
        cosines = out["image_embeds"] @ out["text_embeds"].T
        close(out["logits_per_image"], scale * cosines)
        loss = model.programs["objective.contrastive"](pixel_values=images, input_ids=texts)["loss"]
        close(loss.detach(), loss_by_hand(out["image_embeds"], out["text_embeds"], scale), 1e-4)
    loss.backward()
    assert model.similarity.log_scale.grad != 0
    after_step(model)
    assert abs(model.similarity.log_scale.item() - math.log(100.0)) < 1e-6, "the parameter does not stay above between steps"


def test_one_scale_for_scores_and_loss(model, images: Tensor, texts: Tensor) -> None:
    loss = model.programs["objective.contrastive"]
    with torch.no_grad():
        before, scores = loss(pixel_values=images, input_ids=texts)["loss"], model(pixel_values=images, input_ids=texts)
        with changed(model, "similarity.log_scale"):
            assert not torch.equal(loss(pixel_values=images, input_ids=texts)["loss"], before)
            after = model(pixel_values=images, input_ids=texts)
        assert not torch.equal(after["logits_per_image"], scores["logits_per_image"])
        assert torch.equal(after["image_embeds"], scores["image_embeds"])
    assert count(model, "similarity") == 1


@pytest.mark.parametrize("n", [2, 5, 16])
def test_loss_of_identical_embeddings_is_ln_n(n: int) -> None:
    same = unit(noise(1, 8)).expand(n, 8)
    assert abs(Contrastive()(same, same, torch.tensor(14.3)).item() - math.log(n)) < 1e-5


def test_loss_of_orthonormal_pairs_goes_to_zero() -> None:
    pairs = torch.eye(6)
    losses = [Contrastive()(pairs, pairs, torch.tensor(s)).item() for s in (1.0, 10.0, 100.0)]
    assert losses[0] > losses[1] > losses[2] and losses[2] < 1e-6


def test_loss_is_symmetric_and_ignores_the_order_of_pairs(model, images: Tensor, texts: Tensor) -> None:
    loss = model.programs["objective.contrastive"]
    order = torch.tensor([2, 0, 3, 1])
    with torch.no_grad():
        before = loss(pixel_values=images, input_ids=texts)["loss"]
        close(loss(pixel_values=images[order], input_ids=texts[order])["loss"], before, 1e-6)
        assert abs((loss(pixel_values=images[order], input_ids=texts)["loss"] - before).item()) > 1e-2, "wrong pairs"
        a, b = unit(noise(4, 6, seed=3)), unit(noise(4, 6, seed=4))
        close(Contrastive()(a, b, torch.tensor(9.0)), Contrastive()(b, a, torch.tensor(9.0)), 1e-6)
        one_sided = torch.nn.functional.cross_entropy(9 * a @ b.T, torch.arange(4))
        assert abs((Contrastive()(a, b, torch.tensor(9.0)) - one_sided).item()) > 1e-2, "both directions count"


def test_negatives_come_from_all_processes(tmp_path) -> None:
    """N is the global batch: two processes' mean loss and gradients are those of one process with the whole batch."""
    image, text, scale = unit(noise(6, 8, seed=3)), unit(noise(6, 8, seed=4)), torch.tensor(9.0)
    torch.save({"image": image, "text": text, "scale": scale}, tmp_path / "batch.pt")
    second = multiprocessing.get_context("spawn").Process(target=contrastive, args=(1, 2, str(tmp_path)))
    second.start()
    contrastive(0, 2, str(tmp_path))
    second.join(60)
    assert second.exitcode == 0
    ranks = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    leaves = [x.clone().requires_grad_() for x in (image, text, scale)]
    loss = Contrastive()(*leaves)
    loss.backward()
    close(torch.stack([r["loss"] for r in ranks]).mean(), loss.detach())
    close(torch.cat([r["image"] for r in ranks]) / 2, leaves[0].grad)
    close(torch.cat([r["text"] for r in ranks]) / 2, leaves[1].grad)
    close(torch.stack([r["scale"] for r in ranks]).mean(), leaves[2].grad)


# ---- training


def test_pretraining_trains_everything(images: Tensor, texts: Tensor) -> None:
    model = fresh("clip")
    names = trains(model, "pretrain", {"pixel_values": images, "input_ids": texts})
    assert names == {name for name, _ in model.named_parameters()}


def test_pretraining_trains_the_resnet() -> None:
    model = enliven(fresh("clip", variant="rn50"))
    ids = torch.stack([torch.cat([torch.tensor([START]), random_ids(4, seed=row), torch.tensor([END])]) for row in range(3)])
    names = trains(model, "pretrain", {"pixel_values": noise(3, 3, 48, 48), "input_ids": ids})
    assert names == {name for name, _ in model.named_parameters()}


def test_first_weights() -> None:
    """The original code: text width^-0.5 and (2 L)^-0.5 of it where a branch ends; class token, image positions and both projections
    width^-0.5; q, k, v of the image tower Xavier-uniform as one matrix."""
    wide = {"vision.width": 200, "vision.mlp": 800, "text.width": 160, "text.heads": 4, "text.mlp": 640, "embed.width": 160}
    model = vlmgraph.compile(vlmgraph.read_spec("clip", size="tiny", overrides=wide))
    block, image = model.text.layers[1], model.vision.layers[1]
    for name, weight, std in (
        ("tokens", model.embed.tokens.weight, 0.02),
        ("positions", model.embed.positions.weight, 0.01),
        ("q", block.attention.q.weight, 160**-0.5),
        ("out", block.attention.out.weight, 160**-0.5 * 4**-0.5),
        ("fc1", block.mlp.fc1.weight, 320**-0.5),
        ("fc2", block.mlp.fc2.weight, 160**-0.5 * 4**-0.5),
        ("text_proj", model.text_proj.proj.weight, 160**-0.5),
        ("image_proj", model.image_proj.proj.weight, 200**-0.5),
        ("image positions", model.vision.position.weight, 200**-0.5),
        ("image q", image.attention.q.weight, (2 / 800) ** 0.5),
        ("image out", image.attention.out.weight, (1 / 600) ** 0.5),
        ("image fc1", image.mlp.fc1.weight, (1 / 600) ** 0.5),
        ("image fc2", image.mlp.fc2.weight, (1 / 2400) ** 0.5),
    ):
        assert abs(weight.std().item() / std - 1) < 0.04, f"{name}: {weight.std().item():.4f}, {std:.4f} is published"
    assert abs(model.vision.cls.std().item() / 200**-0.5 - 1) < 0.2
    assert image.attention.q.weight.abs().max() <= (6 / 800) ** 0.5, "uniform"
    for name, parameter in model.named_parameters():
        if ".attention." in name and name.endswith("bias"):
            assert not parameter.any(), name


# ---- what goes in, and zero-shot classes (sections 2.2, 3.1.4)


def test_pictures_are_resized_cropped_and_normalised() -> None:
    """The shortest edge to 224, bicubic, then the centre; CLIP's statistics."""
    stripes = np.zeros((100, 300, 3), np.uint8)
    stripes[:, :100], stripes[:, 100:200], stripes[:, 200:] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    pixels = processor("clip", None)(images=PIL.Image.fromarray(stripes))["pixel_values"]
    mean, std = np.array([0.48145466, 0.4578275, 0.40821073]), np.array([0.26862954, 0.26130258, 0.27577711])
    green = (np.array([0, 1, 0]) - mean) / std
    assert pixels.shape == (1, 3, 224, 224)
    np.testing.assert_allclose(pixels[0, :, :, 8:216], np.broadcast_to(green[:, None, None], (3, 224, 208)), atol=1e-5)


def test_texts_have_77_ids() -> None:
    """Lower-cased between start and end, zeros behind; of what is too long the last id kept becomes the end."""
    own = processor("clip", None)
    short, lower, long = own(text=["A Cat", "a cat", "x" * 200])["input_ids"]
    assert (short == lower).all() and short[0] == 49406 and short[6] == 49407 and not short[7:].any() and len(short) == 77
    assert long[0] == 49406 and long[76] == 49407 and len(long) == 77 and (long[1:76] == long[1]).all()
    assert own.decode(own.ask("cat")["input_ids"][0]).rstrip("\0") == "a photo of a cat."


def test_zero_shot_by_hand(model) -> None:
    """Every template of a class encoded, normalised, averaged, normalised again; softmax of 100 times the cosine."""
    own, labels = processor("clip"), ["cat", "dog", "red car"]
    procedure = model.graph.procedures["classify"]
    pictures = [PIL.Image.effect_noise((60, 50), 80).convert("RGB"), PIL.Image.new("RGB", (42, 42), (250, 120, 3))]
    got = classify(model, own, pictures, labels)
    with torch.no_grad():
        classes = []
        for label in labels:
            ids = own(text=[template.format(label=label) for template in procedure.templates])["input_ids"]
            classes.append(unit(unit(text_features(model, torch.from_numpy(ids))).mean(0)))
        pixels = torch.from_numpy(own(images=pictures)["pixel_values"])
        cosines = unit(tower_features(model, pixels)) @ torch.stack(classes).T
    assert len(procedure.templates) == 7 and got.shape == (2, 3)
    close(got, (100 * cosines).softmax(-1), 1e-4)
    assert got.min() > 1e-12 and (got[0] - got[1]).abs().max() > 1e-3
