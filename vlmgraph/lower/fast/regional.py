"""Regional compilation: each kind of repeated block goes through torch.compile once, and every block of the kind runs what came of it."""

from __future__ import annotations

import logging
import time
import types
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
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
from .bound import Bound, Unbound, bind, compilation, shape_key
from .traced import Given, enter, full, update
from .trial import apart, difference, restore

EAGER: dict[type[nn.Module], str] = {
    MixtureOfExperts: "which tokens an expert gets is a value",
    LightningAttention: "its loop over blocks of tokens depends on the length",
}
"""Modules that stay out of compiled regions, and why; their parts may be regions."""
log = logging.getLogger(__name__)
Key = tuple[Any, ...]
CONFIG: Any = torch._dynamo.config
SHAPES: Any = fx_config
LIMIT = 16
"""Compilations of a kind, beyond which further forms of call run eagerly."""
REMEMBERED = 4096
"""Shapes of calls of a kind that are kept, in which nothing is looked at but whether they came before."""


@dataclass
class Kind:
    """Blocks that are the same but for their weights."""

    name: str
    blocks: int = 0
    forms: set[tuple[Any, ...]] = field(default_factory=set)
    """Ways in which it was called (`forms`). Each is compiled once; sizes beyond 1 make no form of their own."""
    left: dict[tuple[Any, ...], str] = field(default_factory=dict)
    """Forms that run eagerly, and why."""
    compilations: int = 0
    recompilations: int = 0
    """Those for a form that was compiled before."""
    seconds: float = 0.0
    """Of the calls that compiled: torch's time, with what it takes once a process."""
    reason: str = ""
    """Why the blocks run eagerly, if they do."""
    expected: bool = False
    """Whether the call at hand has a form that is new."""
    latest: tuple[Any, Any, Any] | None = None
    """The compilation that ran last, what entered and what left it."""
    bound: dict[tuple[Any, ...], list[Bound]] = field(default_factory=dict)
    """By form, what is called without torch's guards."""
    exact: dict[tuple[Any, ...], Bound] = field(default_factory=dict)
    """By all sizes and strides, those of calls that came before."""

    def find(self, block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Bound | None, Key, Key]:
        """What serves a call without looking further, the call's exact shapes, and its form (left empty where the shapes were known)."""
        every = (*args, *kwargs.values()) if kwargs else args
        exact: list[Any] = [block.training, *kwargs]
        tensors: list[int] = []
        shape_key(every, exact, tensors)
        key = tuple(exact)
        # a tensor that enters twice is one input of a compilation
        plain = len(set(tensors)) == len(tensors) and not (torch.is_grad_enabled() or torch.is_inference_mode_enabled() or autocast())
        if plain and (bound := self.exact.get(key)) is not None:
            return bound, key, ()
        form = (plain, torch.is_grad_enabled(), autocast(), block.training, *kwargs, *forms(every, first_map(every)))
        for bound in self.bound.get(form, ()) if plain else ():
            if bound.fits(block, args, kwargs):
                self.remember(key, bound)
                return bound, key, form
        return None, key, form

    def remember(self, key: Key, bound: Bound) -> None:
        if len(self.exact) >= REMEMBERED:
            self.exact.clear()
        self.exact[key] = bound

    def compile(self, compiled: Callable[..., Any], form: Key, block: nn.Module, args: Any, kwargs: Any) -> Any:
        """The call through torch, which compiles where it has to; what it then gives is held against the block as it is. Raises Wrong."""
        if (x := first_map((*args, *kwargs.values()))) is not None:
            torch._dynamo.mark_static(x, list(range(1, x.dim())))
        self.expected, before = form not in self.forms, self.compilations
        self.forms.add(form)
        self.latest = None
        own = apart(args), apart(kwargs)
        start = time.perf_counter()
        # sizes that are equal by chance in the first call may differ in the next
        with CONFIG.patch(recompile_limit=LIMIT, specialize_float=True), SHAPES.patch(use_duck_shape=False):
            result = compiled(block, args, kwargs)
        if self.compilations == before:
            return result
        self.seconds += time.perf_counter() - start
        if not torch.is_grad_enabled() and not block.training:
            wanted = region(block, *own)
            if wrong := difference(result, wanted):
                restore((args, kwargs), own)
                raise Wrong(f"what torch compiled is not what the block computes: {wrong}", wanted)
        return result

    def leave(self, form: Key, reason: str) -> None:
        """Let a form run eagerly; all of them where none was ever compiled."""
        self.left[form] = reason
        if not self.compilations:
            self.reason = reason

    def bind(self, form: Key, key: Key, result: Any, new: int, code: Any) -> None:
        """Call what just ran without torch's guards from now on, where that can be."""
        latest, self.latest = self.latest, None
        if latest is None or not form[0]:
            return
        try:
            bound = bind(*latest, result, new, code)
        except Unbound as error:
            log.debug("%s stays behind torch's guards: %s", self.name, error)
            return
        self.bound.setdefault(form, []).append(bound)
        self.remember(key, bound)


BUILT: ContextVar[bool] = ContextVar("BUILT", default=False)


@contextmanager
def as_built() -> Iterator[None]:
    """Blocks run as they are, not as they were compiled."""
    before = BUILT.set(True)
    try:
        yield
    finally:
        BUILT.reset(before)


class Wrong(Exception):
    """What is wrong with a compilation, and what its block gives."""


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
                **({"eager": kind.reason or next(iter(kind.left.values()))} if kind.left else {}),
            }
            for kind in self.kinds.values()
        ]


def own_code(name: str) -> Callable[..., Any]:
    """`region` with code of its own: torch keeps what it compiles by code, so that kinds stay apart."""
    return types.FunctionType(region.__code__.replace(co_name=f"region_of_{name}"), region.__globals__)


def backend(kind: Kind) -> Callable[..., Any]:
    """torch's own, counted; each call leaves what entered and left the compiled code, for `bind`."""
    inductor: Any = lookup_backend("inductor")

    def compile(module: Any, inputs: Any) -> Any:
        kind.compilations += 1
        kind.recompilations += not kind.expected
        kind.expected = False
        run = inductor(module, inputs)
        made = compilation(module, run)

        def called(*flat: Any) -> Any:
            raw = run(*flat)
            kind.latest = (made, flat, raw)
            return raw

        return run if made is None else called

    return compile


def caller(kind: Kind) -> Callable[..., Any]:
    """A forward of a block that runs the kind's compiled code."""
    code = own_code(kind.name)
    compiled = torch.compile(code, dynamic=True, fullgraph=True, backend=backend(kind))

    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        caches: list[tuple[LayerCache, Given]] = []
        entering = tuple([entered(spread(a) if not i else a, caches) for i, a in enumerate(args)])
        named = {name: entered(a, caches) for name, a in kwargs.items()} if kwargs else kwargs
        new = (*args, *kwargs.values())[0].shape[1] if caches else 0
        if (
            kind.reason
            or torch.compiler.is_compiling()
            or BUILT.get()
            or stays_out(entering, named)
            or any(full(given, new) for _, given in caches)
        ):
            return type(self).forward(self, *args, **kwargs)  # where a static cache is full it says so
        bound, key, form = kind.find(self, entering, named)
        if bound is not None:
            flat = bound.read(self, entering, named)
            out, made = bound.give(bound.run(*flat), flat, new)
        elif form in kind.left:
            return type(self).forward(self, *args, **kwargs)
        else:
            try:
                out, made = kind.compile(compiled, form, self, entering, named)
            except TorchDynamoException as error:
                kind.leave(form, str(error).strip().partition("\n")[0])
                return type(self).forward(self, *args, **kwargs)
            except Wrong as error:
                kind.leave(form, str(error.args[0]))
                out, made = error.args[1]
            else:
                kind.bind(form, key, (out, made), new, code)
        for (cache, before), after in zip(caches, made, strict=True):
            update(cache, before, after)
        return out

    return forward


def autocast() -> bool:
    return any(torch.is_autocast_enabled(device) for device in ("cpu", "cuda"))


def spread(x: Any) -> Any:
    """What a block runs over, in memory of its own: the first of several blocks may be given one row for all samples, which is a form of
    its own to torch."""
    return x.contiguous() if isinstance(x, Tensor) and 0 in x.stride() else x


def entered(argument: Any, caches: list[tuple[LayerCache, Given]]) -> Any:
    """An argument as a region takes it; caches go to `caches`. Where no gradients are wanted a parameter is a tensor as others are."""
    if isinstance(argument, Tensor) and argument.requires_grad and not torch.is_grad_enabled():
        return argument.detach()
    if not isinstance(argument, LayerCache):
        return argument
    caches.append((argument, given := enter(argument)))
    return given


def stays_out(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether there is what a compiled block cannot take: tensors without values, and a list that the block adds to."""
    return any(isinstance(a, list) or (isinstance(a, Tensor) and a.is_meta) for a in (*args, *kwargs.values()))


def first_map(values: tuple[Any, ...]) -> Tensor | None:
    """What a block runs over, where that is a map [B, ..., H, W]: its sizes are those of the model, and windows that are cut out of open
    sizes compile slowly."""
    return values[0] if values and isinstance(values[0], Tensor) and values[0].dim() > 3 else None


def forms(values: tuple[Any, ...], x: Tensor | None = None) -> Iterator[Any]:
    """What decides which compilation serves a call: of a tensor its dtype and rank and which dims are 0 or 1, of all else what it is; of a
    map `x` all sizes but the first."""
    grad = torch.is_grad_enabled()
    for value in values:
        if isinstance(value, Tensor):
            sizes = [size if size < 2 else 2 for size in value.shape]
            yield value.dtype, value.device.type, grad and value.requires_grad, *(sizes if value is not x else [sizes[0], *value.shape[1:]])
        elif isinstance(value, tuple):
            yield tuple(forms(value))
        else:
            yield min(value, 2) if type(value) is int else value
