"""A block is captured once and written once a layer: the repeated blocks of a piece stand in its trace as one opaque node each.

The piece is traced with every repeated block as a call of an operator, whose shapes come from running the block on fakes. Each form of
call, a kind of block with the ranks and open dims of its arguments, is captured by itself; its nodes then take the place of every call,
with the weights of the layer that is called (`instance.py`).
"""

from __future__ import annotations

import contextlib
import types
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import stateless
from torch.utils import _pytree as pytree

from ...lower.fast.blocks import region, regions, signature
from ...lower.fast.traced import Made, enter, update
from ...nn.cache import LayerCache

DOMAIN = "vlmgraph_export"
library = torch.library.Library(DOMAIN, "DEF")
library.define("block(Tensor?[] values, str name) -> Tensor[]")
UNSEEN = 6
"""Stands for a number that is only known when the graph runs."""
NAMED: weakref.WeakValueDictionary[str, Call] = weakref.WeakValueDictionary()
"""Calls by their names, while a piece is being captured and for as long as what was traced is kept."""


@dataclass
class Form:
    """Calls that are the same but for weights and values: what is captured once."""

    call: Call
    """The first of them."""
    shapes: list[tuple[Any, ...]] = field(default_factory=list)
    """Of the tensors that enter; open dims are symbols."""
    given: list[tuple[int, ...]] = field(default_factory=list)
    """The sizes that they have in the sample."""
    dtypes: list[torch.dtype] = field(default_factory=list)


@dataclass
class Call:
    """One call of a block inside a piece: tensors in, tensors out."""

    name: str
    path: str
    block: nn.Module
    tree: Any
    """How its arguments are made of leaves."""
    constants: list[Any]
    """The leaves that are no tensors; `TENSOR` for those that are."""
    result: Any = None
    """How what it returns is made of tensors, and which of the leaves are some."""
    key: Any = None
    """Of its form."""
    label: str = ""
    """What its values are called after in the graph."""

    def __call__(self, values: list[Tensor | None]) -> list[Tensor]:
        """All tensors that leave: of the result, then of each cache what it holds."""
        rest = iter(values)
        leaves = [next(rest) if kind is TENSOR else kind for kind in self.constants]
        args, kwargs = pytree.tree_unflatten(leaves, self.tree)
        out, made = region(self.block, args, kwargs)
        kept = [(m.k, m.v, m.state) for m in made]
        found, self.result = pytree.tree_flatten((out, kept))
        self.result = (self.result, [isinstance(x, Tensor) for x in found])
        return [x for x in found if isinstance(x, Tensor)]

    @property
    def count(self) -> int:
        """Of the tensors that leave."""
        return sum(self.result[1])

    def returned(self, values: list[Tensor]) -> tuple[Any, list[tuple[Tensor | None, ...]]]:
        rest = iter(values)
        tree, tensors = self.result
        made: tuple[Any, list[tuple[Tensor | None, ...]]] = pytree.tree_unflatten([next(rest) if t else None for t in tensors], tree)
        return made


class _Tensor:
    """Marks the place of a tensor."""


TENSOR = _Tensor()


@torch.library.impl(library, "block", "CompositeExplicitAutograd")
def run(values: list[Tensor | None], name: str) -> list[Tensor]:
    """The block itself: what was traced computes what the piece does. Outputs are never inputs, which torch asks of an operator."""
    return [x.clone() for x in NAMED[name](values)]


@torch.library.register_fake(f"{DOMAIN}::block", lib=library)
def shapes(values: list[Tensor | None], name: str) -> list[Tensor]:
    return Tracing.current.fake(NAMED[name], values)


class Tracing:
    """Blocks of a module as opaque nodes while this is entered. `forms` are the calls that were seen, by what they share."""

    current: Any = None
    count = 0

    def __init__(self, module: nn.Module) -> None:
        found = list(regions(module))
        signatures = {name: signature(block) for name, block in found}
        counts = Counter(signatures.values())
        self.blocks = {name: block for name, block in found if counts[signatures[name]] > 1}
        self.signatures = signatures
        self.weights = {name: dict(block.state_dict(keep_vars=True)) | dict(block.named_buffers()) for name, block in self.blocks.items()}
        self.calls: dict[str, Call] = {}
        self.forms: dict[Any, Form] = {}
        self.made: dict[Any, list[tuple[tuple[Any, ...], torch.dtype, torch.device]]] = {}
        self.inline: dict[str, str] = {}
        """Blocks that were traced where they stand, with the reason."""

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        before = {name: vars(block).get("forward") for name, block in self.blocks.items()}
        outer, Tracing.current = Tracing.current, self
        for name, block in self.blocks.items():
            block.forward = types.MethodType(self.opaque(name), block)
        try:
            yield
        finally:
            Tracing.current = outer
            for name, block in self.blocks.items():
                del block.forward
                if (old := before[name]) is not None:
                    block.forward = old

    def opaque(self, path: str) -> Callable[..., Any]:
        """A forward that stands for the block."""

        def forward(block: nn.Module, *args: Any, **kwargs: Any) -> Any:
            every = (*args, *kwargs.values())
            if any(isinstance(a, list) for a in every):
                self.inline[path] = "a list enters, which a block may add to"
                return type(block).forward(block, *args, **kwargs)
            own, named = args, kwargs
            caches = [(a, enter(a)) for a in every if isinstance(a, LayerCache)]
            given = iter([g for _, g in caches])
            args = tuple(next(given) if isinstance(a, LayerCache) else a for a in args)
            kwargs = {name: next(given) if isinstance(a, LayerCache) else a for name, a in kwargs.items()}
            leaves, tree = pytree.tree_flatten((args, kwargs))
            if not all(isinstance(x, Tensor) or x is None or type(x) in (bool, int, float, str) for x in leaves):
                self.inline[path] = (
                    f"something else than tensors and constants enters: {', '.join(sorted({type(x).__name__ for x in leaves}))}"
                )
                return type(block).forward(block, *own, **named)
            Tracing.count += 1
            constants = [TENSOR if isinstance(x, Tensor) else x for x in leaves]
            call = Call(f"block_{Tracing.count}", path, block, tree, constants)
            NAMED[call.name] = self.calls[call.name] = call
            call.label = f"block_{len(self.calls)}"
            values = [x for x in leaves if isinstance(x, Tensor)]
            out, made = call.returned(torch.ops.vlmgraph_export.block(values, call.name))
            for (cache, before), (k, v, state) in zip(caches, made, strict=True):
                update(cache, before, Made(k, v, state, int(state is not None) and every[0].shape[1]))
            return out

        return forward

    def fake(self, call: Call, values: list[Tensor | None]) -> list[Tensor]:
        """What a call gives, as fakes: of the first call with these sizes by running the block, of others the same sizes again."""
        sizes = [tuple(size if isinstance(size, int) else str(size.node.expr) for size in x.shape) for x in values if x is not None]
        open_ = [tuple(size if isinstance(size, int) else None for size in x.shape) for x in values if x is not None]
        kinds = [(x.dtype, x.device) for x in values if x is not None]
        call.key = (self.signatures[call.path], call.block.training, str(call.tree), repr([c for c in call.constants if c is not TENSOR]),
                    tuple(c is TENSOR for c in call.constants), tuple(open_), tuple(kinds))  # fmt: skip
        if call.key not in self.forms:
            found = self.forms[call.key] = Form(call)
            for x in values:
                assert x is not None
                found.shapes.append(tuple(x.shape))
                found.given.append(tuple(hint(size) for size in x.shape))
                found.dtypes.append(x.dtype)
        first = self.forms[call.key].call
        key = (call.key, tuple(sizes))
        if key in self.made and first.result is not None:
            call.result = first.result
            return [values[0].new_empty(shape, dtype=dtype, device=device) for shape, dtype, device in self.made[key]]  # type: ignore[union-attr]
        mode = values[0].fake_mode  # type: ignore[union-attr]
        weights = {name: mode.from_tensor(w.detach(), static_shapes=True) for name, w in self.weights[call.path].items()}
        with stateless._reparametrize_module(call.block, weights):
            out = call(values)
        self.made[key] = [(tuple(x.shape), x.dtype, x.device) for x in out]
        return [x.new_empty(x.shape) for x in out]


def hint(size: Any) -> int:
    """The size in the sample; of a number that follows from values (images that are no padding) one that any sample could have."""
    if isinstance(size, int):
        return size
    if size.node.hint is not None:
        return int(size.node.hint)
    known = size.node.shape_env.backed_var_to_val
    return int(size.node.expr.xreplace({s: known.get(s, UNSEEN) for s in size.node.expr.free_symbols}))


class Alone(nn.Module):
    """The block of a call by itself, tensors in and out."""

    def __init__(self, call: Call) -> None:
        super().__init__()
        self.block, self.call = call.block, [call]

    def forward(self, *values: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.call[0](list(values)))
