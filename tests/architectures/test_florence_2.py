"""Florence-2 (arXiv 2311.06242): DaViT's two attentions, pooled and placed features, BART over image and prompt alike."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from tests.architectures.common import changed, close, enliven, fresh, graph, lively, noise, padded, placed, published, random_ids, trains
from vlmgraph.components.vision.hierarchical import Hierarchical
from vlmgraph.ir.dims import Dim
from vlmgraph.nn.davit import ChannelAttention, WindowAttention
from vlmgraph.nn.hierarchical import ConvEmbed, FramePositions, GridPositions, MapTooLarge
from vlmgraph.report.cost import program_cost
from vlmgraph.report.tokens import visual_dims

IMAGE, START, COUNT = 410, 2, 10


@pytest.fixture(scope="module")
def model():
    return lively("florence-2")


@pytest.fixture(scope="module")
def given() -> dict[str, Tensor]:
    """Two pictures and prompts; the answers begin with the start token."""
    ids = placed(random_ids(2, COUNT + 6), IMAGE, (0, 0, COUNT), (1, 0, COUNT))
    answer = random_ids(2, 5, seed=3)
    answer[:, 0] = START
    return {"pixel_values": noise(2, 3, 96, 96), "input_ids": ids, "attention_mask": torch.ones_like(ids), "decoder_input_ids": answer}


@torch.no_grad()
def logits(model, given: dict[str, Tensor], **other: Tensor) -> Tensor:
    return model(**{**given, **other})["logits"]


# ---- counts


def test_published_parameters_and_tokens() -> None:
    counts = published("florence-2")
    assert counts["vision"] == 90_368_000 and counts["place"] + counts["projector"] + counts["norm"] == 839_168
    assert counts["total"] - 768 == 231_414_016, "the first release has no row for the placeholder"
    large = published("florence-2", "large")
    assert large["vision"] == 360_632_320 and large["total"] - 1024 == 776_465_408
    assert visual_dims(graph("florence-2")) == {"splice.vision": Dim.of(577)}, "what the decoder reads of the encoder is none"


@pytest.mark.parametrize("size", [None, "large"])
def test_parameters_of_the_published_class(size: str | None) -> None:
    tf = pytest.importorskip("transformers")
    words = {"model_type": "bart", "vocab_size": 51290}
    if size is None:
        words |= {"d_model": 768, "encoder_layers": 6, "decoder_layers": 6, "encoder_ffn_dim": 3072, "decoder_ffn_dim": 3072}
        words |= {"encoder_attention_heads": 12, "decoder_attention_heads": 12}
        picture = {"projection_dim": 768}
    else:
        words |= {"max_position_embeddings": 4096}
        picture = {"embed_dim": [256, 512, 1024, 2048], "num_heads": [8, 16, 32, 64], "num_groups": [8, 16, 32, 64]}
    with torch.device("meta"):
        theirs = tf.Florence2ForConditionalGeneration(tf.Florence2Config(text_config=words, vision_config=picture))
    theirs.tie_weights()
    assert published("florence-2", size)["total"] == sum(p.numel() for p in theirs.parameters())


def test_maps_of_the_stages() -> None:
    tower = graph("florence-2").components["vision"]
    assert isinstance(tower, Hierarchical)
    for pixels, sides in ((768, [192, 96, 48, 24]), (384, [96, 48, 24, 12]), (400, [100, 50, 25, 13]), (1, [1, 1, 1, 1])):
        assert [d.constant for d in tower.sides(Dim.of(pixels))] == sides
    tiny = lively("florence-2")
    for pixels, count in ((96, 10), (97, 17), (33, 5), (1, 2)):
        with torch.no_grad():
            out = tiny.norm(
                tiny.projector(tiny.tokens([tiny.pooled(x := tiny.time(tiny.place(tiny.vision(noise(1, 3, pixels, pixels))))), x]))
            )
        assert out.shape == (1, count, 48)


def test_operations(given: dict[str, Tensor]) -> None:
    """What is declared is what torch counts; windows of 4 in maps of 24, 12, 6 and 3 are padded in two of them."""
    own = fresh("florence-2").requires_grad_(False)
    for program in ("encode_image", "forward"):
        cost = program_cost(own.graph, program, {"B": 2, "T": COUNT + 6, "S": 5}, "float32", given)
        assert cost is not None and cost.uncounted == ()
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            own.programs[program](**{name: given[name] for name in cost.inputs})
        assert cost.flops == counter.get_total_flops() > 0


# ---- the tower


def test_a_window_is_all_that_a_place_sees() -> None:
    layer = enliven(WindowAttention(8, 2, 3))
    x = noise(1, 7, 5, 8)
    with torch.no_grad():
        before, y = layer(x), x.clone()
        assert before.shape == x.shape
        y[0, 4, 1] += 1
        moved = (layer(y) - before)[0].abs().amax(-1) > 1e-7
    wanted = torch.zeros(7, 5, dtype=torch.bool)
    wanted[3:6, 0:3] = True
    assert torch.equal(moved, wanted)


def test_zeros_fill_the_last_windows_and_take_part() -> None:
    """By hand: heads of a window of 4 x 4 around a map of 2 x 3, its other places zero before the projections, whose biases they get."""
    layer = enliven(WindowAttention(6, 2, 4))
    x = noise(1, 2, 3, 6)
    with torch.no_grad():
        whole = torch.zeros(1, 4, 4, 6)
        whole[:, :2, :3] = x
        tokens = whole.flatten(1, 2)
        q, k, v = (f(tokens).unflatten(-1, (2, 3)).transpose(1, 2) for f in (layer.q, layer.k, layer.v))
        scores = (q @ k.transpose(2, 3) * 3**-0.5).softmax(-1)
        wanted = layer.out((scores @ v).transpose(1, 2).flatten(2)).unflatten(1, (4, 4))[:, :2, :3]
        close(layer(x), wanted)


def test_channels_attend_to_channels() -> None:
    """By hand, scaled by the number of places; and what permutes the places permutes the result."""
    layer = enliven(ChannelAttention(12, 3))
    x = noise(2, 5, 4, 12)
    with torch.no_grad():
        flat = x.flatten(1, 2)
        wanted = torch.zeros(2, 20, 12)
        for group in range(3):
            part = slice(4 * group, 4 * group + 4)
            q, k, v = (f(flat)[..., part].transpose(1, 2) for f in (layer.q, layer.k, layer.v))
            scores = (q @ k.transpose(1, 2) * 20**-0.5).softmax(-1)
            assert scores.shape == (2, 4, 4)
            wanted[..., part] = (scores @ v).transpose(1, 2)
        close(layer(x), layer.out(wanted).unflatten(1, (5, 4)))
        order = torch.randperm(20, generator=torch.Generator().manual_seed(1))
        close(layer(flat[:, order].unflatten(1, (5, 4))).flatten(1, 2), layer(x).flatten(1, 2)[:, order])


def test_norms_of_the_embeddings_stand_where_the_stage_says() -> None:
    """Behind the convolution every place has mean 0 and variance 1 over the channels; in front, what a norm takes away is not seen."""
    x = noise(1, 4, 9, 9)
    with torch.no_grad():
        behind, front = (enliven(ConvEmbed(4, 8, 3, 2, 1, first)) for first in (False, True))
        y = (behind(x).permute(0, 2, 3, 1) - behind.norm.bias) / behind.norm.weight
        assert y.mean(-1).abs().max() < 1e-4 and (y.var(-1, unbiased=False) - 1).abs().max() < 1e-2
        assert front(x).shape == (1, 8, 5, 5)
        close(front(3 * x + 2), front(x), 1e-4)
        assert front(x).mean(1).abs().max() > 1e-2 and (behind(3 * x + 2) - behind(x)).abs().max() > 1e-2
    assert [embed.norm_first for embed in lively("florence-2").vision.embeds] == [False, True, True, True]


def test_the_tower_has_no_final_norm_and_two_kinds_of_halves(model) -> None:
    names = {name.split(".")[0] for name, _ in model.vision.named_parameters()}
    assert names == {"embeds", "stages"}
    assert [len(stage) for stage in model.vision.stages] == [1, 1, 2, 1]
    for stage in model.vision.stages:
        for block in stage:
            assert isinstance(block.spatial.attention, WindowAttention) and isinstance(block.channel.attention, ChannelAttention)
            assert all(conv.groups == conv.in_channels for half in (block.spatial, block.channel) for conv in half.convs.values())
    image = noise(1, 3, 96, 96)
    with torch.no_grad():
        before = model.vision(image)
        for part in ("spatial.convs.attention", "spatial.convs.mlp", "channel.convs.attention", "channel.convs.mlp", "channel.mlp"):
            with changed(model, f"vision.stages.2.1.{part}"):
                assert (model.vision(image) - before).abs().max() > 1e-4, part


# ---- the projector


def test_the_mean_comes_first(model) -> None:
    image = noise(1, 3, 96, 96)
    with torch.no_grad():
        x = model.time(model.place(model.vision(image)))
        tokens = model.tokens([model.pooled(x), x])
        assert tokens.shape == (1, COUNT, 32)
        close(tokens[:, 0], tokens[:, 1:].mean(1))
        encoded = next(iter(model.programs["encode_image"](pixel_values=image).values()))
        close(encoded, model.norm(model.projector(tokens)))
    assert model.projector.proj.bias is None


def test_columns_then_rows() -> None:
    layer = enliven(GridPositions(5, 7))
    x = noise(2, 7, 3, 4)
    with torch.no_grad():
        out = layer(x)
        assert out.shape == (2, 12, 7)
        for row in range(3):
            for column in range(4):
                wanted = x[:, :, row, column] + torch.cat([layer.columns[column], layer.rows[row]])
                close(out[:, row * 4 + column], wanted)
        with pytest.raises(MapTooLarge, match="6 x 4"):
            layer(noise(1, 7, 6, 4))


def test_a_still_image_is_frame_zero() -> None:
    layer = FramePositions(6, 8)
    x = noise(1, 3, 8)
    close(layer(x) - x, torch.tensor([0.0, 1.0] * 4).expand(1, 3, 8))
    video = noise(1, 4, 3, 8)
    third = (layer(video) - video)[0, 2, 0]
    rates = torch.tensor([10000 ** (-i / 4) for i in range(4)]) * 2
    close(third[0::2], rates.sin())
    close(third[1::2], rates.cos())


# ---- encoder and decoder


def test_image_and_prompt_read_each_other(model, given: dict[str, Tensor]) -> None:
    """Positions and the norm of the words are the image's too; every state of the encoder depends on every token."""
    inputs = {name: value for name, value in given.items() if not name.startswith("decoder")}

    def states(**other: Tensor) -> Tensor:
        with torch.no_grad():
            return next(iter(model.programs["encode"](**{**inputs, **other}).values()))

    before = states()
    ids = inputs["input_ids"].clone()
    ids[0, -1] = 33
    moved = (states(input_ids=ids) - before).abs().amax(-1)
    assert (moved[0] > 1e-6).all() and not moved[1].any()
    image = inputs["pixel_values"].clone()
    image[0, :, :9, :9] += 1
    moved = (states(pixel_values=image) - before).abs().amax(-1)
    assert (moved[0] > 1e-6).all() and not moved[1].any()
    with torch.no_grad():
        kept = model.enter.positions.weight.detach().clone()
        model.enter.positions.weight[2 + 3] += torch.linspace(-1, 1, 48)  # place 3 is the image's
        assert (states() - before).abs().max() > 1e-4
        model.enter.positions.weight.copy_(kept)
        model.enter.positions.weight[:2] += 1  # two rows that no place reads
        assert torch.equal(states(), before)
        model.enter.positions.weight.copy_(kept)


def test_the_answer_is_causal_and_reads_everything(model, given: dict[str, Tensor]) -> None:
    before = logits(model, given)
    answer = given["decoder_input_ids"].clone()
    answer[:, 3] = 33
    moved = (logits(model, given, decoder_input_ids=answer) - before).abs().amax(-1)
    assert (moved[:, :3] == 0).all() and (moved[:, 3:] > 1e-6).all()
    for name, value in (("pixel_values", noise(2, 3, 96, 96, seed=5)), ("input_ids", given["input_ids"].clone())):
        if name == "input_ids":
            value[:, -2] = 33
        assert ((logits(model, given, **{name: value}) - before).abs().amax(-1) > 1e-6).all(), name


def test_padding_of_the_prompt_changes_nothing(model, given: dict[str, Tensor]) -> None:
    one = {name: value[:1] for name, value in given.items()}
    before = logits(model, one)
    ids, mask = padded(one["input_ids"], one["attention_mask"], right=3, pad=1)
    close(logits(model, one, input_ids=ids, attention_mask=mask), before)
    assert (logits(model, one, input_ids=ids, attention_mask=torch.ones_like(mask)) - before).abs().max() > 1e-4


def test_one_table(model) -> None:
    assert model.embed.tokens.weight is model.embed_out.tokens.weight is model.head.proj.weight
    assert model.head.proj.bias is None


def test_decoding_with_a_cache(given: dict[str, Tensor]) -> None:
    own = enliven(fresh("florence-2"))
    with torch.no_grad():
        own.embed_out.positions.weight.mul_(8)  # so that not every token is the same
    ids, mask = given["input_ids"].clone(), given["attention_mask"].clone()
    ids[1, -2:], mask[1, -2:] = 1, 0
    inputs = {"pixel_values": given["pixel_values"], "input_ids": ids, "attention_mask": mask}
    wanted = own.generate(**inputs, max_new_tokens=6, use_cache=False)
    assert torch.equal(own.generate(**inputs, max_new_tokens=6), wanted)
    assert (wanted[:, 0] == START).all() and wanted.unique().numel() > 2


def test_the_loss_is_that_of_the_next_token(model, given: dict[str, Tensor]) -> None:
    """The decoder reads the labels behind its start token; every task has this loss alone."""
    labels = random_ids(2, 6, seed=8)
    labels[1, 4:] = -100
    inputs = {name: value for name, value in given.items() if not name.startswith("decoder")}
    with torch.no_grad():
        loss = model.programs["objective.lm"](**inputs, labels=labels)["loss"]
        read = torch.cat([torch.full((2, 1), START), labels[:, :-1].masked_fill(labels[:, :-1] == -100, 1)], 1)
        log_p = logits(model, {**inputs, "decoder_input_ids": read}).double().log_softmax(-1)
    rows, columns = (labels != -100).nonzero(as_tuple=True)
    wanted = -log_p[rows, columns, labels[rows, columns]].mean()
    assert loss.item() == pytest.approx(wanted.item(), rel=1e-5)
    assert set(graph("florence-2").objectives) == {"lm"}


def test_pretraining_trains_everything(given: dict[str, Tensor]) -> None:
    own = enliven(fresh("florence-2"))
    inputs = {name: value for name, value in given.items() if not name.startswith("decoder")}
    names = trains(own, "pretrain", {**inputs, "labels": random_ids(2, 6, seed=8)}, steps=2)
    assert names == {name for name, _ in own.named_parameters()}
