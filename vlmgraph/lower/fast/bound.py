"""A compilation that is called without torch's guards: what it reads of a call and what it gives were found out when it was made.

torch.compile looks at every tensor, attribute and flag of a block before it runs what it compiled, which takes longer than a small kernel
of a step of decoding. Blocks of a kind differ in their weights alone: shapes, types and strides of what enters decide.
"""

from __future__ import annotations

import dis
import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .traced import Made


class Unbound(Exception):
    """Why a compilation stays behind torch's guards."""


@dataclass
class Compilation:
    """What torch made of a block: `run` takes the graph's inputs flat and gives its outputs flat."""

    run: Callable[..., Any]
    sources: list[str]
    """Of each input where it stands in a call, an expression of `block`, `args` and `kwargs`."""
    guards: str
    """What has to hold of the inputs t0, t1, ..., an expression."""


@dataclass
class Bound:
    """`read` takes the inputs off a call, `holds` says whether they are what was compiled for, `give` makes of the outputs what a block and
    its caches give; `dtypes` are those of the inputs."""

    run: Callable[..., Any]
    read: Callable[[Any, Any, Any], tuple[Any, ...]]
    holds: Callable[[dict[str, Any]], bool]
    give: Callable[[Any, tuple[Any, ...], int], tuple[Any, list[Made]]]
    kinds: tuple[Any, ...]

    def fits(self, block: Any, args: Any, kwargs: Any) -> bool:
        flat = self.read(block, args, kwargs)
        if kinds(flat) != self.kinds:
            return False
        return bool(self.holds({f"t{i}": value for i, value in enumerate(flat)}))


def kinds(flat: Sequence[Any]) -> tuple[Any, ...]:
    return tuple((v.dtype, v.device, v.dim()) if isinstance(v, Tensor) else type(v) for v in flat)


def compilation(module: Any, run: Callable[..., Any]) -> Compilation | None:
    """Of a graph that torch has just compiled to `run`; None where its inputs do not say where they come from."""
    try:
        inputs = [node for node in module.graph.nodes if node.op == "placeholder"]
        sources = [str(named(node.meta["grapharg"].source)) for node in inputs]
        env: Any = torch._guards.TracingContext.get().fake_mode.shape_env  # type: ignore[union-attr]
        guards = env.produce_guards_expression([node.meta["example_value"] for node in inputs], ignore_static=False)
    except (AttributeError, KeyError, TypeError, ValueError, AssertionError):
        return None
    return Compilation(run, sources, guards or "True")


def named(source: Any) -> Any:
    return source.name() if callable(source.name) else source.name


def bind(made: Compilation, flat: Sequence[Any], raw: Any, result: tuple[Any, list[Made]], new: int, region: Any) -> Bound:
    """After the first call: `flat` entered the compilation, `raw` left it, and `result` is what the code that torch made of the function
    `region` made of that for a block given `new` tokens. Raises Unbound where that code does more than put outputs in their places."""
    if any(not source.startswith(("L['block']", "L['args']", "L['kwargs']")) for source in made.sources):
        raise Unbound("it reads something that is not in the call")
    if any(changes(code) for code in codes(region)):
        raise Unbound("it leaves something behind")
    outputs = list(raw) if isinstance(raw, (tuple, list)) else [raw]
    places = {id(value): f"f[{i}]" for i, value in enumerate(flat) if isinstance(value, Tensor)}
    places |= {id(value): f"o[{i}]" for i, value in enumerate(outputs) if isinstance(value, Tensor)}
    out, caches = result
    body = ", ".join(f"Made({', '.join(placed(v, places) for v in c[:3])}, {'n' if c.new else '0'})" for c in caches)
    if any(cache.new not in (0, new) for cache in caches):
        raise Unbound("a cache takes other tokens than those that enter")
    reads = ", ".join(re.sub(r"^L\['(\w+)'\]", r"\1", source) for source in made.sources)
    return Bound(
        made.run,
        evaluated(f"lambda block, args, kwargs: ({reads},)"),
        evaluated(f"lambda L: {made.guards}"),
        evaluated(f"lambda o, f, n: ({placed(out, places)}, [{body}])"),
        kinds(flat),
    )


FORBIDDEN = ("STORE_ATTR", "STORE_SUBSCR", "STORE_GLOBAL", "DELETE_ATTR", "DELETE_SUBSCR", "DELETE_GLOBAL", "LOAD_GLOBAL", "LOAD_METHOD")
"""Instructions without which nothing outlives a call: they write into objects or find a function that does."""


def changes(code: Any) -> bool:
    """Whether code that torch made of a function does more, once the graph has run, than put its outputs in their places."""
    steps = list(dis.get_instructions(code))
    ran = next((i for i, step in enumerate(steps) if step.opname == "STORE_FAST" and str(step.argval).startswith("graph_out")), 0)
    return any(step.opname in FORBIDDEN for step in steps[ran:])


def codes(region: Any) -> list[Any]:
    """What torch made of a function so far. Raises Unbound."""
    try:
        from torch._dynamo.eval_frame import _debug_get_cache_entry_list

        return [entry.code for entry in _debug_get_cache_entry_list(region.__code__)]
    except (ImportError, AttributeError, RuntimeError) as error:
        raise Unbound(f"torch does not say what it made: {error}") from error


def placed(value: Any, places: dict[int, str]) -> str:
    """An expression of outputs o and inputs f for a value."""
    if isinstance(value, Tensor):
        if id(value) not in places:
            raise Unbound("it gives a tensor that is no output")
        return places[id(value)]
    if type(value) in (tuple, list):
        inner = "".join(f"{placed(v, places)}, " for v in value)
        return f"({inner})" if type(value) is tuple else f"[{inner}]"
    if type(value) is dict:
        return "{" + ", ".join(f"{key!r}: {placed(v, places)}" for key, v in value.items()) + "}"
    if value is None or isinstance(value, (bool, str)):
        return repr(value)
    raise Unbound(f"it gives a {type(value).__name__}")


def evaluated(text: str) -> Any:
    return eval(text, {"Made": Made, "math": math, "torch": torch, **guard_names()})


def guard_names() -> dict[str, Any]:
    """The functions that torch's expressions of guards are written with."""
    from torch.fx.experimental.symbolic_shapes import SYMPY_INTERP

    return dict(SYMPY_INTERP)


def shape_key(values: Iterable[Any], key: list[Any], seen: list[int]) -> None:
    """Append what of a call's values its compilation depends on, exactly; which tensors they are goes to `seen`."""
    for value in values:
        if value is None:
            key.append(None)
        elif isinstance(value, Tensor):
            seen.append(id(value))
            key += (value.dtype, value.shape, value.stride())
        elif isinstance(value, tuple):
            key.append(len(value))
            shape_key(value, key, seen)
        else:
            key += (type(value), value)
