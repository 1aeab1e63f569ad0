"""Multi-head latent attention: what is computed, what a cache keeps, and that both ways to compute it agree."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from tests.architectures.common import close
from vlmgraph.components.layer.mla import LatentAttention
from vlmgraph.ir.dims import Dim
from vlmgraph.nn.cache import LayerCache
from vlmgraph.nn.rope import RoPE

FIELDS: dict[str, Any] = {"width": 20, "heads": 3, "kv_rank": 7, "nope": 5, "rope": 4, "value": 6, "interleaved": True}
X = torch.randn(2, 9, 20, generator=torch.Generator().manual_seed(1))
CAUSAL = torch.ones(9, 9, dtype=torch.bool).tril()[None, None]


def layer(**fields: Any) -> Any:
    torch.manual_seed(3)
    module = LatentAttention(**{**FIELDS, **fields}).build()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return module


def turns(start: int, stop: int) -> Any:
    return RoPE(4, 100.0, interleaved=True)(torch.arange(start, stop)[None])


@torch.no_grad()
@pytest.mark.parametrize("fields", [{}, {"q_rank": 8}, {"q_rank": 8, "bias": True}])
def test_counts_and_flops_are_the_modules(fields: dict[str, Any]) -> None:
    config, module = LatentAttention(**{**FIELDS, **fields}), layer(**fields)
    assert config.total() == sum(p.numel() for p in module.parameters())
    with FlopCounterMode(display=False) as counter:
        module(X[:1], CAUSAL, turns(0, 9))
    assert counter.get_total_flops() == config.flops({"N": Dim.of(9), "K": Dim.of(9)}).constant
    assert config.cached == 11


@torch.no_grad()
def test_by_hand() -> None:
    """One vector of seven and one of four a token; the four turn, and are those of every head."""
    module = layer(q_rank=8)
    b, h = 1, 2
    q = module.q_b(module.q_norm(module.q_a(X)))[b].view(9, 3, 9)[:, h]
    down = module.kv_a(X)[b]
    c = down[:, :7] / (down[:, :7].square().mean(-1, keepdim=True) + 1e-6).sqrt() * module.kv_norm.weight
    both = module.kv_b(c).view(9, 3, 11)[:, h]

    def turned(x: torch.Tensor) -> torch.Tensor:
        pairs = torch.view_as_complex(x.reshape(9, 2, 2).contiguous())
        angles = torch.arange(9)[:, None] * torch.tensor([1.0, 0.1])
        return torch.view_as_real(pairs * torch.polar(torch.ones_like(angles), angles)).flatten(1)

    scores = (q[:, :5] @ both[:, :5].T + turned(q[:, 5:]) @ turned(down[:, 7:]).T) / 3
    read = scores.masked_fill(~CAUSAL[0, 0], float("-inf")).softmax(-1) @ both[:, 5:]
    heads: list[torch.Tensor] = []
    hook = module.out.register_forward_pre_hook(lambda _, args: heads.append(args[0]))
    module(X, CAUSAL, turns(0, 9))
    hook.remove()
    close(heads[0][b].view(9, 3, 6)[:, h], read)


@torch.no_grad()
@pytest.mark.parametrize("cuts", [(0, 9), (0, 4, 9), (0, 5, 6, 7, 8, 9)])
def test_a_cache_of_latent_vectors_gives_the_same(cuts: tuple[int, ...]) -> None:
    """Eleven numbers a token are kept, no keys and values; whole chunks go through it as single tokens do."""
    module = layer()
    wanted, cache = module(X, CAUSAL, turns(0, 9)), LayerCache()
    parts = [module(X[:, a:b], CAUSAL[:, :, a:b, :b], turns(a, b), cache) for a, b in zip(cuts, cuts[1:])]
    close(torch.cat(parts, 1), wanted)
    assert cache.k is not None and cache.v is not None and cache.k.shape == (2, 1, 9, 7) and cache.v.shape == (2, 1, 9, 4)


@torch.no_grad()
def test_both_forms_agree() -> None:
    module = layer()
    q, q_rope = torch.randn(2, 3, 4, 5), torch.randn(2, 3, 4, 4)
    latent, k_rope = torch.randn(2, 1, 6, 7), torch.randn(2, 1, 6, 4)
    mask = torch.rand(2, 1, 4, 6) > 0.3
    close(module.absorbed(q, q_rope, latent, k_rope, mask), module.expanded(q, q_rope, latent, k_rope, mask), 2e-6)
