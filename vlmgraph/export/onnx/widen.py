"""More samples of a program: other sizes of a dim, where its own processor makes less than three of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor

from ...diagnostics import DiagnosticError
from ...ir.dims import Symbol
from ...ir.types import Type

ENOUGH = 3
"""Sizes of a dim that a proof needs, beside 0 and 1, which tracing may take for fixed."""
Values = dict[str, Tensor]
REFUSALS = (DiagnosticError, RuntimeError, IndexError, ValueError)
"""What a program raises that does not take a size."""


def widened(inputs: list[Values], types: Mapping[str, Type], taken: Callable[[Values], Values]) -> tuple[list[Values], dict[str, str]]:
    """Samples beside `inputs` so that every dim has three sizes, and for those that still have fewer the reason.

    A dim of another size is a sample of which tokens, images, ... are dropped or repeated. `taken` gives the inputs with which the program
    ran, or raises one of `REFUSALS`.
    """
    more: list[Values] = []
    fewer: dict[str, str] = {}
    for symbol in symbols(types):
        why = ""
        for number, size in tries(symbol, inputs, types):
            if len(sizes(symbol, [*inputs, *more], types)) >= ENOUGH:
                break
            try:
                more.append(taken(resized(inputs[number], types, symbol, size)))
            except REFUSALS as error:
                why = why or f"{size}: {str(error).splitlines()[0][:200]}"
        found = sizes(symbol, [*inputs, *more], types)
        if len(found) < ENOUGH:
            fewer[symbol] = f"the program runs with {', '.join(map(str, sorted(found))) or 'none other than 0 and 1'}; with {why}"
    return more, fewer


def symbols(types: Mapping[str, Type]) -> list[str]:
    """Dims of inputs that are one name."""
    return list(dict.fromkeys(name for t in types.values() for d in t.dims if (name := symbol_of(d)) is not None))


def symbol_of(dim: object) -> str | None:
    terms = dim.terms  # type: ignore[attr-defined]
    if len(terms) == 1 and terms[0][1] == 1 and len(terms[0][0]) == 1 and isinstance(terms[0][0][0], Symbol):
        return str(terms[0][0][0].name)
    return None


def axes(symbol: str, name: str, types: Mapping[str, Type]) -> list[int]:
    return [a for a, d in enumerate(types[name].dims) if symbol_of(d) == symbol] if name in types else []


def size_of(symbol: str, values: Values, types: Mapping[str, Type]) -> int:
    return next((value.shape[a] for name, value in values.items() for a in axes(symbol, name, types)), 0)


def sizes(symbol: str, inputs: list[Values], types: Mapping[str, Type]) -> set[int]:
    return {size_of(symbol, values, types) for values in inputs} - {0, 1}


def tries(symbol: str, inputs: list[Values], types: Mapping[str, Type]) -> Iterator[tuple[int, int]]:
    """Numbers of samples, with sizes that the dim has nowhere yet: a little less, a little more, few, twice as many."""
    for near in (True, False):
        for number, values in enumerate(inputs):
            was = size_of(symbol, values, types)
            for size in (was - 1, was - 2, was + 1, was + 2) if near else (2, 3, 4, was // 2, 2 * was):
                if size > 1 and was and size not in sizes(symbol, inputs, types):
                    yield number, size


def resized(values: Values, types: Mapping[str, Type], symbol: str, size: int) -> Values:
    """Every input that has the dim cut to `size`, or repeated up to it."""
    made = dict(values)
    for name, value in values.items():
        for axis in axes(symbol, name, types):
            made[name] = made[name].index_select(axis, torch.arange(size) % value.shape[axis])
    return made
