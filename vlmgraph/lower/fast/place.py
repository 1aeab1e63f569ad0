"""Weights laid side by side in huge pages (`vlmgraph.pages`), where a step of decoding reads all of them once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from ... import pages
from .fuse import fused

Home = tuple[int, int]
"""Address and bytes of a storage."""
LINE = 64
"""Bytes of a cache line, at which each weight begins."""


@dataclass
class Block:
    """Bytes `first` to `last` of a storage, and the weights that stand in them: several where they share some."""

    first: int
    last: int
    weights: list[Tensor]

    def move(self, to: Tensor, at: int) -> None:
        """Copy the bytes to `at` of `to` (uint8); the weights are there from then on."""
        one = self.weights[0]
        start, count = self.first - one.untyped_storage().data_ptr(), self.last - self.first
        to[at : at + count].copy_(view(one.untyped_storage(), torch.uint8, start, (count,), (1,)))
        for weight in self.weights:
            offset = (at + weight.data_ptr() - self.first) // weight.element_size()
            weight.data = view(to.untyped_storage(), weight.dtype, offset, weight.shape, weight.stride())


def view(storage: torch.UntypedStorage, dtype: torch.dtype, offset: int, shape: Sequence[int], strides: Sequence[int]) -> Tensor:
    """`offset` and `strides` are in elements."""
    return torch.empty(0, dtype=dtype).set_(storage, offset, tuple(shape), tuple(strides))


def place(root: nn.Module, known: set[Home]) -> set[Home]:
    """Move the weights of a model that are in other storages than the `known` ones; gives the known ones from now on.

    Ties and views of one another stay that. Copies are made one by one: memory grows by the largest, and by the pages of a file that
    weights are mapped from, until the last of them has left it. What other processes see stays.
    """
    page = pages.size()
    blocks = list(overlapping([w for w in weights(root) if home(w) not in known])) if page else []
    total = sum(padded(b) for b in blocks)
    if not page or total < page:
        return known
    memory = torch.frombuffer(pages.fresh(total + page), dtype=torch.uint8)
    pages.ask((memory.data_ptr(), memory.data_ptr() + len(memory)))
    at = -memory.data_ptr() % page
    while blocks:
        block = blocks.pop(0)
        block.move(memory, at)
        at += padded(block)
    return known | {home(memory)}


def home(weight: Tensor) -> Home:
    storage = weight.untyped_storage()
    return storage.data_ptr(), storage.nbytes()


def weights(root: nn.Module) -> Iterator[Tensor]:
    """All there are, once, with the joined tensors that parameters are rows of. Small ones too: a mapped file is closed with the last."""
    whole = [t for module in fused(root) for t in (module.whole, module.whole_scale)]
    seen: set[int] = set()
    for weight in (*root.parameters(), *root.buffers(), *whole):
        if weight is None or id(weight) in seen or is_traceable_wrapper_subclass(weight):  # several tensors that look like one
            continue
        seen.add(id(weight))
        if weight.device.type != "cpu" or weight.layout != torch.strided:
            continue
        if weight.numel() and not weight.is_shared():
            yield weight


def overlapping(found: list[Tensor]) -> Iterator[Block]:
    """Blocks of weights that share bytes, in the order of memory."""
    block: Block | None = None
    for weight in sorted(found, key=lambda w: w.data_ptr()):
        first = weight.data_ptr()
        last = first + (sum((n - 1) * s for n, s in zip(weight.shape, weight.stride())) + 1) * weight.element_size()
        if block is not None and first < block.last:
            block.weights.append(weight)
            block.last = max(block.last, last)
            continue
        if block is not None:
            yield block
        block = Block(first, last, [weight])
    if block is not None:
        yield block


def padded(block: Block) -> int:
    return -(-(block.last - block.first) // LINE) * LINE
