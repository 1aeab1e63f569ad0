"""Products with a few rows as torch operators, `vlmgraph::linear`, `linear_int8` and `linear_int4`: opaque to torch.compile and export.

On the CPU they run compiled (`native`), elsewhere and without a compiler by torch's own operators.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .pack import GROUP, unpacked

library = torch.library.Library("vlmgraph", "DEF")
library.define("linear(Tensor x, Tensor weight, Tensor? bias) -> Tensor")
library.define("linear_int8(Tensor x, Tensor codes, Tensor scale, Tensor? bias) -> Tensor")
library.define("linear_int4(Tensor x, Tensor codes, Tensor scale, Tensor? bias) -> Tensor")


def by_torch(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return F.linear(x, weight, bias)


def int8_by_torch(x: Tensor, codes: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
    k = x.shape[-1]
    if x.device.type == "cpu" and x.dtype == torch.bfloat16 and x.numel() == k and not k % GROUP:  # one row, which torch has a kernel for
        y = torch._weight_int8pack_mm(x.reshape(1, -1), codes, scale.to(x.dtype)).view(*x.shape[:-1], -1)
        return y if bias is None else y + bias
    return F.linear(x, unpacked(codes, scale, k, x.dtype), bias)


def int4_by_torch(x: Tensor, codes: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
    return F.linear(x, unpacked(codes, scale, x.shape[-1], x.dtype), bias)


def shape(x: Tensor, weight: Tensor, *_: Tensor | None) -> Tensor:
    return x.new_empty(*x.shape[:-1], weight.shape[0])


for name, run in {"linear": by_torch, "linear_int8": int8_by_torch, "linear_int4": int4_by_torch}.items():
    library.impl(name, run, "CompositeExplicitAutograd")
    torch.library.register_fake(f"vlmgraph::{name}", shape, lib=library)


def product(x: Tensor, codes: Tensor, scale: Tensor, bias: Tensor | None = None) -> Tensor:
    """x [..., k] by packed weights [n, k] → [..., n]. On a GPU a plain formula, which torch.compile makes one kernel of."""
    if x.device.type in ("cpu", "meta"):
        op = torch.ops.vlmgraph.linear_int8 if codes.dtype == torch.int8 else torch.ops.vlmgraph.linear_int4
        return op(x, codes, scale, bias)
    if codes.dtype == torch.int8:
        y = F.linear(x, codes.to(x.dtype)) * scale.to(x.dtype)
        return y if bias is None else y + bias
    return int4_by_torch(x, codes, scale, bias)
