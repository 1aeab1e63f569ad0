"""Regional compilation: each kind of repeated block goes through torch.compile once, and every block of the kind runs what came of it."""

from __future__ import annotations

import time
import types
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch._dynamo.backends.registry import lookup_backend
from torch._dynamo.exc import TorchDynamoException
from torch.fx.experimental import _config as fx_config

from ...nn.cache import LayerCache
from ...nn.lightning import LightningAttention
from ...nn.moe import MixtureOfExperts
from .blocks import region, regions, signature
from .traced import Given, enter, full, update

EAGER: dict[type[nn.Module], str] = {
    MixtureOfExperts: "which tokens an expert gets is a value",
    LightningAttention: "its loop over blocks of tokens depends on the length",
}
"""Modules that stay out of compiled regions, and why; their parts may be regions."""
CONFIG: Any = torch._dynamo.config
SHAPES: Any = fx_config
LIMIT = 16
"""Compilations of a kind, beyond which further forms of call run eagerly."""


@dataclass
class Kind:
    """Blocks that are the same but for their weights."""

    name: str
    blocks: int = 0
    forms: set[tuple[Any, ...]] = field(default_factory=set)
    """Ways in which it was called (`forms`). Each is compiled once; sizes beyond 1 make no form of their own."""
    compilations: int = 0
    recompilations: int = 0
    """Those for a form that was compiled before."""
    seconds: float = 0.0
    """Of the calls that compiled: torch's time, with what it takes once a process."""
    reason: str = ""
    """Why the blocks run eagerly, if they do."""
    expected: bool = False
    """Whether the call at hand has a form that is new."""


class Regions:
    """The compiled kinds of a model. `report()` says what was compiled, how often and for how long."""

    def __init__(self, model: nn.Module) -> None:
        self.kinds: dict[tuple[Any, ...], Kind] = {}
        counts: Counter[tuple[Any, ...]] = Counter()
        found = list(regions(model, tuple(EAGER)))
        signatures = {name: signature(module) for name, module in found}
        counts.update(signatures.values())
        names: Counter[str] = Counter()
        calls: dict[tuple[Any, ...], Callable[..., Any]] = {}
        for name, module in found:
            key = signatures[name]
            if counts[key] < 2 and not name.rpartition(".")[2].isdigit():
                continue
            if key not in self.kinds:
                called = type(module).__name__
                names[called] += 1
                self.kinds[key] = kind = Kind(f"{called}_{names[called]}" if names[called] > 1 else called)
                calls[key] = caller(kind)
            self.kinds[key].blocks += 1
            module.forward = types.MethodType(calls[key], module)

    @property
    def compilations(self) -> int:
        return sum(kind.compilations for kind in self.kinds.values())

    @property
    def recompilations(self) -> int:
        return sum(kind.recompilations for kind in self.kinds.values())

    def report(self) -> list[dict[str, Any]]:
        return [
            {
                "kind": kind.name,
                "blocks": kind.blocks,
                "forms": len(kind.forms),
                "compilations": kind.compilations,
                "recompilations": kind.recompilations,
                "seconds": round(kind.seconds, 3),
                **({"eager": kind.reason} if kind.reason else {}),
            }
            for kind in self.kinds.values()
        ]


def own_code(name: str) -> Callable[..., Any]:
    """`region` with code of its own: torch keeps what it compiles by code, so that kinds stay apart."""
    return types.FunctionType(region.__code__.replace(co_name=f"region_of_{name}"), region.__globals__)


def backend(kind: Kind) -> Callable[..., Any]:
    """torch's own, counted."""
    inductor: Any = lookup_backend("inductor")

    def compile(module: Any, inputs: Any) -> Any:
        kind.compilations += 1
        kind.recompilations += not kind.expected
        kind.expected = False
        return inductor(module, inputs)

    return compile


def caller(kind: Kind) -> Callable[..., Any]:
    """A forward of a block that runs the kind's compiled code."""
    compiled = torch.compile(own_code(kind.name), dynamic=True, fullgraph=True, backend=backend(kind))

    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        every = (*args, *kwargs.values())
        if kind.reason or torch.compiler.is_compiling() or any(stays_out(a) for a in every):
            return type(self).forward(self, *args, **kwargs)
        caches = [(a, enter(a)) for a in every if isinstance(a, LayerCache)]
        if any(full(given, every[0].shape[1]) for _, given in caches):
            return type(self).forward(self, *args, **kwargs)  # which refuses it
        given = iter([g for _, g in caches])
        args = tuple(next(given) if isinstance(a, LayerCache) else a for a in args)
        kwargs = {name: next(given) if isinstance(a, LayerCache) else a for name, a in kwargs.items()}
        form = (torch.is_grad_enabled(), self.training, *forms((*args, *kwargs.values())))
        if form in kind.forms:
            out, made = compiled(self, args, kwargs)
        else:
            kind.forms.add(form)
            kind.expected = True
            start = time.perf_counter()
            try:
                # sizes that are equal by chance in the first call may differ in the next
                with CONFIG.patch(recompile_limit=LIMIT, specialize_float=True), SHAPES.patch(use_duck_shape=False):
                    out, made = compiled(self, args, kwargs)
            except TorchDynamoException as error:
                kind.reason = str(error).strip().partition("\n")[0]
                return type(self).forward(self, *given_back(args, caches), **dict(zip(kwargs, given_back(tuple(kwargs.values()), caches))))
            kind.seconds += time.perf_counter() - start
        for (cache, before), after in zip(caches, made, strict=True):
            update(cache, before, after)
        return out

    return forward


def given_back(values: tuple[Any, ...], caches: list[tuple[LayerCache, Given]]) -> list[Any]:
    return [next((cache for cache, given in caches if given is value), value) for value in values]


def stays_out(argument: Any) -> bool:
    """What a compiled block cannot take: tensors without values, and a list that the block adds to."""
    return isinstance(argument, list) or (isinstance(argument, Tensor) and argument.device.type == "meta")


def forms(values: tuple[Any, ...]) -> Iterator[Any]:
    """What decides which compilation serves a call: of a tensor its dtype and rank and which dims are 0 or 1, of all else what it is."""
    for value in values:
        if isinstance(value, Tensor):
            yield value.dtype, value.requires_grad, *[size if size < 2 else 2 for size in value.shape]
        elif isinstance(value, tuple):
            yield tuple(forms(value))
        else:
            yield min(value, 2) if type(value) is int else value
