"""connector.qformer: published counts, LAVIS' vectors under all three masks, transformers' body, who sees whom."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file

from vlmgraph.components.connector.qformer import QFormer
from vlmgraph.components.head.mlm import MLMHead
from vlmgraph.ir.dims import Dim
from vlmgraph.presets import load_preset

GOLDEN = Path(__file__).parents[1] / "golden" / "18-blip-2" / "stage1"
TINY = {"d_image": 10, "queries": 3, "layers": 3, "width": 16, "heads": 2, "mlp": 24, "vocab": 50, "max_positions": 12}
MASKS = ("unimodal", "bidirectional", "multimodal_causal")


def build(**fields):
    torch.manual_seed(0)
    module = QFormer(**{**TINY, **fields}).build().eval()
    with torch.no_grad():
        for parameter in module.parameters():  # enough to tell every part from every other
            parameter.add_(0.2 * torch.randn_like(parameter))
    return module


@pytest.fixture(scope="module")
def inputs():
    torch.manual_seed(1)
    mask = torch.ones(2, 7, dtype=torch.long)
    mask[1, 5:] = 0
    return {"image": torch.randn(2, 6, 10), "ids": torch.randint(1, 50, (2, 7)), "ids_mask": mask}


def run(module, **given):
    with torch.no_grad():
        return module(**given)


# ---- counts


def test_published_counts():
    preset = load_preset("qformer-base", "connector.qformer").fields
    body = QFormer(**preset, d_image=1408, text=False)
    assert body.total() - body.parameters()["queries"] == 105_137_664
    assert body.parameters()["queries"] == 24_576 and body.crossings == 6
    # stage 1 counts the LM head too, whose matrix is the word embedding
    whole, head = QFormer(**preset, d_image=1408), MLMHead(width=768, vocab=30523)
    assert whole.total() + head.total() - 30523 * 768 == 186_307_387
    for config in (body, whole):
        with torch.device("meta"):
            assert sum(p.numel() for p in config.build().parameters()) == config.total()


@pytest.mark.parametrize("fields", [{}, {"text": False}, {"cross_every": 1, "layers": 2}, {"cross_every": 4}])
def test_counts_equal_the_module_part_by_part(fields):
    config = QFormer(**{**TINY, **fields})
    module = config.build()
    assert config.total() == sum(p.numel() for p in module.parameters())
    for part, count in config.parameters().items():
        steps = part.split(".")
        found = sum(p.numel() for n, p in module.named_parameters() if belongs(n, steps))
        assert found == count, part


def belongs(name, steps):
    segments = iter(re.sub(r"norms\.", "", name).split("."))
    return all(s in segments for s in steps)


# ---- official vectors


def lavis(params):
    """LAVIS' names → ours."""
    rules = (
        (r"^Qformer\.bert\.embeddings\.LayerNorm\.", "embed.norm."),
        (r"^Qformer\.bert\.embeddings\.word_embeddings\.", "embed.tokens."),
        (r"^Qformer\.bert\.embeddings\.position_embeddings\.", "embed.positions."),
        (r"^Qformer\.bert\.encoder\.layer\.", "layers."),
        (r"^encoder\.layer\.", "layers."),
        (r"^layernorm\.", "embed.norm."),
        (r"\.attention\.(self|attention)\.", ".attention."),
        (r"\.crossattention\.(self|attention)\.", ".cross."),
        (r"\.attention\.output\.dense\.", ".attention.out."),
        (r"\.crossattention\.output\.dense\.", ".cross.out."),
        (r"\.attention\.output\.LayerNorm\.", ".norms.attention."),
        (r"\.crossattention\.output\.LayerNorm\.", ".norms.cross."),
        (r"\.query\.", ".q."),
        (r"\.key\.", ".k."),
        (r"\.value\.", ".v."),
        (r"\.intermediate_query\.dense\.", ".mlp.experts.query.fc1."),
        (r"\.output_query\.dense\.", ".mlp.experts.query.fc2."),
        (r"\.output_query\.LayerNorm\.", ".norms.mlp.experts.query."),
        (r"\.intermediate\.dense\.", ".mlp.experts.text.fc1."),
        (r"\.output\.dense\.", ".mlp.experts.text.fc2."),
        (r"\.output\.LayerNorm\.", ".norms.mlp.experts.text."),
    )
    state = {}
    for key, value in params.items():
        for pattern, new in rules:
            key = re.sub(pattern, new, key)
        state[key] = value
    return state


@pytest.fixture(scope="module")
def official():
    tensors, info = load_file(f"{GOLDEN}.safetensors"), json.loads(GOLDEN.with_suffix(".json").read_text())
    c = info["config"]["qformer"]
    config = QFormer(
        d_image=info["config"]["vision"]["width"],
        queries=c["queries"],
        layers=c["layers"],
        width=c["hidden"],
        heads=c["heads"],
        mlp=c["intermediate"],
        vocab=c["vocab"],
        max_positions=c["max_positions"],
        cross_every=c["cross_attention_freq"],
        norm_eps=c["ln_eps"],
    )
    module = config.build().eval()
    params = {k[6:]: v for k, v in tensors.items() if k.startswith("param.Qformer.bert.") and not k.endswith("position_ids")}
    state = lavis(params)
    state["queries"] = tensors["param.query_tokens"][0]
    module.load_state_dict(state)
    return module, tensors, info


def close(out, wanted, tolerance):
    return ((out - wanted).norm() / wanted.norm()).item() < tolerance


def test_single_passes_equal_the_official_ones(official):
    module, t, info = official
    out = run(module, image=t["out.image_tokens"])
    assert out.keys() == {"queries"} and close(out["queries"], t["out.query_only"], info["tolerance"])
    for mask in MASKS[:2]:
        out = run(module, ids=t["in.ids"], ids_mask=t["in.mask"], mask=mask)
        assert out.keys() == {"text"} and close(out["text"], t["out.text_only"], info["tolerance"])


@pytest.mark.parametrize(("mask", "wanted"), [("bidirectional", "joint_bidirectional"), ("multimodal_causal", "joint_uni_lm")])
def test_joint_passes_equal_the_official_ones(official, mask, wanted):
    module, t, info = official
    ids = t["in.ids"].clone()
    if mask == "multimodal_causal":
        ids[:, 0] = info["config"]["dec_id"]
    out = run(module, image=t["out.image_tokens"], ids=ids, ids_mask=t["in.mask"], mask=mask)
    joint = torch.cat([out["queries"], out["text"]], dim=1)
    assert joint.shape == t[f"out.{wanted}"].shape and close(joint, t[f"out.{wanted}"], info["tolerance"])


def test_unimodal_equals_the_two_single_passes(official):
    module, t, info = official
    out = run(module, image=t["out.image_tokens"], ids=t["in.ids"], ids_mask=t["in.mask"], mask="unimodal")
    assert close(out["queries"], t["out.query_only"], info["tolerance"]) and close(out["text"], t["out.text_only"], info["tolerance"])


def test_equals_transformers():
    pytest.importorskip("transformers")
    from transformers import Blip2QFormerConfig
    from transformers.models.blip_2.modeling_blip_2 import Blip2QFormerModel

    torch.manual_seed(2)
    config = Blip2QFormerConfig(
        hidden_size=16,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=24,
        encoder_hidden_size=10,
        cross_attention_frequency=2,
    )
    reference = Blip2QFormerModel(config).eval()
    with torch.no_grad():
        for parameter in reference.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    module = build(text=False)
    state = lavis(reference.state_dict())
    module.load_state_dict({**state, "queries": module.queries})
    image = torch.randn(2, 6, 10)
    wanted = reference(query_embeds=module.queries.expand(2, -1, -1), encoder_hidden_states=image).last_hidden_state
    torch.testing.assert_close(module(image=image), wanted, rtol=2e-5, atol=2e-5)


# ---- who sees whom


@pytest.mark.parametrize(("mask", "moves"), [*zip(MASKS, (False, True, False))])
def test_the_text_moves_the_queries_only_when_bidirectional(inputs, mask, moves):
    module = build()
    before = run(module, **inputs, mask=mask)
    after = run(module, **{**inputs, "ids": inputs["ids"].roll(1, 1)}, mask=mask)
    assert torch.allclose(before["queries"], after["queries"], atol=1e-6) != moves
    assert not torch.allclose(before["text"], after["text"], atol=1e-3)


@pytest.mark.parametrize(("mask", "moves"), [*zip(MASKS, (False, True, True))])
def test_the_image_moves_the_text_unless_unimodal(inputs, mask, moves):
    module = build()
    before = run(module, **inputs, mask=mask)["text"]
    after = run(module, **{**inputs, "image": inputs["image"] * -1}, mask=mask)["text"]
    assert torch.allclose(before, after, atol=1e-6) != moves
    if moves:  # every word sees the queries
        assert ((before - after).abs().amax(-1) > 1e-4).all()


def test_words_see_only_earlier_words_when_causal(inputs):
    module = build()
    ids = inputs["ids"].clone()
    before = run(module, image=inputs["image"], ids=ids, mask="multimodal_causal")["text"]
    ids[:, 4] = (ids[:, 4] + 7) % 50
    after = run(module, image=inputs["image"], ids=ids, mask="multimodal_causal")["text"]
    torch.testing.assert_close(after[:, :4], before[:, :4], rtol=1e-5, atol=1e-6)
    assert ((before - after).abs().amax(-1) > 1e-4)[:, 4:].all()


@pytest.mark.parametrize("mask", MASKS)
def test_padding_is_not_seen(inputs, mask):
    module = build()
    before = run(module, **inputs, mask=mask)
    ids = inputs["ids"].clone()
    ids[1, 5:] = 3
    after = run(module, **{**inputs, "ids": ids}, mask=mask)
    torch.testing.assert_close(after["queries"], before["queries"], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(after["text"][1, :5], before["text"][1, :5], rtol=1e-5, atol=1e-6)


def test_only_the_queries_read_the_image(inputs):
    """In a single layer the words meet the queries before these meet the image."""
    module = build(layers=1)
    before = run(module, **inputs)
    after = run(module, **{**inputs, "image": inputs["image"] * -1})
    assert torch.equal(before["text"], after["text"]) and not torch.allclose(before["queries"], after["queries"], atol=1e-3)


def test_as_many_queries_for_any_image():
    module = build()
    assert {run(module, image=torch.randn(2, n, 10))["queries"].shape for n in (1, 6, 50)} == {(2, 3, 16)}


def test_batches_may_differ_when_unimodal(inputs):
    out = run(build(), image=inputs["image"][:1], ids=inputs["ids"], mask="unimodal")
    assert out["queries"].shape[0] == 1 and out["text"].shape[0] == 2


# ---- first values and mistakes


def test_queries_differ_at_first_and_their_mlp_is_the_texts():
    torch.manual_seed(0)
    module = QFormer(**TINY).build()
    module.init_weights()
    assert 0.01 < module.queries.std() < 0.03 and not torch.equal(module.queries[0], module.queries[1])
    for layer in module.layers:
        assert torch.equal(layer.mlp.experts["query"].fc1.weight, layer.mlp.experts["text"].fc1.weight)
        assert layer.mlp.experts["query"].fc1.weight is not layer.mlp.experts["text"].fc1.weight


def test_stage_two_leaves_the_text_path_without_gradient(inputs):
    module = build().train()
    module(image=inputs["image"])["queries"].square().sum().backward()
    without = {n for n, p in module.named_parameters() if p.grad is None}
    assert without == {n for n, _ in module.named_parameters() if "experts.text" in n or n.startswith(("embed.tokens", "embed.positions"))}


def test_mistakes(inputs):
    with pytest.raises(ValueError, match="causal"):
        build()(**inputs, mask="causal")
    with pytest.raises(ValueError, match="positions"):
        build()(ids=torch.ones(1, 13, dtype=torch.long))
    with pytest.raises(ValidationError, match="heads"):
        QFormer(**{**TINY, "heads": 3})


def test_signatures_and_absent_outputs():
    config = QFormer(**TINY)
    assert set(config.signature().inputs) == {"image", "ids", "ids_mask"}
    assert set(QFormer(**{**TINY, "text": False}).signature().inputs) == {"image"}
    assert config.absent(frozenset({"image"})) == {"text"} and config.absent(frozenset({"ids", "ids_mask"})) == {"queries"}
    assert config.absent(frozenset({"image", "ids"})) == set()


def test_flops():
    """Counted by hooks on the module's own matrices; attention is added by hand."""
    config, module = QFormer(**TINY), build()
    macs = []
    for part in module.modules():
        if isinstance(part, torch.nn.Linear):
            part.register_forward_hook(lambda m, x, _: macs.append(m.weight.numel() * x[0].shape[-2]))
    joint = {"B": Dim.of(1), "V": Dim.of(6), "T": Dim.of(7), "C": Dim.of(1)}
    run(module, image=torch.randn(1, 6, 10), ids=torch.ones(1, 7, dtype=torch.long))
    attention = 3 * 2 * 10 * 10 * 16 + 2 * 2 * 3 * 6 * 16
    assert config.flops(joint).constant == 2 * (sum(macs) + attention)
    macs.clear()
    run(module, image=torch.randn(1, 6, 10))
    assert config.flops({"B": Dim.of(1), "V": Dim.of(6)}).constant == 2 * (sum(macs) + 3 * 2 * 3 * 3 * 16 + 2 * 2 * 3 * 6 * 16)
