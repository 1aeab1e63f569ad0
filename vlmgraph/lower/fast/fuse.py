"""Weights that read the same input joined into one product: queries, keys and values; gate and up.

Parameters keep their names and become rows of a joined tensor, so that what is loaded into them is in the joined product at once, and the
state dict stays what it was. Where gradients are wanted the separate products run.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...nn.attention import Attention, ModalityExpertAttention, Projections
from ...nn.mlp import Experts, GatedMLP
from ...nn.stack import Stack
from .layout import Layout, layout_hook, routed
from .lowbit.modules import LowBitLinear, Packed, RowLinear, linear
from .lowbit.ops import product
from .steps import StepStack

PARTS: dict[type[nn.Module], tuple[str, ...]] = {Projections: ("q", "k", "v"), Attention: ("q", "k", "v"), GatedMLP: ("gate", "up")}
"""Maps of one input, by the module that has them."""


class Joined(nn.Module):
    """What has maps of one input: `whole` holds their weights one behind the other (of low-bit ones the codes, `whole_scale` their
    scales), `whole_bias` their biases."""

    whole: Tensor | None
    whole_scale: Tensor | None
    whole_bias: Tensor | None
    sizes: tuple[int, ...]

    def maps(self) -> list[Any]:
        names = next(names for kind, names in PARTS.items() if kind in type(self).__mro__)
        return [getattr(self, name) for name in names]

    def join(self) -> None:
        maps = self.maps()
        self.sizes = tuple(m.out_features for m in maps)
        self.whole, self.whole_bias = joined([matrix(m) for m in maps]), joined([m.bias for m in maps])
        self.whole_scale = joined([m.scale for m in maps]) if isinstance(maps[0], LowBitLinear) else None

    def current(self) -> bool:
        """Whether the parameters still are the rows of what was joined: they are not after they moved or were replaced."""
        return self.whole is not None and holds(self.whole, [matrix(m) for m in self.maps()])

    def product(self, x: Tensor) -> tuple[Tensor, ...]:
        assert self.whole is not None
        scale, bias = self.whole_scale, self.whole_bias
        y = linear(x, self.whole, bias) if scale is None else product(x, self.whole, scale, bias)
        return y.split(self.sizes, dim=-1)


def matrix(module: Any) -> Tensor:
    """What a map reads of its weights: the codes of a low-bit one."""
    found: Tensor = module.codes if isinstance(module, Packed) else module.weight
    return found


def joined(parts: Sequence[Tensor | None]) -> Tensor | None:
    """One tensor of all rows, which the parts become views of. Of biases some may be missing: zeros stand for them, which are no part."""
    from torch._dynamo import mark_static

    there = [p for p in parts if p is not None]
    if len(there) < len(parts):
        return None
    whole = torch.cat([p.detach() for p in there])
    at = 0
    for part in there:
        part.data = whole[at : at + len(part)]
        at += len(part)
    mark_static(whole)
    return whole


def holds(whole: Tensor, parts: Sequence[Tensor]) -> bool:
    at = whole.data_ptr()
    for part in parts:
        if part.data_ptr() != at or part.dtype != whole.dtype:
            return False
        at += part.numel() * part.element_size()
    return True


class JoinedProjections(Joined, Projections):
    """The projections of one expert."""


class JoinedAttention(Joined, Attention):
    """Queries, keys and values are one product; a single new token attends with the heads of a group side by side, so that shared keys and
    values are not repeated."""

    def project(self, x: Tensor, keys: Tensor, modality: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        if torch.is_grad_enabled() or x is not keys or self.whole is None:
            return super().project(x, keys, modality)
        q, k, v = self.product(x)
        return self.heads_of(q, self.q_norm), self.heads_of(k, self.k_norm), self.heads_of(v)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        if q.shape[2] != 1 or self.kv_heads == self.heads or self.soft_cap is not None or (mask is not None and mask.shape[1] != 1):
            return super().attend(q, k, v, mask)
        mask = mask.to(q.dtype) if mask is not None and mask.is_floating_point() else mask
        grouped = q[:, :, 0].unflatten(1, (self.kv_heads, -1))  # [B, kv_heads, heads of a group, head_dim]
        return F.scaled_dot_product_attention(grouped, k, v, attn_mask=mask, scale=self.scale).flatten(1)[:, None]


class JoinedExpertAttention(ModalityExpertAttention):
    """Tokens of a modality are taken out once for its queries, keys and values."""

    def project(self, x: Tensor, keys: Tensor, modality: Tensor | Layout | None = None) -> tuple[Tensor, Tensor, Tensor]:
        experts: list[Any] = list(self.experts.values())
        if torch.is_grad_enabled() or x is not keys or not all(e.whole is not None for e in experts):
            return super().project(x, keys, modality)  # type: ignore[arg-type]
        if modality is None:
            parts = experts[0].product(x)
        elif isinstance(modality, Layout):
            parts = routed([e.product for e in experts], x, modality)
        else:
            return super().project(x, keys, modality)
        return self.heads_of(parts[0], self.q_norm), self.heads_of(parts[1], self.k_norm), self.heads_of(parts[2])

    def leave(self, y: Tensor, modality: Tensor | Layout | None = None) -> Tensor:
        if not isinstance(modality, Layout):
            return super().leave(y, modality)
        experts: list[Any] = list(self.experts.values())
        return routed([e.out for e in experts], y if self.inner_norm is None else self.inner_norm(y), modality)[0]


class JoinedExperts(Experts):
    def forward(self, x: Tensor, modality: Tensor | Layout | None = None) -> Tensor:
        if not isinstance(modality, Layout):
            return super().forward(x, modality)
        return routed(list(self.experts.values()), x, modality)[0]


class JoinedGatedMLP(Joined, GatedMLP):
    def forward(self, x: Tensor) -> Tensor:
        if torch.is_grad_enabled() or self.whole is None:
            return super().forward(x)
        gate, up = self.product(x)
        x = self.act(gate) * up
        return self.down(x if self.inner_norm is None else self.inner_norm(x))


KINDS: dict[type[nn.Module], type[nn.Module]] = {
    Attention: JoinedAttention,
    ModalityExpertAttention: JoinedExpertAttention,
    Projections: JoinedProjections,
    GatedMLP: JoinedGatedMLP,
    Experts: JoinedExperts,
    nn.Linear: RowLinear,
    Stack: StepStack,
}


def fuse(root: nn.Module) -> int:
    """Let every module of a known kind run joined; returns how many do. Weights are joined by `settle`, once they are there."""
    count = 0
    for module in root.modules():
        kind = KINDS.get(type(module))
        if kind is None or (isinstance(module, Attention) and "q" in module._modules and module.k.in_features != module.q.in_features):
            continue
        module.__class__ = kind
        if isinstance(module, Joined):
            module.whole = module.whole_scale = module.whole_bias = None
        count += 1
    for module in root.modules():
        if isinstance(module, Stack) and any(isinstance(part, (JoinedExperts, JoinedExpertAttention)) for part in module.modules()):
            module.register_forward_pre_hook(layout_hook, with_kwargs=True)
    return count


def unfuse(root: nn.Module) -> None:
    """The modules as they were built."""
    back = {joined: plain for plain, joined in KINDS.items()}
    for module in root.modules():
        module.__class__ = back.get(type(module), type(module))


def fused(root: nn.Module) -> Iterator[Joined]:
    for module in root.modules():
        if isinstance(module, Joined):
            yield module


def settle(root: nn.Module) -> None:
    """Join what is not, or no longer. Weights that stand in several places and maps of which some have a bias stay apart."""
    stale = [module for module in fused(root) if not module.current()]
    if not stale:
        return
    named = (*root.named_parameters(remove_duplicate=False), *root.named_buffers(remove_duplicate=False))
    places = Counter(id(p) for _, p in named)
    for module in stale:
        maps = module.maps()
        module.whole = module.whole_scale = module.whole_bias = None
        apart = len({(m.bias is None, matrix(m).dtype) for m in maps}) > 1
        apart = apart or any(places[id(p)] > 1 for m in maps for p in (*m.parameters(), *m.buffers()))
        if not apart and not any(matrix(m).is_meta for m in maps):
            module.join()
