"""Repeated blocks: which modules of a model are the same but for the values of their weights, and a call of one as a plain function.

Both what compiles a kind once (`regional.py`) and what captures it once (`export/onnx/repeat.py`) start here.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn

from .lowbit.modules import Packed
from .traced import Given, Made, TracedCache, leave

HOLDERS = (nn.ModuleList, nn.ModuleDict, nn.Sequential)


def regions(
    root: nn.Module, apart: tuple[type[nn.Module], ...] = (), prefix: str = "", repeated: bool = False
) -> Iterator[tuple[str, nn.Module]]:
    """The outermost repeated blocks with their names: entries of lists of modules that do more than one matrix product.

    Blocks that hold a module of a type in `apart` are none, but what stands in them may be.
    """
    for name, child in root.named_children():
        path = f"{prefix}{name}"
        listed = repeated or isinstance(root, HOLDERS)
        holds, split = isinstance(child, HOLDERS), any(isinstance(part, apart) for part in child.modules())
        if listed and not holds and products(child) > 1 and not split:
            yield path, child
        else:
            yield from regions(child, apart, f"{path}.", listed and not holds and split)


def products(module: nn.Module) -> int:
    return sum(p.dim() > 1 for p in module.parameters()) + sum(isinstance(part, Packed) for part in module.modules())


def signature(module: nn.Module) -> tuple[Any, ...]:
    """Equal for blocks that differ in the values of their weights alone."""
    parts = tuple((name, type(part), plain(part)) for name, part in module.named_modules())
    tensors = tuple((name, tuple(t.shape), t.dtype) for name, t in (*module.named_parameters(), *module.named_buffers()))
    return (parts, tensors)


def plain(module: nn.Module) -> tuple[Any, ...]:
    """The attributes of a module that are numbers, texts and the like."""
    skipped = nn.Module().__dict__.keys() | {"forward"}
    return tuple((key, repr(value)) for key, value in sorted(vars(module).items()) if key not in skipped and simple(value))


def simple(value: Any) -> bool:
    if isinstance(value, (tuple, list)):
        return all(simple(v) for v in value)
    if isinstance(value, dict):
        return all(simple(v) for v in value.values())
    return value is None or isinstance(value, (bool, int, float, str))


def region(block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, list[Made]]:
    """A block's forward, with its caches as tensors that come (`Given` among the arguments) and go."""
    caches: list[TracedCache] = []
    inner = [opened(a, caches) for a in args]
    named = {name: opened(a, caches) for name, a in kwargs.items()}
    out = type(block).forward(block, *inner, **named)
    return out, [leave(cache) for cache in caches]


def opened(argument: Any, caches: list[TracedCache]) -> Any:
    if isinstance(argument, Given):
        caches.append(TracedCache(argument))
        return caches[-1]
    return argument
