"""Aria (Li et al. 2024, arXiv 2410.05993): fine-grained experts and a shared one, images of any aspect ratio, queries by their size."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from torch import Tensor, nn

import vlmgraph
from tests.architectures.common import (
    changed,
    close,
    fresh,
    graph,
    lively,
    meta,
    noise,
    placed,
    processor,
    published,
    random_ids,
    spec,
    trains,
)
from vlmgraph.diagnostics import DiagnosticError
from vlmgraph.processor.corner import corner
from vlmgraph.processor.corner_config import Corner
from vlmgraph.processor.model import model_processor
from vlmgraph.weights.import_config import import_config
from vlmgraph.weights.tidy import meaning, tidied

IMAGE, N = 9, 8


@pytest.fixture(scope="module")
def model():
    return lively("aria")


def real(*sizes: tuple[int, int], side: int = 56) -> Tensor:
    mask = torch.zeros(len(sizes), side, side, dtype=torch.bool)
    for row, (height, width) in zip(mask, sizes):
        row[:height, :width] = True
    return mask


def encode(model, images: Tensor, mask: Tensor | None = None) -> Tensor:
    with torch.no_grad():
        return model.programs["encode_image"](pixel_values=images, pixel_mask=mask)["projector"]


def test_published_parameters() -> None:
    """25.3 billion in all; what takes part for a token is published as 3.5 billion for text."""
    counts = published("aria")
    assert counts["total"] == 25_307_311_216 and counts["vision"] == 417_792_240 and counts["head"] == 256_901_120
    assert sum(n for id, n in counts.items() if id.startswith("projector.")) == 20_427_136
    assert counts["embed"] + counts["llm"] == 24_612_190_720
    layer = meta("aria").llm.layers[0]
    parts = {
        name: sum(p.numel() for p in layer.get_submodule(name).parameters()) for name in ("attention", "mlp.experts", "mlp.shared", "norms")
    }
    assert parts == {"attention": 26_214_400, "mlp.experts": 817_889_280, "mlp.shared": 25_559_040, "norms": 5_120}
    assert sum(p.numel() for p in layer.parameters()) == 869_831_680
    assert 28 * (869_831_680 - parts["mlp.experts"] * 58 // 64) == 3_601_346_560


def test_same_parameters_as_transformers() -> None:
    tf = pytest.importorskip("transformers", minversion="5.0")
    words = {"vocab_size": 100352, "hidden_size": 2560, "intermediate_size": 1664, "num_hidden_layers": 28, "num_attention_heads": 20,
             "moe_num_experts": 64, "moe_topk": 6, "moe_num_shared_experts": 2}  # fmt: skip
    tower = {
        "model_type": "idefics3_vision",
        "hidden_size": 1152,
        "intermediate_size": 4304,
        "num_hidden_layers": 27,
        "image_size": 980,
        "patch_size": 14,
    }
    with torch.device("meta"):
        theirs = tf.AriaForConditionalGeneration(tf.AriaConfig(vision_config=tower, text_config=words))
    ours = [p.numel() for p in meta("aria").parameters()]
    assert sum(ours) == sum(p.numel() for p in theirs.parameters()) and max(ours) == max(p.numel() for p in theirs.parameters())


def test_tokens_of_an_image(model) -> None:
    """128 for 490 pixels, 256 for 980, whatever is real of them; another size is refused."""
    whole = meta("aria").programs["encode_image"]
    for side, tokens in ((490, 128), (980, 256)):
        images, mask = torch.empty(2, 3, side, side, device="meta"), torch.empty(2, side, side, device="meta", dtype=torch.bool)
        assert whole(pixel_values=images, pixel_mask=mask)["projector"].shape == (2, tokens, 2560)
    assert encode(model, noise(1, 3, 28, 28)).shape[1] == 3 and encode(model, noise(1, 3, 56, 56)).shape[1] == N
    with pytest.raises(DiagnosticError, match="4 or 16 tokens, not of 9"):
        encode(model, noise(1, 3, 42, 42))


def test_small_images_use_the_first_queries(model) -> None:
    small, large = noise(1, 3, 28, 28), noise(1, 3, 56, 56)
    before = encode(model, small), encode(model, large)
    name = "projector.queries.queries"
    rows = dict(model.named_parameters())[name]
    kept = rows.detach().clone()
    try:
        with torch.no_grad():
            rows[3:] += noise(5, 40)
        assert torch.equal(encode(model, small), before[0])
        after = encode(model, large)
        close(after[:, :3], before[1][:, :3], 1e-6)
        assert bool(((after - before[1]).abs().amax(-1) > 1e-3)[0, 3:].all())
    finally:
        with torch.no_grad():
            rows.copy_(kept)


def test_projector_by_hand(model) -> None:
    """Two projections one after the other, torch's own attention with the mask, nothing added to the queries, two layers without bias."""
    images, mask = noise(2, 3, 56, 56), real((56, 30), (56, 56))
    p = model.projector
    seen: list[Tensor] = []
    hook = p.norm_kv.register_forward_pre_hook(lambda _, args, kwargs: seen.append(kwargs.get("x", *args)), with_kwargs=True)
    got = encode(model, images, mask)
    hook.remove()
    torch_own = nn.MultiheadAttention(40, 5, batch_first=True)
    with torch.no_grad():
        a = p.attention
        torch_own.in_proj_weight.copy_(torch.cat([a.q.weight, a.k.weight, a.v.weight]))
        torch_own.in_proj_bias.copy_(torch.cat([a.q.bias, a.k.bias, a.v.bias]))
        torch_own.out_proj.load_state_dict(a.out.state_dict())
        keys = p.norm_kv(seen[0])
        q = p.q(p.norm_q(p.queries.queries.expand(2, -1, -1)))
        gone = torch.tensor([[False, False, False, True] * 4, [False] * 16])  # 30 pixels reach into the third column
        y, _ = torch_own(q, p.k(keys), p.v(keys), key_padding_mask=gone)
        y = p.norm(p.linear(y))
        wanted = p.mlp.fc2(nn.functional.gelu(p.mlp.fc1(y), approximate="tanh"))
    close(got, wanted)


def test_padding_is_not_seen(model) -> None:
    """Pixels outside the mask change nothing but in patches that it cuts; the mask itself matters: positions stretch over what is real."""
    images, mask = noise(1, 3, 56, 56), real((28, 42))
    other = images.clone()
    other[:, :, 28:] = 7.0
    other[:, :, :, 42:] = -3.0
    close(encode(model, other, mask), encode(model, images, mask), 1e-6)
    assert not torch.allclose(encode(model, images), encode(model, images, mask), atol=1e-3)
    cut = images.clone()
    cut[:, :, 27] += 1.0
    assert not torch.allclose(encode(model, cut, mask), encode(model, images, mask), atol=1e-3)
    assert torch.equal(encode(model, images, real((56, 56))), encode(model, images))


def test_positions_stretch_over_the_image(model) -> None:
    """Of two rows the second stands where the third of four does."""
    places = model.vision.position.places(4, 4, real((28, 56))[:, ::14, ::14].flatten(1), torch.device("cpu"))[0].view(4, 4)
    assert places[:2].tolist() == [[0, 1, 2, 3], [8, 9, 10, 11]] and not places[2:].any()


@torch.no_grad()
def test_experts_of_the_decoder(model) -> None:
    """What experts that no token chose hold changes nothing; without the routed ones the shared one is left."""
    ids = random_ids(1, 4)
    mlp = model.llm.layers[1].mlp
    seen: list[Tensor] = []
    hook = mlp.router.register_forward_hook(lambda _, args, y: seen.append(y))
    before = model(input_ids=ids)["logits"]
    hook.remove()
    chosen = set(seen[0].topk(2, -1).indices.flatten().tolist())
    idle = sorted(set(range(5)) - chosen)
    for weights in (mlp.experts.gate_up, mlp.experts.down):
        kept = weights.clone()
        weights[idle] += 1.0
        assert torch.equal(model(input_ids=ids)["logits"], before)
        weights[sorted(chosen)] += 1.0
        assert not torch.equal(model(input_ids=ids)["logits"], before)
        weights.copy_(kept)


def test_losses_read_the_routers(model) -> None:
    """Scores of both layers, padding left out; a forward does not compute them as an output."""
    ids, mask = random_ids(2, 7), torch.ones(2, 7, dtype=torch.long)
    mask[1, 5:] = 0
    scores: list[Tensor] = []
    hooks = [layer.mlp.router.register_forward_hook(lambda _, args, y: scores.append(y.view(2, 7, 5))) for layer in model.llm.layers]
    given = {"input_ids": ids, "attention_mask": mask}
    with torch.no_grad():
        balance = model.programs["objective.balance"](**given)["loss"]
        router_z = model.programs["objective.router_z"](**given)["loss"]
    for hook in hooks:
        hook.remove()
    rows = [layer[mask.bool()] for layer in scores[:2]]
    close(router_z, torch.stack([r.logsumexp(-1).square().mean() for r in rows]).sum(), 1e-6)
    shares = [torch.zeros_like(r).scatter(1, r.topk(2, -1).indices, 1.0).mean(0) / 2 for r in rows]
    close(balance, torch.stack([5 * (s * r.softmax(-1).mean(0)).sum() for s, r in zip(shares, rows)]).sum(), 1e-6)
    assert "router" not in str(model.programs["forward"].fx.graph)


def test_the_image_moves_what_follows(model) -> None:
    ids = placed(random_ids(1, 14), IMAGE, (0, 2, N))
    images = noise(1, 3, 56, 56)
    with torch.no_grad():
        before = model(pixel_values=images, input_ids=ids)["logits"]
        after = model(pixel_values=images + 0.1, input_ids=ids)["logits"]
        assert torch.equal(before[:, :2], after[:, :2]) and bool((before[:, 2:] != after[:, 2:]).any(-1).all())
        with changed(model, "projector.queries"):
            assert not torch.equal(model(pixel_values=images, input_ids=ids)["logits"], before)


def test_decoding_with_a_cache(model) -> None:
    given = {"pixel_values": noise(1, 3, 56, 56), "pixel_mask": real((40, 56)), "input_ids": placed(random_ids(1, 12), IMAGE, (0, 2, N))}
    assert torch.equal(model.generate(**given, max_new_tokens=5), model.generate(**given, max_new_tokens=5, use_cache=False))


@pytest.mark.parametrize("stage", ["language", "multimodal"])
def test_stages(stage: str) -> None:
    model = fresh("aria")
    ids = placed(random_ids(2, 14), IMAGE, (0, 2, N), (1, 3, N)) if stage == "multimodal" else random_ids(2, 14)
    given = {"input_ids": ids, "labels": ids, "attention_mask": torch.ones_like(ids)}
    if stage == "multimodal":
        given |= {"pixel_values": noise(2, 3, 56, 56), "pixel_mask": real((56, 56), (28, 56))}
    idle = {"vision.final_norm.weight", "vision.final_norm.bias"} if stage == "multimodal" else set()
    names = trains(model, stage, given, idle=idle)
    assert {n.split(".")[0] for n in names} == ({"embed", "llm", "head"} | ({"vision", "projector"} if stage == "multimodal" else set()))


def test_prompt() -> None:
    """Marks of the template around as many tokens as the projector gives for the size of the square."""
    own = processor("aria", None)
    row = own(
        messages=[{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "?"}]}],
        images=[PIL.Image.new("RGB", (300, 900))],
    )
    assert row["input_ids"][0].tolist().count(IMAGE) == 256 and row["pixel_values"].shape == (1, 3, 980, 980)
    assert row["pixel_mask"].sum() == 980 * 336  # 326 of 980 would be too narrow


@pytest.mark.parametrize("split", [False, True])
def test_pictures_as_in_transformers(split: bool) -> None:
    """As many pieces, the same masks, pixels within one 8-bit step, at every size from 1 x 1 on."""
    pytest.importorskip("transformers", minversion="5.0")
    from sklearn.datasets import load_sample_image
    from transformers.models.aria.image_processing_pil_aria import AriaImageProcessorPil

    rng = np.random.default_rng(3)
    shapes = [(1, 1), (1, 7), (61, 56)] if split else [(1, 1), (300, 4000), (17, 4), (980, 979), (640, 1300), (61, 56)]
    pictures = [PIL.Image.fromarray(rng.integers(0, 256, (h, w, 3), dtype=np.uint8)) for h, w in shapes]
    pictures.append(PIL.Image.fromarray(load_sample_image("china.jpg")))
    theirs = AriaImageProcessorPil(max_image_size=490, split_image=split)
    own = Corner(size=490, stats=0.5, split=split, canvases=theirs.split_resolutions, also={"mask": "mask"})
    for picture in pictures:
        wanted = theirs([picture], return_tensors="np")
        got = corner("x", own, [picture], [1])
        assert got["x.pieces"].tolist() == [wanted["num_crops"]] and np.array_equal(got["mask"], wanted["pixel_mask"])
        assert np.abs(got["x"] - wanted["pixel_values"]).max() <= 1.01 * 2 / 255


def test_configuration_of_the_published_processor(tmp_path: Path) -> None:
    """Which of both sizes, and whether pictures are cut, is what the folder says; as many tokens as transformers counts."""
    pytest.importorskip("transformers", minversion="5.0")
    from transformers.models.aria.image_processing_pil_aria import AriaImageProcessorPil

    theirs = AriaImageProcessorPil(max_image_size=490, split_image=True, split_resolutions=[[490, 980], [980, 490]], patch_size=14)
    theirs.save_pretrained(tmp_path)
    own = model_processor(spec("aria"), graph("aria"), tmp_path)
    picture = PIL.Image.new("RGB", (300, 700), (9, 200, 30))
    row = own(text="<|img|> ?", images=[picture])
    wanted = theirs([picture], return_tensors="np")
    assert row["pixel_values"].shape == wanted["pixel_values"].shape == (2, 3, 490, 490)
    assert np.array_equal(row["pixel_mask"], wanted["pixel_mask"])
    assert row["input_ids"][0].tolist().count(IMAGE) == 2 * 128
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"max_image_size": 980, "sharpen": 2}))
    with pytest.raises(DiagnosticError, match="sharpen"):
        model_processor(spec("aria"), graph("aria"), tmp_path)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("text_config.rope_parameters", {"rope_type": "yarn", "rope_theta": 1e4, "factor": 2.0}),
        ("text_config.hidden_act", "mish"),
        ("text_config.moe_jitter", 0.1),
        ("vision_config.num_channels", 1),
        ("vision_feature_layer", [1, 2]),
        ("projector_patch_to_query_dict", {"1225": "all"}),
    ],
)
def test_what_is_not_computed_is_refused(tmp_path: Path, path: str, value: object) -> None:
    config: dict = {"model_type": "aria", "text_config": {"model_type": "aria_text"}, "vision_config": {"model_type": "idefics3_vision"}}
    *parents, key = path.split(".")
    table = config
    for name in parents:
        table = table[name]
    table[key] = value
    file = tmp_path / "config.json"
    file.write_text(json.dumps(config))
    with pytest.raises(DiagnosticError, match=key):
        import_config(file)


def test_queries_of_a_configuration(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text(
        json.dumps({"model_type": "aria", "projector_patch_to_query_dict": {"100": 12, "400": 30}, "text_config": {"moe_topk": 3}})
    )
    made = import_config(file).spec
    assert made["components"]["projector"]["counts"] == {"100": 12, "400": 30}
    assert made["components"]["llm"]["mlp"]["top_k"] == 3 == made["objectives"]["balance"]["top_k"]


def test_what_import_writes(tmp_path: Path) -> None:
    """A spec that checks clean and means the same, though the projector is a block of the spec and no type of its own."""
    file = tmp_path / "config.json"
    words = {"moe_topk": 3, "hidden_size": 40, "num_attention_heads": 5, "num_hidden_layers": 2, "vocab_size": 97}
    tower = {"hidden_size": 24, "num_attention_heads": 3, "image_size": 32, "patch_size": 8}
    file.write_text(json.dumps({"model_type": "aria", "text_config": words, "vision_config": tower}))
    long = import_config(file).spec
    short = tidied(long, tmp_path)
    assert vlmgraph.check(short) == [] and meaning(short) == meaning(long)
    assert short["components"]["projector"] == {"width": 24, "heads": 3}
    assert "preset" not in short["components"]["llm"] and short["components"]["patch_mask"] == {"patch": 8}
