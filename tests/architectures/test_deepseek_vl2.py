"""DeepSeek-VL2 (Wu et al. 2024, arXiv 2412.10302): pictures whole and in tiles, latent attention, experts balanced without a loss."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from torch import Tensor

import vlmgraph
from tests.architectures.common import close, declared_counts, fresh, graph, lively, noise, placed, processor, random_ids, trains
from vlmgraph.api import elaborate
from vlmgraph.diagnostics import Collector, DiagnosticError
from vlmgraph.nn.cache import KVCache
from vlmgraph.processor.padded_tiles import padded_tiles
from vlmgraph.processor.padded_tiles_config import PaddedTiles
from vlmgraph.train.step import after_step
from vlmgraph.weights.import_config import import_config
from vlmgraph.weights.layouts import read_layout
from vlmgraph.weights.load import state_tensors
from vlmgraph.weights.safetensors_io import open_weights
from vlmgraph.weights.tidy import meaning, tidied

SPEC, IMAGE = "deepseek-vl2", 302


@pytest.fixture(scope="module")
def model():
    return lively(SPEC)


def tokens(columns: int, rows: int, side: int = 3) -> int:
    return side * (side + 1) + 1 + side * rows * (side * columns + 1)


def grids(*found: tuple[int, int]) -> Tensor:
    return torch.tensor(found)


def encode(model, views: Tensor, tiles: Tensor) -> Tensor:
    with torch.no_grad():
        return model.programs["encode_image"](pixel_values=views, images_spatial_crop=tiles)["views"]


@pytest.mark.parametrize(
    ("size", "total", "decoder", "active"),
    [
        (None, 27_464_893_808, 27_033_546_240, 4_124),
        ("small", 16_133_111_152, 15_706_484_224, 2_451),
        ("tiny-published", 3_355_263_088, 2_934_734_080, 574),
    ],
)
def test_published_parameters(size: str | None, total: int, decoder: int, active: int) -> None:
    """As published but for one number a router and expert, the bias, which no optimizer moves. A token meets 4.1, 2.4 and 0.57 billion of
    the decoder without its table."""
    counts = declared_counts(SPEC, size)
    assert sum(counts.values()) == total and counts["embed"] + counts["llm"] + counts["head"] == decoder and counts["vision"] == 412_987_248
    llm: Any = graph(SPEC, size).components["llm"]
    moe, layers = llm.variants["full"].one["mlp"], llm.sequence.count("full")
    assert layers == llm.layers - 1 and llm.sequence[0] == "dense" and moe.top_k == 6
    idle = layers * (moe.experts - 6) * moe.one.total()
    assert (decoder - counts["embed"] - idle) // 1_000_000 == active
    assert (layers * moe.experts if moe.bias_step is not None else 0) == (2_088 if size is None else 0)


def test_what_is_kept_of_a_token() -> None:
    """576 numbers a layer, where ordinary attention of that width keeps thousands."""
    assert graph(SPEC).components["llm"].cache_bytes_per_token() == 30 * 576
    assert graph(SPEC, "small").components["llm"].cache_bytes_per_token() == 27 * 576
    assert graph(SPEC, "tiny-published").components["llm"].cache_bytes_per_token() == 12 * 2 * 1280


@pytest.mark.parametrize(("columns", "rows"), [(1, 1), (2, 1), (1, 2), (2, 2)])
def test_rows_and_their_ends(model, columns: int, rows: int) -> None:
    """The whole, a separator, the tiles put together; a newline behind every row of both: by hand."""
    views = noise(1 + columns * rows, 3, 70, 70)
    got = encode(model, views, grids((columns, rows)))
    with torch.no_grad():
        x = model.projector(model.merge(model.vision(views)))
    newline, separator = model.views.newline, model.views.separator
    wanted = []
    for row in range(3):
        wanted += [*x[0, 3 * row : 3 * row + 3], newline]
    wanted.append(separator)
    for row in range(3 * rows):
        for column in range(columns):
            tile = x[1 + row // 3 * columns + column]
            wanted += [*tile[3 * (row % 3) : 3 * (row % 3) + 3]]
        wanted.append(newline)
    close(got, torch.stack(wanted).detach(), 1e-6)
    assert len(got) == tokens(columns, rows)


def test_several_images(model) -> None:
    """One behind the other; rows of zeros are padding; views that do not fit the grids are refused."""
    views = noise(3 + 2, 3, 70, 70)
    got = encode(model, views, grids((2, 1), (0, 0), (1, 1)))
    parts = [encode(model, views[:3], grids((2, 1))), encode(model, views[3:], grids((1, 1)))]
    close(got, torch.cat(parts), 2e-6)
    with pytest.raises(DiagnosticError, match="are 5 views, but there are 4"):
        encode(model, views[:4], grids((2, 1), (1, 1)))


def test_odd_grids_are_filled_with_zeros(model) -> None:
    """Five rows of patches become three of blocks; each block's channels stand by channel, then row, then column."""
    x = noise(1, 25, 4)
    blocks = model.merge(x)
    square = torch.nn.functional.pad(x.view(5, 5, 4), (0, 0, 0, 1, 0, 1))
    assert torch.equal(blocks[0, 5].view(4, 2, 2), square[2:4, 4:6].permute(2, 0, 1))
    assert not blocks[0, 8].view(4, 2, 2)[:, 1].any() and blocks[0, 8].view(4, 2, 2)[:, 0, 0].all()


def prompt(model, *shapes: tuple[int, int]) -> dict[str, Tensor]:
    counts = [tokens(*shape) for shape in shapes]
    ids = random_ids(1, sum(counts) + 4 * len(shapes) + 3)
    at = 2
    for count in counts:
        ids = placed(ids, IMAGE, (0, at, count))
        at += count + 4
    views = noise(sum(1 + c * r for c, r in shapes), 3, 70, 70)
    return {"pixel_values": views, "images_spatial_crop": grids(*shapes), "input_ids": ids}


@torch.no_grad()
def test_decoding_in_chunks(model) -> None:
    """Prefill by chunks and single tokens with the small cache gives what the whole text gives; so does generating."""
    given = prompt(model, (2, 1), (1, 1))
    whole = model(**given)["logits"]
    views = encode(model, given["pixel_values"], given["images_spatial_crop"])
    x = model.splice(text=model.embed(given["input_ids"]), ids=given["input_ids"], vision=views)["out"]
    cuts = [0, 13, 14, 40, x.shape[1]]
    cache = KVCache()
    parts = [model.llm(x[:, a:b], cache=cache) for a, b in zip(cuts, cuts[1:])]
    close(model.head(torch.cat(parts, 1)), whole)
    assert {(layer.k.shape[1:], layer.v.shape[1:]) for layer in cache.layers} == {((1, cuts[-1], 10), (1, cuts[-1], 6))}
    made = model.generate(**given, max_new_tokens=5, eos_token_id=None)
    assert torch.equal(made, model.generate(**given, max_new_tokens=5, eos_token_id=None, use_cache=False))


@torch.no_grad()
def test_left_padding(model) -> None:
    row = random_ids(1, 8)
    alone = model(input_ids=row)["logits"]
    ids, mask = torch.cat([torch.zeros(1, 5, dtype=torch.long), row], 1), torch.ones(1, 13, dtype=torch.long)
    mask[:, :5] = 0
    close(model(input_ids=ids, attention_mask=mask)["logits"][:, 5:], alone, 2e-5)


def test_biases_of_routers_follow_the_load() -> None:
    """After a step every expert's bias has moved by a thousandth against its load, and the scores with it choose otherwise."""
    model = fresh(SPEC)
    ids = random_ids(2, 20)
    model.train()
    model(input_ids=ids)
    loads = [layer.mlp.load.clone() for layer in model.llm.layers[1:]]
    after_step(model)
    for layer, load in zip(model.llm.layers[1:], loads):
        assert load.sum() == 2 * 20 * 3 and torch.allclose(layer.mlp.bias, 1e-3 * torch.sign(load.mean() - load))
    model.eval()
    before = model(input_ids=ids)["logits"]
    model.llm.layers[1].mlp.bias[3] += 9.0
    chosen: list[Tensor] = []
    moe = model.llm.layers[1].mlp
    hook = moe.router.register_forward_hook(lambda _, args, y: chosen.append(y))
    with torch.no_grad():
        moe(noise(1, 6, 48))
        assert not torch.equal(model(input_ids=ids)["logits"], before)
    hook.remove()


@pytest.mark.parametrize("stage", ["align", "pretrain"])
def test_stages(stage: str) -> None:
    model = fresh(SPEC)
    given = prompt(model, (2, 1))
    given["labels"] = given["input_ids"]
    names = trains(model, stage, given)
    assert {n.split(".")[0] for n in names} == {"vision", "projector", "views"} | (
        {"embed", "llm", "head"} if stage == "pretrain" else set()
    )


def test_balance_of_the_softmax_sizes() -> None:
    """Each sequence by itself: two sequences whose tokens all choose alike pay although the batch as a whole is even."""
    config = graph(SPEC, "small").components["objective.balance"]
    loss = config.build()
    router = torch.full((1, 2, 6, 12), -4.0)
    router[0, 0, :, :6] = 4.0
    router[0, 1, :, 6:] = 4.0
    assert loss(router) > 1.9 and graph(SPEC, "small").stages["pretrain"].objectives == {"lm": 1.0, "balance": 1e-3}
    assert graph(SPEC).stages["pretrain"].objectives == {"lm": 1.0}


def test_prompt() -> None:
    """As many placeholders as the views of each picture make; more than two pictures are not cut."""
    own = processor(SPEC, None)
    wide, small = PIL.Image.new("RGB", (1920, 1080)), PIL.Image.new("RGB", (30, 30))
    for pictures, counts in (([wide, small], 1807 + 421), ([wide, small, wide], 3 * 421), ([PIL.Image.new("RGB", (300, 900))], 841)):
        said = [{"role": "user", "content": [*[{"type": "image"}] * len(pictures), {"type": "text", "text": "?"}]}]
        row = own(messages=said, images=pictures)
        assert row["input_ids"][0].tolist().count(128815) == counts
        tiles = row["images_spatial_crop"]
        assert len(row["pixel_values"]) == len(pictures) + (tiles[:, 0] * tiles[:, 1]).sum()


def test_pictures_keep_their_aspect_ratio() -> None:
    """One tile: both views are the same; margins are grey, in the middle stands the picture."""
    picture = PIL.Image.new("RGB", (40, 10), (255, 0, 0))
    made = padded_tiles("x", PaddedTiles(size=40, max=1, stats=0.5, also={"tiles": "tiles"}), [picture], [1])
    assert made["x"].shape == (2, 3, 40, 40) and np.array_equal(made["x"][0], made["x"][1]) and made["tiles"].tolist() == [[1, 1]]
    rows = made["x"][0, 0, :, 0]
    assert (rows[15:25] == 1).all() and np.allclose(rows[[0, 14, 25, 39]], 127 / 255 * 2 - 1, atol=1e-6)


def test_boxes() -> None:
    """Thousandths of the sides, both ways, behind the phrase that they are of."""
    codec = processor(SPEC, None).codecs["boxes"]
    text = codec.text(np.array([[29.0, 27.0, 49.95, 50.0]]), (100, 50), "the dog")
    assert text == "<|ref|>the dog<|/ref|><|det|>[[290, 540, 499, 999]]<|/det|>"
    [found] = codec.parse(f"I see {text} here", (100, 50))
    assert found.phrase == "the dog" and np.allclose(found.boxes, [[29.0, 27.0, 49.9, 49.95]], atol=0.06)


LANGUAGE: dict[str, Any] = {
    "model_type": "deepseek_v2", "vocab_size": 97, "hidden_size": 40, "intermediate_size": 68, "moe_intermediate_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 5, "num_key_value_heads": 5, "n_shared_experts": 2, "n_routed_experts": 8, "num_experts_per_tok": 3,
    "first_k_dense_replace": 1, "kv_lora_rank": 12, "q_lora_rank": None, "qk_rope_head_dim": 6, "qk_nope_head_dim": 10, "v_head_dim": 7,
    "rms_norm_eps": 1e-5, "rope_theta": 300.0, "max_position_embeddings": 128, "bos_token_id": 0, "eos_token_id": 1,
}  # fmt: skip


def config(folder: Path, **language: Any) -> Path:
    tower = {"model_type": "vision", "model_name": "siglip_so400m_patch14_384", "image_size": 28, "width": 16, "layers": 1, "heads": 2}
    written = {
        "model_type": "deepseek_vl_v2",
        "vision_config": tower,
        "projector_config": {"n_embed": 40},
        "language_config": {**LANGUAGE, **language},
    }
    (folder / "tokenizer.json").write_text(
        json.dumps(
            {"version": "1.0", "added_tokens": [], "model": {"type": "WordLevel", "vocab": {"<image>": 96, "?": 2}, "unk_token": "?"}}
        )
    )
    (folder / "config.json").write_text(json.dumps(written))
    return folder / "config.json"


@torch.no_grad()
@pytest.mark.parametrize("case", ["greedy", "queries through a small vector, groups", "sigmoid, biases, groups"])
def test_decoder_as_in_transformers(case: str, tmp_path: Path) -> None:
    """Keys, logits with padding and greedy tokens of DeepSeek-V2's and DeepSeek-V3's decoders, which a decoder of this family is one of."""
    tf = pytest.importorskip("transformers", minversion="5.0")
    own: dict[str, Any] = {"greedy": {"routed_scaling_factor": 1.5}}.get(case, {"n_group": 4, "topk_group": 2, "q_lora_rank": 14})
    if case.startswith("queries"):
        own |= {"topk_method": "group_limited_greedy", "first_k_dense_replace": 2}
    words = {k: v for k, v in {**LANGUAGE, **own}.items() if k != "model_type"}
    words |= {"rope_parameters": {"rope_type": "default", "rope_theta": words.pop("rope_theta")}, "pad_token_id": 0}
    if case.startswith("sigmoid"):
        own |= {"topk_method": "noaux_tc", "scoring_func": "sigmoid", "norm_topk_prob": True, "routed_scaling_factor": 2.5}
        words |= {"norm_topk_prob": True, "routed_scaling_factor": 2.5, "num_nextn_predict_layers": 0}
        theirs = tf.DeepseekV3ForCausalLM(tf.DeepseekV3Config(**words))
    else:
        theirs = tf.DeepseekV2ForCausalLM(tf.DeepseekV2Config(**words))
    noise_ = torch.Generator().manual_seed(3)
    for name, tensor in theirs.state_dict().items():
        if tensor.dim() > 1:
            tensor.copy_(0.12 * torch.randn(tensor.shape, generator=noise_))
        else:
            tensor.add_(0.2 * torch.rand(tensor.shape, generator=noise_), alpha=1.0 if "bias" in name else -1.0)
    theirs = theirs.eval().float()
    theirs.save_pretrained(tmp_path / "theirs")
    model = vlmgraph.compile(import_config(config(tmp_path, **own)).spec)
    assert model.graph.tokens["<image>"] == 96
    names = {n: t for n, t in state_tensors(model) if n.split(".")[0] in ("embed", "llm", "head")}
    stored = {f"language.{key}": tensor for key, tensor in open_weights(tmp_path / "theirs").items()}
    found = Collector()
    state, account = read_layout("deepseek-vl2", {"vision_config.width": 16}).load(
        stored, {n: tuple(t.shape) for n, t in names.items()}, found
    )
    found.stop()
    assert account.keys == stored.keys() and state.keys() == names.keys()
    for name, tensor in names.items():
        tensor.copy_(state[name])
    ids, mask = random_ids(2, 11, low=3, high=95), torch.ones(2, 11, dtype=torch.long)
    ids[1, :4], mask[1, :4] = 0, 0
    wanted, got = theirs(input_ids=ids, attention_mask=mask).logits, model(input_ids=ids, attention_mask=mask)["logits"]
    close(got[mask.bool()], wanted[mask.bool()], 2e-5)
    options = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None}
    tokens_ = theirs.generate(input_ids=ids, attention_mask=mask, **options, pad_token_id=0)[:, -6:]
    assert model.generate(input_ids=ids, attention_mask=mask, **options)[:, -6:].tolist() == tokens_.tolist()


@pytest.mark.parametrize(
    ("part", "key", "value"),
    [
        ("language_config", "rope_scaling", {"type": "yarn", "factor": 40.0}),
        ("language_config", "moe_layer_freq", 2),
        ("language_config", "attention_bias", True),
        ("language_config", "topk_method", "hash"),
        ("language_config", "n_routed_experts", None),
        ("language_config", "hidden_act", "mish"),
        ("vision_config", "model_name", "siglip_large_patch16_384"),
        ("vision_config", "select_layer", -2),
        ("projector_config", "projector_type", "mlp_gelu"),
        ("projector_config", "token_pooling", True),
        ("", "tile_tag", "1D"),
        ("", "global_view_pos", "tail"),
        ("", "window_attention", 3),
    ],
)
def test_what_is_not_computed_is_refused(tmp_path: Path, part: str, key: str, value: object) -> None:
    file = config(tmp_path)
    written = json.loads(file.read_text())
    (written[part] if part else written)[key] = value
    file.write_text(json.dumps(written))
    with pytest.raises(DiagnosticError, match=key):
        import_config(file)


def test_what_import_writes(tmp_path: Path) -> None:
    """The released configuration of DeepSeek-VL2-Tiny, whose keys of latent attention say nothing: its preset and no number beside it."""
    file = config(
        tmp_path, vocab_size=129280, hidden_size=1280, intermediate_size=6848, moe_intermediate_size=896, num_hidden_layers=12,
        num_attention_heads=10, num_key_value_heads=10, n_routed_experts=64, num_experts_per_tok=6, use_mla=False, kv_lora_rank=None,
        qk_rope_head_dim=0, qk_nope_head_dim=0, v_head_dim=0, rms_norm_eps=1e-6, rope_theta=1e4, max_position_embeddings=4096,
    )  # fmt: skip
    written = json.loads(file.read_text())
    written |= {"projector_config": {"model_type": "mlp_projector", "n_embed": 1280}, "candidate_resolutions": [[384, 384], [768, 384]]}
    written["vision_config"] = {
        "model_type": "vision",
        "model_name": "siglip_so400m_patch14_384",
        "layers": 27,
        "width": 1152,
        "patch_size": 14,
    }
    file.write_text(json.dumps(written))
    long = import_config(file).spec
    short = tidied(long, tmp_path)
    assert vlmgraph.check(short) == [] and meaning(short) == meaning(long)
    llm = short["components"]["llm"]
    assert (
        llm["preset"] == "deepseek-moe-3b" and set(llm) <= {"preset", "pattern", "mlp"} and set(short["components"]) == {"llm", "projector"}
    )
    assert published_counts(short) == declared_counts(SPEC, "tiny-published")


def published_counts(spec: dict[str, Any]) -> dict[str, int]:
    return {id: part.total() for id, part in elaborate(vlmgraph.read_spec(spec)).components.items() if part.total()}
