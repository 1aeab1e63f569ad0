"""AIMv2 (survey 32): an encoder under prefix attention, a causal decoder that regresses patches and then writes the caption; the encoder
alone, at native resolution, and with a text tower."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch

import vlmgraph
from tests.architectures.common import (
    built,
    changed,
    close,
    fresh,
    graph,
    lively,
    loss_of,
    meta,
    next_token_loss,
    noise,
    processor,
    published,
    random_ids,
    spec,
    trains,
)  # fmt: skip
from vlmgraph.diagnostics import DiagnosticError
from vlmgraph.ir.dims import Dim, Symbol
from vlmgraph.passes.expect import token_dims, visual_tokens
from vlmgraph.report.measure import report

SIZES = {"large": (1024, 8, 2816), "huge": (1536, 12, 4096), "1b": (2048, 16, 5632), "3b": (3072, 24, 8192)}


@pytest.mark.parametrize(("size", "side", "count"), [
    ("large", 224, 309_197_824), ("huge", 224, 680_851_968), ("1b", 224, 1_234_958_336), ("3b", 224, 2_720_658_432),
    ("large", 336, 309_525_504), ("huge", 336, 681_343_488), ("1b", 336, 1_235_613_696), ("3b", 336, 2_721_641_472),
    ("large", 448, 309_984_256),
])  # fmt: skip
def test_published_encoders(size: str, side: int, count: int) -> None:
    """The published count, that of transformers' class, and one token a patch."""
    tf = pytest.importorskip("transformers", minversion="5.0")
    width, heads, mlp = SIZES[size]
    config = tf.Aimv2VisionConfig(hidden_size=width, num_attention_heads=heads, intermediate_size=mlp, image_size=side, use_head=False)
    with torch.device("meta"):
        reference = tf.Aimv2VisionModel(config)
    named = size if side == 224 and size != "large" else None if side == 224 else f"{size}-{side}"
    assert (
        published("aimv2", named, "encoder" if named is None else None)["vision"] == count == sum(p.numel() for p in reference.parameters())
    )
    assert set(visual_tokens(graph("aimv2", named)).values()) == {(side // 14) ** 2}


def test_published_dual_encoder() -> None:
    tf = pytest.importorskip("transformers", minversion="5.0")
    with torch.device("meta"):
        reference = tf.Aimv2Model(tf.Aimv2Config(projection_dim=768))
    counts = published("aimv2", None, "lit")
    assert counts["total"] == 436_680_193 == sum(p.numel() for p in reference.parameters())
    assert counts["vision"] + counts["pool"] == 312_345_600
    assert counts["embed"] + counts["text"] == 122_958_336
    assert counts["image_proj"] == 1024 * 768 and counts["text_proj"] == 768 * 768
    state = meta("aimv2", None, "lit").state_dict()
    assert state["vision.layers.0.attention.q.weight"].shape == (1024, 1024) and graph("aimv2").components["vision"].head == 128
    assert math.isclose(built("aimv2", "tiny", "lit").similarity.log_scale.item(), math.log(1 / 0.07), rel_tol=1e-6)


def test_native_resolution_has_no_table() -> None:
    counts = published("aimv2", None, "native")
    assert counts["total"] == 309_197_824 - 256 * 1024
    for size in (None, "tiny"):
        own = report(graph("aimv2", size, "native"), processor=spec("aimv2", size, "native").data["processor"])
        tokens = [row for row in own.expected if row.what.startswith("visual_tokens")]
        assert len(tokens) == 3 and all(row.expected == row.actual for row in tokens)
    [count] = token_dims(graph("aimv2", None, "native")).values()
    sizes = [(224, 224, 256), (448, 448, 1024), (345, 672, 24 * 48)]
    assert all(count.substitute({Symbol("H"): Dim.of(h), Symbol("W"): Dim.of(w)}).constant == wanted for h, w, wanted in sizes)


# ---- pre-training


@pytest.fixture(scope="module")
def inputs() -> dict[str, torch.Tensor]:
    ids = random_ids(2, 6)
    return {"pixel_values": noise(2, 3, 42, 42), "input_ids": ids, "labels": ids, "prefix_length": torch.tensor([4, 4])}


def run(program: str = "pretrain", **inputs: torch.Tensor) -> dict[str, torch.Tensor]:
    with torch.no_grad():
        return lively("aimv2").programs[program](**{k: v for k, v in inputs.items() if k != "labels"})


def test_prefix_of_all_is_a_full_view_and_of_one_a_causal_one(inputs) -> None:
    model = lively("aimv2")
    with torch.no_grad():
        full = model.vision(inputs["pixel_values"])
        assert torch.equal(run("forward", pixel_values=inputs["pixel_values"])["last_hidden_state"], full)
        close(model.vision(inputs["pixel_values"], prefix=torch.ones(2, 9, dtype=torch.bool)), full)
        one = torch.arange(9)[None] < torch.ones(2, 1)
        causal = model.vision(inputs["pixel_values"], prefix=one)
        shown = inputs["pixel_values"].clone()
        shown[:, :, 28:, 28:] += 1  # the last patch
        later = model.vision(shown, prefix=one)
    assert torch.equal(causal[:, :-1], later[:, :-1]) and not torch.allclose(causal[:, -1], later[:, -1])
    assert not torch.allclose(causal[:, 0], full[:, 0], atol=1e-3)


@pytest.mark.parametrize("patch", [1, 3, 5, 8])
def test_what_a_prediction_has_seen(patch: int, inputs) -> None:
    """With a prefix of 4: place i sees patches up to i, and in the prefix all four of them; its prediction is that of patch i + 1."""
    shown = inputs["pixel_values"].clone()
    row, column = divmod(patch, 3)
    shown[:, :, 14 * row : 14 * row + 14, 14 * column : 14 * column + 14] += noise(2, 3, 14, 14, seed=4)
    before, after = run(**inputs), run(**{**inputs, "pixel_values": shown})
    moved = (before["patches"] != after["patches"]).any(-1)
    first = 0 if patch < 4 else patch
    assert moved.tolist() == [[i >= first for i in range(9)]] * 2
    assert (before["logits"] != after["logits"]).any(-1).all()  # words see the whole image
    seen = (
        run("forward", pixel_values=shown)["last_hidden_state"] != run("forward", pixel_values=inputs["pixel_values"])["last_hidden_state"]
    )
    assert seen.any(-1).all()  # nothing is hidden where nothing is trained


def test_words_see_the_image_and_the_words_before(inputs) -> None:
    ids = inputs["input_ids"].clone()
    ids[:, 3] += 1
    before, after = run(**inputs), run(**{**inputs, "input_ids": ids})
    assert (before["logits"] != after["logits"]).any(-1).tolist() == [[i >= 3 for i in range(6)]] * 2
    assert torch.equal(before["patches"], after["patches"])  # the image stands in front
    mask = torch.ones(2, 8, dtype=torch.long)
    mask[:, 6:] = 0
    padded = run(**{**inputs, "input_ids": torch.cat([inputs["input_ids"], random_ids(2, 2)], 1)}, attention_mask=mask)
    close(padded["logits"][:, :6], before["logits"])
    alone = run(pixel_values=inputs["pixel_values"], prefix_length=inputs["prefix_length"])
    assert alone.keys() == {"patches"}
    close(alone["patches"], before["patches"])


def patches_of(image: torch.Tensor) -> torch.Tensor:
    """Row by row, each as row, column, channel."""
    parts = [image[:, :, r : r + 14, c : c + 14].permute(0, 2, 3, 1).flatten(1) for r in range(0, 42, 14) for c in range(0, 42, 14)]
    return torch.stack(parts, 1)


def test_losses_by_hand(inputs) -> None:
    """Mean squared error against the normalised next patch, outside of the prefix alone; the caption by next words."""
    model, out = lively("aimv2"), run(**inputs)
    wanted = patches_of(inputs["pixel_values"]).double()
    wanted = (wanted - wanted.mean(-1, keepdim=True)) / (wanted.var(-1, keepdim=True) + 1e-6).sqrt()
    with torch.no_grad():
        lengths = torch.tensor([2, 7])
        given = {**inputs, "prefix_length": lengths}
        out = run(**given)
        each = ((out["patches"].double()[:, :-1] - wanted[:, 1:]) ** 2).mean(-1)
        counts = torch.arange(1, 9)[None] >= lengths[:, None]
        loss = model.programs["objective.pixel"](**given)["loss"]
        assert loss.item() == pytest.approx((each[counts].sum() / counts.sum()).item(), rel=1e-5)
        caption = model.programs["objective.caption"](**given)["loss"]
        assert caption.item() == pytest.approx(next_token_loss(out["logits"], inputs["labels"]).item(), rel=1e-5)
        both = loss_of(model, "pretrain", given)
        assert both.item() == pytest.approx(caption.item() + 0.4 * loss.item(), rel=1e-5)
        # brightness and contrast of the patches that are predicted
        assert torch.allclose(model.targets(3 * patches_of(inputs["pixel_values"]) + 5), wanted.float(), atol=1e-3)


def test_prefixes_are_drawn_where_none_is_given(inputs) -> None:
    torch.manual_seed(0)
    free = {k: v for k, v in inputs.items() if k != "prefix_length"}
    runs = [run(**free)["patches"] for _ in range(8)]
    assert any(not torch.equal(runs[0], other) for other in runs[1:])
    possible = [run(**{**inputs, "prefix_length": torch.tensor([m, m])})["patches"][0] for m in range(1, 9)]
    for drawn in runs:
        assert min((drawn[0] - p).abs().max().item() for p in possible) < 1e-5


def test_everything_trains(inputs) -> None:
    names = trains(fresh("aimv2"), "pretrain", inputs)
    assert {n.partition(".")[0] for n in names} == {"vision", "img_proj", "embed", "decoder", "pixel_head", "text_head"}


# ---- the encoder with a text tower


def texts() -> dict[str, torch.Tensor]:
    ids = random_ids(3, 7)
    for row, end in enumerate((6, 3, 5)):
        ids[row, end:] = 319
    return {"input_ids": ids, "attention_mask": (torch.arange(7)[None] <= torch.tensor([6, 3, 5])[:, None]).long()}


def test_locked_image_tuning() -> None:
    """Causal text read at its first end token, a bounded scale, and a stage that leaves the encoder alone."""
    model, given = lively("aimv2", "tiny", "lit"), texts()
    pixels = noise(2, 3, 42, 42)
    with torch.no_grad():
        out = model(pixel_values=pixels, **given)
        ids = given["input_ids"].clone()
        ids[1, 4:] = 17  # behind the end
        assert torch.equal(model(input_ids=ids)["text_embeds"][1], model(input_ids=given["input_ids"])["text_embeds"][1])
        close(model(**given)["text_embeds"], model(input_ids=given["input_ids"])["text_embeds"])
        close(out["logits_per_image"], out["image_embeds"] @ out["text_embeds"].T * model.similarity.log_scale.exp())
        assert torch.equal(out["logits_per_text"], out["logits_per_image"].T)
        with changed(model, "similarity.log_scale", by=0.0):
            model.similarity.log_scale.fill_(6.0)
            close(model(pixel_values=pixels, **given)["logits_per_image"], 100 * out["image_embeds"] @ out["text_embeds"].T)
        head = model.pool
        states = model.vision(pixels)
        k, v = (layer(states).unflatten(-1, (5, 8)) for layer in (head.attention.k, head.attention.v))
        weights = (torch.einsum("hd,bnhd->bhn", head.query.view(5, 8), k) / math.sqrt(8)).softmax(-1)
        close(head(states), head.attention.out(torch.einsum("bhn,bnhd->bhd", weights, v).flatten(1)))
    names = trains(fresh("aimv2", "tiny", "lit"), "lit", {"pixel_values": noise(3, 3, 42, 42), **given})
    assert {n.partition(".")[0] for n in names} == {"pool", "image_proj", "embed", "text", "text_proj", "similarity"}


# ---- images


def test_images_of_any_size_share_a_batch() -> None:
    """Sines and cosines say where a patch is in any grid, a mask keeps padding away: the features are those of each image alone."""
    model, own = lively("aimv2", "tiny", "native"), processor("aimv2", "tiny", "native")
    pixels = np.random.default_rng(0).integers(0, 256, (90, 60, 3), dtype=np.uint8)
    images = [PIL.Image.fromarray(pixels), PIL.Image.fromarray(pixels[:30].repeat(2, 1)), PIL.Image.fromarray(pixels[:15, :15])]
    given = {name: torch.from_numpy(value) for name, value in own(images=images).items()}
    assert given["image_sizes"].tolist() == [[98, 70], [28, 112], [28, 28]] and given["pixel_values"].shape == (3, 3, 98, 112)
    with torch.no_grad():
        together = model(**given)["last_hidden_state"]
        for row, (height, width) in enumerate(given["image_sizes"].tolist()):
            alone = model(pixel_values=given["pixel_values"][row : row + 1, :, :height, :width])["last_hidden_state"][0]
            rows, columns = height // 14, width // 14
            close(together[row].unflatten(0, (7, 8))[:rows, :columns].flatten(0, 1), alone)
    with torch.no_grad():  # one patch everywhere: places alone tell the features apart, the same in every grid
        same = noise(1, 3, 14, 14)
        states = [
            model.vision.position(model.vision.patch(same.repeat(1, 1, rows, columns))[0], rows, columns)
            for rows, columns in ((2, 5), (2, 3))
        ]
    wide, small = states
    assert len(wide[0].unique(dim=0)) == 10
    close(wide[0].unflatten(0, (2, 5))[:, :3], small[0].unflatten(0, (2, 3)))
    with pytest.raises(DiagnosticError, match="VG0723"):
        lively("aimv2")(pixel_values=noise(1, 3, 56, 42))  # with a table there is one size


def test_pictures_are_those_of_the_reference() -> None:
    """CLIP's crop of the middle, at 224; within one 8-bit step."""
    pytest.importorskip("transformers", minversion="5.0")
    from sklearn.datasets import load_sample_image
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    reference, own = CLIPImageProcessorPil(size={"shortest_edge": 224}, crop_size=224), processor("aimv2", None, "encoder")
    sizes = [(1, 1), (3, 500), (640, 480), (225, 223), (4000, 300)]
    images = [
        PIL.Image.fromarray(load_sample_image("china.jpg")),
        *(PIL.Image.fromarray(np.random.default_rng(n).integers(0, 256, (h, w, 3), np.uint8)) for n, (w, h) in enumerate(sizes)),
    ]
    step = 1 / 255 / 0.26
    for image in images:
        ours, theirs = own(images=image)["pixel_values"], np.asarray(reference(image, return_tensors="np")["pixel_values"])
        assert ours.shape == theirs.shape == (1, 3, 224, 224)
        assert np.abs(ours - theirs).max() <= step


def test_text_ends_in_its_token() -> None:
    made = processor("aimv2", "tiny", "lit")(text=["A cat", "a longer text of many words"])
    ids, mask = made["input_ids"], made["attention_mask"]
    assert (ids[:, 0] == 318).all() and ids.shape[1] == 24 and mask[0].sum() == 7 and mask[1].all()
    assert (ids[0, 6:] == 319).all() and ids[1, -1] == 319  # the end token pads too; the first one is read


def test_first_releases(tmp_path: Path) -> None:
    """apple/ml-aim's names: q, k and v in one matrix, fc1 under the activation, fc3 beside it, one more dim of the positions; both ways."""
    pytest.importorskip("transformers", minversion="5.0")
    from safetensors.torch import load_file, save_file

    from tests.parity.models import models_aimv2

    reference, inputs, _ = models_aimv2.encoder(use_head=False)
    theirs = reference.state_dict()
    old = {
        "preprocessor.patchifier.proj.weight": theirs["embeddings.patch_embed.weight"],
        "preprocessor.patchifier.proj.bias": theirs["embeddings.patch_embed.bias"],
        "preprocessor.patchifier.norm.weight": theirs["embeddings.rms_norm.weight"],
        "preprocessor.pos_embed": theirs["embeddings.position_embedding.weight"][None],
        "trunk.post_trunk_norm.weight": theirs["rms_norm.weight"],
    }
    for i in range(3):
        own, block = f"encoder.layers.{i}.", f"trunk.blocks.{i}."
        old[block + "attn.qkv.weight"] = torch.cat([theirs[f"{own}attention.{x}_proj.weight"] for x in "qkv"])
        names = {"attn.proj": "attention.out_proj", "norm_1": "rms_norm1", "norm_2": "rms_norm2"}
        names |= {"mlp.fc1": "ffn.gate_proj", "mlp.fc3": "ffn.up_proj", "mlp.fc2": "ffn.down_proj"}
        old |= {f"{block}{a}.weight": theirs[f"{own}{b}.weight"] for a, b in names.items()}
    fields = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "image_size", "patch_size", "qkv_bias")
    config = {
        "model_type": "aimv2", "architectures": ["AIMv2Model"], "auto_map": {"AutoModel": "modeling_aimv2.AIMv2Model"}, "use_bias": False,
        "projection_dropout": 0.0, **{name: getattr(reference.config, name) for name in fields},
    }  # fmt: skip
    save_file({k: v.contiguous() for k, v in old.items()}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(config))
    model = vlmgraph.load(tmp_path)
    with torch.no_grad():
        close(model(**inputs)["last_hidden_state"], reference(**inputs).last_hidden_state)
    model.save(tmp_path / "back", format="transformers")
    back = load_file(tmp_path / "back" / "model.safetensors")
    assert back.keys() == old.keys() and all(torch.equal(back[k], old[k]) for k in old)
    for changed_key, value in (("use_bias", True), ("projection_bias", True), ("architectures", ["AIMv2Other"])):
        (tmp_path / "config.json").write_text(json.dumps({**config, changed_key: value}))
        with pytest.raises(DiagnosticError, match=changed_key):
            vlmgraph.load(tmp_path)
