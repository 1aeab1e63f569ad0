"""SigLIP (Zhai et al. 2023, arXiv 2303.15343): two towers, and a sigmoid on every pair."""

from __future__ import annotations

import math
import multiprocessing
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import vlmgraph
from tests.architectures import by_hand
from tests.architectures.common import built, close, fresh, graph, lively, measured, meta, noise, processor, published, random_ids, trains
from tests.architectures.ranks import sigmoid
from vlmgraph.ir.dims import Dim
from vlmgraph.nn.losses import Sigmoid
from vlmgraph.report.tokens import visual_dims


@pytest.fixture(scope="module")
def model():
    return lively("siglip")


@pytest.fixture(scope="module")
def images() -> Tensor:
    return noise(4, 3, 47, 47)


@pytest.fixture(scope="module")
def texts() -> Tensor:
    return random_ids(4, 24)


def unit(x: Tensor) -> Tensor:
    return x / x.square().sum(-1, keepdim=True).sqrt()


def gelu_tanh(x: Tensor) -> Tensor:
    return 0.5 * x * (1 + torch.tanh((2 / math.pi) ** 0.5 * (x + 0.044715 * x**3)))


def blocks(s: by_hand.State, x: Tensor, heads: int) -> Tensor:
    """Pre-norm blocks, every token seeing every other, then the final norm."""
    for i in range(2):
        block = by_hand.below(s, f"layers.{i}.")
        y = by_hand.layer_norm(block, "norms.attention", x, 1e-6)
        q, k, v = (by_hand.linear(block, f"attention.{n}", y) for n in "qkv")
        x = x + by_hand.linear(block, "attention.out", by_hand.softmax_attention(q, k, v, heads, causal=False))
        y = by_hand.layer_norm(block, "norms.mlp", x, 1e-6)
        x = x + by_hand.linear(block, "mlp.fc2", gelu_tanh(by_hand.linear(block, "mlp.fc1", y)))
    return by_hand.layer_norm(s, "final_norm", x, 1e-6)


def image_features(model: Any, images: Tensor) -> Tensor:
    """h = attention(probe, X, X) over what the final norm gives; h + MLP(LN h)."""
    s = by_hand.state(model)
    tower, pool = by_hand.below(s, "vision."), by_hand.below(s, "pool.")
    x = F.conv2d(images.double(), tower["patch.proj.weight"], tower["patch.proj.bias"], stride=15).flatten(2).transpose(1, 2)
    x = blocks(tower, x + tower["position.weight"], heads=5)
    q = by_hand.linear(pool, "attention.q", pool["query"].expand(len(x), 1, -1))
    k, v = (by_hand.linear(pool, f"attention.{n}", x) for n in "kv")
    h = by_hand.linear(pool, "attention.out", by_hand.softmax_attention(q, k, v, 4, causal=False))[:, 0]
    y = by_hand.layer_norm(pool, "norm", h, 1e-6)
    return h + by_hand.linear(pool, "mlp.fc2", gelu_tanh(by_hand.linear(pool, "mlp.fc1", y)))


def text_features(model: Any, ids: Tensor) -> Tensor:
    """The state at the last place, through a projection with a bias."""
    s = by_hand.state(model)
    x = s["embed.tokens.weight"][ids] + s["embed.positions.weight"][: ids.shape[1]]
    return by_hand.linear(s, "text_proj.proj", blocks(by_hand.below(s, "text."), x, heads=4)[:, -1])


def loss_by_hand(images: Tensor, texts: Tensor, scale: float, bias: float) -> Tensor:
    """-(1 / N) of the sum over all pairs of log sigmoid(z (t x.y + b)), z = 1 for a pair that belongs together, else -1."""
    logits = scale * unit(images.double()) @ unit(texts.double()).T + bias
    z = 2 * torch.eye(len(logits), dtype=torch.float64) - 1
    return torch.log1p(torch.exp(-z * logits)).sum() / len(logits)


# ---- published numbers


@pytest.mark.parametrize(
    ("size", "total", "tokens"),
    [
        (None, 203_155_970, 196),
        ("b16-256", 203_202_050, 256),
        ("l16-256", 652_150_786, 256),
        ("so400m-384", 877_960_498, 729),
        ("so400m-224", 877_360_306, 256),
    ],
)
def test_published_parameters_and_tokens(size: str | None, total: int, tokens: int) -> None:
    """floor(image / patch)^2 tokens, no class token; 384 / 14 leaves 6 pixels out."""
    assert measured("siglip", size).total == total
    assert list(visual_dims(graph("siglip", size)).values()) == [Dim.of(tokens)]


def test_as_many_parameters_as_transformers_has() -> None:
    transformers = pytest.importorskip("transformers", minversion="5.0")
    tower = {"hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 27, "num_attention_heads": 16}
    config = transformers.SiglipConfig(text_config=tower, vision_config={**tower, "image_size": 384, "patch_size": 14})
    with torch.device("meta"):
        reference = transformers.SiglipModel(config)
    counts = published("siglip", "so400m-384")
    assert meta("siglip", "so400m-384").vision(torch.empty(1, 3, 384, 384, device="meta")).shape == (1, 729, 1152)
    assert counts["total"] == sum(p.numel() for p in reference.parameters())
    assert counts["vision"] + counts["pool"] == sum(p.numel() for p in reference.vision_model.parameters())
    assert counts["embed"] + counts["text"] + counts["text_proj"] == sum(p.numel() for p in reference.text_model.parameters())


# ---- towers


def test_image_tower_and_pooling_by_hand(model, images: Tensor) -> None:
    with torch.no_grad():
        close(model.programs["encode_image"](pixel_values=images)["image_embeds"], unit(image_features(model, images)))


def test_the_border_behind_the_last_patch_is_not_read(model, images: Tensor) -> None:
    feature = model.programs["encode_image"]
    with torch.no_grad():
        before, outside, inside = feature(pixel_values=images)["image_embeds"], images.clone(), images.clone()
        outside[..., 45:] += 1
        inside[..., 44] += 1
        assert torch.equal(feature(pixel_values=outside)["image_embeds"], before)
        assert not torch.equal(feature(pixel_values=inside)["image_embeds"], before)


def test_text_tower_by_hand(model, texts: Tensor) -> None:
    with torch.no_grad():
        close(model.programs["encode_text"](input_ids=texts)["text_embeds"], unit(text_features(model, texts)))


def test_the_last_place_is_the_text(model, texts: Tensor) -> None:
    """Other padding is another feature: the place that is read moves. And every place sees all others: no causal mask."""
    feature = model.programs["encode_text"]
    with torch.no_grad():
        ids = texts.clone()
        ids[:, 6:] = 1
        whole = feature(input_ids=ids)["text_embeds"]
        assert (feature(input_ids=ids[:, :12])["text_embeds"] - whole).abs().max() > 1e-3
        x = model.text(model.embed(ids))
        later = ids.clone()
        later[:, 20] = 7
        assert (model.text(model.embed(later)) - x).abs().amax(-1).gt(1e-6).all(), "what stands later is seen by all"


# ---- the loss


def test_loss_by_hand(model, images: Tensor, texts: Tensor) -> None:
    loss = model.programs["objective.sigmoid"](pixel_values=images, input_ids=texts)["loss"]
    with torch.no_grad():
        scale, bias = math.exp(model.similarity.log_scale.item()), model.similarity.bias.item()
        close(loss.detach(), loss_by_hand(image_features(model, images), text_features(model, texts), scale, bias))


def test_scale_and_bias_begin_at_10_and_minus_10_and_are_free() -> None:
    similarity = built("siglip").similarity
    assert abs(similarity.log_scale.item() - math.log(10)) < 1e-6 and similarity.bias.item() == -10.0
    free = fresh("siglip").similarity
    with torch.no_grad():
        free.log_scale.fill_(6.0)
        same = torch.eye(3)
        close(free(image=same, text=same)["out"], math.exp(6.0) * same - 10, 1e-6)


def test_values_of_the_loss() -> None:
    scale, bias, same = torch.tensor(10.0), torch.tensor(-10.0), torch.eye(5)
    assert abs(Sigmoid()(same[:1], same[:1], scale, bias).item() - math.log(2)) < 1e-6, "one pair: scale and bias cancel"
    none = Sigmoid()(same[:4], same[[4, 4, 4, 4]], scale, bias).item()
    assert abs(none - (math.log1p(math.exp(10)) + 3 * math.log1p(math.exp(-10)))) < 1e-5, "divided by N, not by N^2"


def test_pairs_are_independent() -> None:
    """One more pair adds its own terms and changes no other; images and texts may change places."""
    a, b, scale, bias = unit(noise(5, 6, seed=3)), unit(noise(5, 6, seed=4)), torch.tensor(9.0), torch.tensor(-3.0)
    terms = torch.nn.functional.softplus(-(2 * torch.eye(5) - 1) * (9 * a @ b.T - 3))
    for n in (4, 5):
        close(Sigmoid()(a[:n], b[:n], scale, bias) * n, terms[:n, :n].sum())
    close(Sigmoid()(a, b, scale, bias), Sigmoid()(b, a, scale, bias), 1e-6)


def test_negatives_come_from_all_processes(tmp_path) -> None:
    """Two processes' mean loss and gradients are those of one process with the whole batch."""
    batch = {"image": unit(noise(6, 8, seed=3)), "text": unit(noise(6, 8, seed=4)), "scale": torch.tensor(9.0), "bias": torch.tensor(-3.0)}
    torch.save(batch, tmp_path / "batch.pt")
    second = multiprocessing.get_context("spawn").Process(target=sigmoid, args=(1, 2, str(tmp_path)))
    second.start()
    sigmoid(0, 2, str(tmp_path))
    second.join(60)
    assert second.exitcode == 0
    ranks = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    leaves = {name: x.clone().requires_grad_() for name, x in batch.items()}
    loss = Sigmoid()(**leaves)
    loss.backward()
    close(torch.stack([r["loss"] for r in ranks]).mean(), loss.detach())
    for name in ("image", "text"):
        close(torch.cat([r[name] for r in ranks]) / 2, leaves[name].grad)
    for name in ("scale", "bias"):
        close(torch.stack([r[name] for r in ranks]).mean(), leaves[name].grad)


# ---- training and what goes in


def test_pretraining_trains_everything(images: Tensor, texts: Tensor) -> None:
    model = fresh("siglip")
    names = trains(model, "pretrain", {"pixel_values": images, "input_ids": texts})
    assert names == {name for name, _ in model.named_parameters()}


def test_first_weights() -> None:
    """Matrices Xavier-uniform, MLP biases N(0, 1e-6), other biases zero, positions and tokens width^-0.5."""
    wide = {"vision.width": 200, "vision.mlp": 800, "text.width": 160, "text.mlp": 640, "embed.width": 160, "embed.std": 160**-0.5}
    out = {"outputs.image_embeds": "embedding[B, 200]", "outputs.text_embeds": "embedding[C, 200]", "pool.mlp": 800}
    model = vlmgraph.compile(vlmgraph.read_spec("siglip", size="tiny", overrides=wide | out))
    image, text, pool = model.vision.layers[1], model.text.layers[1], model.pool
    for name, weight in (
        ("image q", image.attention.q.weight),
        ("image fc1", image.mlp.fc1.weight),
        ("text out", text.attention.out.weight),
        ("text fc2", text.mlp.fc2.weight),
        ("pool v", pool.attention.v.weight),
        ("pool fc1", pool.mlp.fc1.weight),
        ("probe", pool.query),
    ):
        bound = (6 / sum(weight.shape)) ** 0.5
        assert weight.abs().max() <= bound and abs(weight.std().item() / (bound / 3**0.5) - 1) < 0.1, name
    for name, weight, std in (
        ("image positions", model.vision.position.weight, 200**-0.5),
        ("text positions", model.embed.positions.weight, 160**-0.5),
        ("tokens", model.embed.tokens.weight, 160**-0.5),
        ("patches", model.vision.patch.proj.weight, (3 * 15 * 15) ** -0.5),
        ("fc1 bias", text.mlp.fc1.bias, 1e-6),
        ("pool fc1 bias", pool.mlp.fc1.bias, 1e-6),
    ):
        assert abs(weight.std().item() / std - 1) < 0.1, name
    assert not image.attention.q.bias.any() and not pool.attention.out.bias.any()


def test_texts_are_lowered_without_punctuation_and_end_in_end_tokens() -> None:
    own = processor("siglip", None)
    short, plain, long = own(text=["A  Cat, a-dog!", "a cat adog", "x" * 200])["input_ids"]
    assert len(short) == 64 and (short == plain).all(), "canonical"
    assert (short[10:] == 1).all() and not (short[:10] == 1).any(), "padded with the end token"
    assert len(long) == 64 and long[-1] == 1 and (long[:-1] != 1).all(), "the last place is always an end token"


def test_pictures_are_squashed() -> None:
    """Straight to the square, no crop; [-1, 1]."""
    halves = np.zeros((50, 300, 3), np.uint8)
    halves[:, :150], halves[:, 150:] = 255, 0
    pixels = processor("siglip", None)(images=PIL.Image.fromarray(halves))["pixel_values"]
    assert pixels.shape == (1, 3, 224, 224)
    assert (pixels[..., :100] == 1).all() and (pixels[..., 124:] == -1).all()
