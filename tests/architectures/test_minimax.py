"""MiniMax-01's decoder (arXiv 2501.08313): lightning and softmax attention in turns, a mixture of experts in every layer."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from tests.architectures.common import close, fresh, lively, meta, next_token_loss, padded, published, random_ids, trains
from vlmgraph.components.layer.lightning import Lightning
from vlmgraph.components.layer.moe import MixtureOfExperts
from vlmgraph.diagnostics import DiagnosticError
from vlmgraph.ir.dims import Dim
from vlmgraph.nn.cache import KVCache, LayerCache
from vlmgraph.weights.import_config import import_config

SPEC = "minimax-text-01"


def logits(**inputs: Tensor) -> Tensor:
    with torch.no_grad():
        return lively(SPEC)(**inputs)["logits"]


def lightning(depth: float = 0.25, block: int = 4) -> nn.Module:
    torch.manual_seed(3)
    return Lightning(width=24, heads=3, head_dim=6, block=block, depth=depth).build()


def test_counts() -> None:
    """456.09 billion; a layer has 5,436,014,592 parameters of experts and router, 251,666,432 or 113,246,208 of attention."""
    assert published(SPEC)["total"] == 456_089_655_296
    layers = meta(SPEC).llm.layers
    sizes = [sum(p.numel() for p in layer.attention.parameters()) for layer in layers]
    assert {i for i, size in enumerate(sizes) if size == 113_246_208} == set(range(7, 80, 8)) and sizes.count(251_666_432) == 70
    assert sum(p.numel() for p in layers[0].mlp.parameters()) == 5_436_014_592
    idle = 80 * 30 * sum(p.numel() for p in layers[0].mlp.experts[0].parameters())
    assert 456_089_655_296 - 2 * 200_064 * 6144 - idle == 45_944_920_064  # what takes part for a token, published as 45.9 billion


@torch.no_grad()
def test_flops() -> None:
    """As counted while the modules run: two experts a token, products inside blocks of four and with the state."""
    x = torch.randn(1, 8, 24)
    moe = MixtureOfExperts(experts=5, top_k=2, width=24, hidden=6, act="silu")
    for config, module in ((moe, moe.build()), (Lightning(width=24, heads=3, head_dim=6, block=4), lightning())):
        with FlopCounterMode(display=False) as counter:
            module(x)
        assert counter.get_total_flops() == config.flops({"N": Dim.of(8)}).constant


def test_as_transformers_counts() -> None:
    import transformers as tf

    kinds = ["full_attention" if i % 2 else "linear_attention" for i in range(4)]
    config = tf.MiniMaxConfig(
        vocab_size=320, hidden_size=48, intermediate_size=44, num_hidden_layers=4, num_attention_heads=6, num_key_value_heads=2,
        head_dim=12, num_local_experts=4, layer_types=kinds,
    )  # fmt: skip
    with torch.device("meta"):
        theirs = tf.MiniMaxForCausalLM(config)
    assert published(SPEC, "tiny")["total"] == sum(p.numel() for p in theirs.parameters())


@torch.no_grad()
@pytest.mark.parametrize("block", [1, 4, 64])
def test_blocks_recurrence_and_sum_agree(block: int) -> None:
    """S_t = e^-s S_(t-1) + k_t^T v_t and o_t = q_t S_t by hand, whatever the block; and so does one step at a time."""
    layer = lightning(block=block)
    x = torch.randn(2, 11, 24, generator=torch.Generator().manual_seed(1))
    q, k, v = (torch.nn.functional.silu(layer.qkv(x)).view(2, 11, 3, 3, 6)[:, :, :, i].double() for i in range(3))
    slope = torch.tensor([2 ** (-8 * (h + 1) / 3) * (1 - 0.25 + 1e-5) for h in range(3)], dtype=torch.float64)
    state, outs = torch.zeros(2, 3, 6, 6, dtype=torch.float64), []
    for t in range(11):
        state = torch.exp(-slope)[:, None, None] * state + k[:, t, :, :, None] * v[:, t, :, None, :]
        outs.append((q[:, t, :, None, :] @ state)[:, :, 0])
    y = torch.stack(outs, 1).flatten(2).float()
    wanted = layer.proj(torch.sigmoid(layer.gate(x)) * y / (y.square().mean(-1, keepdim=True) + 1e-6).sqrt())
    close(layer(x), wanted)
    cache = LayerCache()
    steps = [layer(x[:, a:b], cache=cache) for a, b in ((0, 5), (5, 6), (6, 11))]
    close(torch.cat(steps, 1), wanted)
    close(cache.state, state.float())
    assert cache.seen == 11 and cache.state.shape == (2, 3, 6, 6)


@torch.no_grad()
def test_no_decay_is_plain_linear_attention() -> None:
    """At the top of the stack almost nothing is forgotten."""
    layer = lightning(depth=1.0)
    x = torch.randn(1, 9, 24, generator=torch.Generator().manual_seed(1))
    q, k, v = (torch.nn.functional.silu(layer.qkv(x)).view(1, 9, 3, 3, 6)[:, :, :, i].transpose(1, 2) for i in range(3))
    y = ((q @ k.transpose(-1, -2)).tril() @ v).transpose(1, 2).flatten(2)
    close(layer(x), layer.proj(torch.sigmoid(layer.gate(x)) * layer.norm(y)), 1e-4)  # e^-1e-5 is left of a decay
    assert not torch.allclose(lightning(depth=0.9)(x), layer(x), atol=1e-3)


def test_decay_by_layer_and_head() -> None:
    slopes = [layer.attention.slope.flatten() for layer in lively(SPEC).llm.layers if hasattr(layer.attention, "slope")]
    assert len(slopes) == 2
    for slope, i in zip(slopes, (0, 2)):
        close(slope, torch.tensor([2 ** (-8 * (h + 1) / 6) * (1 - i / 3 + 1e-5) for h in range(6)]), 1e-5)


@torch.no_grad()
def test_two_experts_by_hand() -> None:
    """The softmax over the two best scores weighs their outputs; the others do not run, nor do they count."""
    torch.manual_seed(0)
    moe = MixtureOfExperts(experts=5, top_k=2, width=8, hidden=6, act="silu").build()
    x = torch.randn(2, 3, 8)
    scores, best = moe.router(x).topk(2, -1)
    outputs = torch.stack([expert(x) for expert in moe.experts], 2)
    wanted = (scores.softmax(-1)[..., None] * outputs.gather(2, best[..., None].expand(-1, -1, -1, 8))).sum(2)
    close(moe(x), wanted)
    shares = moe.shares(moe.router(x).flatten(0, 1))
    assert (shares > 0).sum(-1).tolist() == [2] * 6 and torch.allclose(shares.sum(-1), torch.ones(6))
    plain = MixtureOfExperts(experts=5, top_k=2, width=8, hidden=6, act="silu", renormalise=False).build()
    plain.load_state_dict(moe.state_dict())
    kept = moe.router(x).softmax(-1).gather(-1, best)
    close(plain(x), (kept[..., None] * outputs.gather(2, best[..., None].expand(-1, -1, -1, 8))).sum(2))
    ran: list[int] = []
    hooks = [e.register_forward_hook(lambda _, args, y: ran.append(len(args[0]))) for e in moe.experts]
    moe(x)
    for hook in hooks:
        hook.remove()
    assert sum(ran) == 12


@torch.no_grad()
def test_the_normed_stream_goes_on() -> None:
    """h = a LN(x) + f(LN(x)): with branches that give nothing a layer is a LN(a LN(x))."""
    block = lively(SPEC).llm.layers[0]
    x = torch.randn(1, 5, 48, generator=torch.Generator().manual_seed(1))
    a = (2 * 80) ** 0.25
    y = block.norms["attention"](x)
    y = block.norms["mlp"](a * y + block.attention(y))
    close(block(x), a * y + block.mlp(y))


def test_causal() -> None:
    ids = random_ids(1, 9)
    other = ids.clone()
    other[0, 5] += 1
    before, after = logits(input_ids=ids), logits(input_ids=other)
    close(after[:, :5], before[:, :5], 1e-6)
    assert not torch.allclose(after[:, 8], before[:, 8], atol=1e-5)


def test_padding_leaves_nothing_behind() -> None:
    """A row padded on the left gives what it gives alone: padding is in no state and no softmax."""
    row = random_ids(1, 7)
    alone = logits(input_ids=row)
    ids, mask = padded(row, torch.ones_like(row), left=5)
    close(logits(input_ids=ids, attention_mask=mask)[:, 5:], alone, 2e-5)
    ids[0, :5] = 44
    close(logits(input_ids=ids, attention_mask=mask)[:, 5:], alone, 2e-5)


@torch.no_grad()
def test_decoding() -> None:
    """One token at a time gives what the whole row gives; only softmax layers keep keys and values; rows can be reordered."""
    model, ids = lively(SPEC), random_ids(2, 10)
    whole, cache = logits(input_ids=ids), KVCache()
    x = model.embed(ids)
    parts = [model.llm(x[:, a:b], cache=cache) for a, b in ((0, 6), (6, 7), (7, 8))]
    assert cache.length == 8 and [layer.k is not None for layer in cache.layers] == [False, True, False, True]
    cache.reorder(torch.tensor([1, 0]))
    parts = [model.head(part) for part in parts]
    close(torch.cat(parts, 1), whole[:, :8])
    close(model.head(model.llm(x.flip(0)[:, 8:9], cache=cache)), whole.flip(0)[:, 8:9])
    mask = torch.ones_like(ids)
    made = model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=4, do_sample=False, eos_token_id=None)[:, -4:]
    row = ids
    for i in range(4):
        row = torch.cat([row, logits(input_ids=row)[:, -1:].argmax(-1)], 1)
        assert torch.equal(row[:, -1], made[:, i])


@torch.no_grad()
def test_decoding_a_padded_row() -> None:
    """What is generated behind padding is what is generated without it."""
    model, row = lively(SPEC), random_ids(1, 6)
    other = random_ids(1, 10, seed=8)
    ids, mask = padded(row, torch.ones_like(row), left=4)
    options = {"max_new_tokens": 5, "do_sample": False, "eos_token_id": None}
    alone = model.generate(input_ids=row, attention_mask=torch.ones_like(row), **options)[:, -5:]
    both = {"input_ids": torch.cat([ids, other]), "attention_mask": torch.cat([mask, torch.ones_like(other)])}
    assert torch.equal(model.generate(**both, **options)[:1, -5:], alone)


@pytest.mark.parametrize(
    ("key", "value"),
    [("sliding_window", 16), ("layer_types", ["window"]), ("hidden_act", "mish"), ("rope_scaling", {"rope_type": "ntk"})],
)
def test_what_is_not_computed_is_refused(tmp_path: Path, key: str, value: object) -> None:
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"model_type": "minimax", key: value}))
    with pytest.raises(DiagnosticError, match=key):
        import_config(config)
    config.write_text(json.dumps({"model_type": "minimax", "num_hidden_layers": 6}))
    llm = import_config(config).spec["components"]["llm"]
    assert llm["pattern"] == ["full_attention", "linear_attention"] and llm["head_dim"] == 128


def test_training() -> None:
    model = fresh(SPEC)
    ids = random_ids(4, 12)
    loss = model.programs["objective.lm"](input_ids=ids, labels=ids)["loss"]
    close(loss, next_token_loss(model(input_ids=ids)["logits"], ids).float())
    trains(model, "pretrain", {"input_ids": ids, "labels": ids})
