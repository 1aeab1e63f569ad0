"""Mixtures of experts: fine-grained and shared experts, routers with groups and biases, losses on their scores."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from tests.architectures.common import close
from vlmgraph.components.layer.moe import MixtureOfExperts
from vlmgraph.components.loss.balance import LoadBalance, RouterZ
from vlmgraph.ir.dims import Dim


def mixture(**fields: Any) -> tuple[MixtureOfExperts, Any]:
    torch.manual_seed(3)
    config = MixtureOfExperts(**{"experts": 8, "top_k": 3, "width": 10, "hidden": 6, "act": "silu", **fields})
    module = config.build()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(std=0.4)
    return config, module


X = torch.randn(2, 7, 10, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    "fields", [{}, {"stacked": True}, {"stacked": True, "shared": 9}, {"shared": {"hidden": 5, "bias": True, "act": "gelu"}}]
)
def test_counts_and_flops_are_the_modules(fields: dict[str, Any]) -> None:
    config, module = mixture(**fields)
    assert config.total() == sum(p.numel() for p in module.parameters())
    for part, count in config.parameters().items():
        assert count == sum(p.numel() for p in getattr(module, part).parameters())
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module(X[:1])
    assert counter.get_total_flops() == config.flops({"N": Dim.of(7)}).constant


@torch.no_grad()
def test_stacked_experts_by_hand() -> None:
    """Gate before up, [in, out]; every token's own experts alone, which other tokens' choices do not move."""
    _, moe = mixture(stacked=True, shared=9)
    scores, best = moe.router(X).topk(3, -1)
    weights = scores.softmax(-1)
    wanted = moe.shared.down(torch.nn.functional.silu(moe.shared.gate(X)) * moe.shared.up(X))
    for b in range(2):
        for t in range(7):
            for k in range(3):
                both = X[b, t] @ moe.experts.gate_up[best[b, t, k]]
                wanted[b, t] += weights[b, t, k] * ((torch.nn.functional.silu(both[:6]) * both[6:]) @ moe.experts.down[best[b, t, k]])
    close(moe(X), wanted)
    close(moe(X[:, 2:5]), wanted[:, 2:5], 1e-6)
    moe.experts.down.zero_()
    close(moe(X), moe.shared(X), 1e-7)


@torch.no_grad()
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_all_experts_on_all_tokens_is_the_same() -> None:
    """What runs where values cannot be read (export, compile)."""
    _, moe = mixture(stacked=True, shared=4)
    traced = torch.jit.trace(moe, X, check_trace=False)
    close(traced(X.flip(1)), moe(X.flip(1)), 1e-6)


@torch.no_grad()
def test_sigmoid_with_a_bias_for_the_choice() -> None:
    """The bias chooses and does not weigh; a constant on all changes nothing; weights add up to the scale."""
    _, moe = mixture(score="sigmoid", scale=2.5, bias_step=0.1)
    scores = moe.router(X.flatten(0, 1))
    plain = moe.shares(scores)
    close(plain.sum(-1), torch.full((14,), 2.5), 1e-6)
    moe.bias += 3.0
    assert torch.equal(moe.shares(scores), plain)
    moe.bias[5] += 10.0
    forced = moe.shares(scores)
    assert bool((forced[:, 5] > 0).all()) and not bool((plain[:, 5] > 0).all())
    odds = scores.sigmoid()
    kept = forced > 0
    assert kept.sum(-1).tolist() == [3] * 14
    close(forced[kept].view(14, 3), 2.5 * odds[kept].view(14, 3) / odds[kept].view(14, 3).sum(-1, keepdim=True), 1e-6)


def test_the_bias_moves_against_the_load() -> None:
    """After a step by its sign, without a gradient; not while the model does not train; what was counted is forgotten."""
    _, moe = mixture(score="sigmoid", bias_step=0.01)
    moe.train()
    y = moe(X)
    load = (moe.shares(moe.router(X).flatten(0, 1)) > 0).sum(0).float()
    assert torch.equal(moe.load, load) and len(set(load.tolist())) > 2
    y.square().sum().backward()
    assert "bias" not in dict(moe.named_parameters()) and moe.router.weight.grad is not None
    moe.after_step()
    assert torch.equal(moe.bias, 0.01 * torch.sign(load.mean() - load)) and moe.load is None
    moe.eval()
    moe(X)
    assert moe.load is None and "bias" in moe.state_dict()


@torch.no_grad()
@pytest.mark.parametrize("best", ["max", "two_best"])
def test_groups(best: str) -> None:
    """Experts of the two best of four groups alone."""
    _, moe = mixture(experts=8, top_k=3, groups=4, kept_groups=2, group_score=best, renormalise=False, scale=3.0)
    scores = moe.router(X.flatten(0, 1))
    odds = scores.softmax(-1)
    by_group = odds.view(14, 4, 2)
    whole = by_group.amax(-1) if best == "max" else by_group.sum(-1)
    for row in range(14):
        groups = whole[row].topk(2).indices.tolist()
        allowed = [i for i in range(8) if i // 2 in groups]
        wanted = sorted(sorted(allowed, key=lambda i: -odds[row, i])[:3])
        assert moe.shares(scores)[row].nonzero()[:, 0].tolist() == wanted
        close(moe.shares(scores)[row, wanted], 3 * odds[row, wanted], 1e-6)


@pytest.mark.parametrize(
    ("fields", "named"),
    [({"top_k": 9}, "top_k"), ({"groups": 3}, "groups"), ({"groups": 4, "kept_groups": 1}, "kept_groups"),
     ({"groups": 8, "kept_groups": 4, "group_score": "two_best"}, "group_score"), ({"stacked": True, "bias": True}, "stacked")],
)  # fmt: skip
def test_what_cannot_be_is_refused(fields: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        MixtureOfExperts(**{"experts": 8, "top_k": 3, **fields})


def test_losses_by_hand() -> None:
    router = torch.randn(3, 2, 5, 4, generator=torch.Generator().manual_seed(2))
    mask = torch.ones(2, 5)
    mask[1, 3:] = 0
    for per in ("batch", "sequence"):
        for real in (None, mask):
            total = torch.zeros(())
            for layer in router:
                rows = [layer.flatten(0, 1)] if per == "batch" else list(layer)
                kept = [torch.ones(len(r), dtype=torch.bool) for r in rows]
                if real is not None:
                    kept = [real.flatten().bool()] if per == "batch" else list(real.bool())
                each = []
                for x, k in zip(rows, kept):
                    x = x[k]
                    count = torch.zeros(4)
                    for best in x.topk(2, -1).indices.flatten().tolist():
                        count[best] += 1
                    each.append((count / (len(x) * 2 / 4) * x.softmax(-1).mean(0)).sum())
                total = total + torch.stack(each).mean()
            close(LoadBalance(top_k=2, per=per).build()(router, real), total, 1e-6)  # type: ignore[arg-type]
    squares = router.logsumexp(-1) ** 2
    close(RouterZ().build()(router), squares.mean((1, 2)).sum(), 1e-6)
    close(RouterZ().build()(router, mask), sum(layer[mask.bool()].mean() for layer in squares), 1e-6)  # type: ignore[arg-type]


def test_equal_load_is_the_least() -> None:
    even = torch.zeros(1, 1, 4, 4)
    even[0, 0].fill_diagonal_(9.0)
    uneven = torch.zeros(1, 1, 4, 4)
    uneven[..., 0] = 9.0
    loss = LoadBalance(top_k=1).build()
    close(loss(even), torch.tensor(1.0), 1e-6)
    assert loss(uneven) > 3.9
