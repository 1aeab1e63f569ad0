"""Modules whose weights are codes and scales, in the places of those that they were made from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ....nn.moe import StackedExperts
from . import native
from .ops import product
from .pack import unpacked


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """F.linear; without gradients on the CPU a few rows, as steps of decoding have them, are read at the speed of the memory."""
    one = x.dim() < 2 or x.shape[-2] == 1  # token of each sample: more are torch's, which compiles them with what stands around them
    if one and native.ready and x.device.type == "cpu" and x.dtype in (torch.bfloat16, torch.float32) and not torch.is_grad_enabled():
        y: Tensor = torch.ops.vlmgraph.linear(x, weight, bias)
        return y
    return F.linear(x, weight, bias)


class RowLinear(nn.Linear):
    """A linear map by `linear`."""

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)


class Packed(nn.Module):
    """Codes and scales of a matrix [..., n, k]. They keep their types when the model is given another one."""

    codes: Tensor
    scale: Tensor

    def __init__(self, codes: Tensor, scale: Tensor, k: int, kind: torch.dtype) -> None:
        super().__init__()
        self.register_buffer("codes", codes)
        self.register_buffer("scale", scale)
        self.k, self.kind = k, kind
        self.keeps_types = True

    def reset_parameters(self) -> None:
        """Codes have no first values: they are made of weights or loaded."""

    @property
    def bits(self) -> int:
        return 8 if self.codes.dtype == torch.int8 else 4

    @property
    def weight(self) -> Tensor:
        """The matrix as numbers, for what reads it otherwise than in a product."""
        return unpacked(self.codes, self.scale, self.k, self.kind)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        kept = self.scale.dtype
        super()._apply(fn, recurse)
        self.scale = self.scale.to(kept)
        self.kind = fn(torch.empty(0, dtype=self.kind, device="meta" if self.codes.is_meta else None)).dtype
        return self


class LowBitLinear(Packed):
    """x [..., k] → [..., n]."""

    def __init__(self, codes: Tensor, scale: Tensor, k: int, kind: torch.dtype, bias: nn.Parameter | None = None) -> None:
        super().__init__(codes, scale, k, kind)
        self.bias = bias
        self.in_features, self.out_features = k, len(codes)

    def forward(self, x: Tensor) -> Tensor:
        return product(x, self.codes, self.scale, self.bias)


class LowBitEmbedding(Packed):
    """ids → rows [..., k]."""

    def __init__(self, codes: Tensor, scale: Tensor, k: int, kind: torch.dtype) -> None:
        super().__init__(codes, scale, k, kind)
        self.num_embeddings, self.embedding_dim = len(codes), k

    def forward(self, ids: Tensor) -> Tensor:
        return unpacked(self.codes[ids], self.scale[ids], self.k, self.kind)


class LowBitExperts(StackedExperts):
    """`StackedExperts` with the transposes of its matrices, by expert."""

    def __init__(self, gate_up: Packed, down: Packed, act: nn.Module) -> None:
        nn.Module.__init__(self)
        self.gate_up, self.down, self.act = gate_up, down, act  # type: ignore[assignment]

    def forward(self, x: Tensor, expert: int) -> Tensor:
        gate_up, down = (product_of(expert, part) for part in (self.gate_up, self.down))
        gate, up = gate_up(x).chunk(2, dim=-1)
        return down(self.act(gate) * up)


def product_of(expert: int, part: Any) -> Callable[[Tensor], Tensor]:
    return lambda x: product(x, part.codes[expert], part.scale[expert])
