"""What `{key.suffix}` in a table makes of a value of the configuration. Each raises ValueError for one that it cannot use."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any


def cycle(values: list[Any]) -> list[Any]:
    """The shortest list that gives `values` when it is repeated."""
    return next(values[:n] for n in range(1, len(values) + 1) if all(v == values[i % n] for i, v in enumerate(values)))


def side(sides: list[Any]) -> Any:
    """The side of a square given as height and width."""
    if len(set(sides)) != 1:
        raise ValueError(f"its sides {sides} are not equal")
    return sides[0]


def root(number: Any) -> float:
    """The square root of a number above zero."""
    if not number > 0:
        raise ValueError("it is not above zero")
    return math.sqrt(number)


def inserted(layers: list[int]) -> list[int]:
    """Of layers that stand between others, by their places among all: the other layers that each stands in front of."""
    places = [layer - i for i, layer in enumerate(sorted(set(layers)))]
    if places and places[0] < 0:
        raise ValueError(f"there is no layer {min(layers)}")
    if len(set(places)) != len(places):
        raise ValueError("two of these layers follow on each other")
    return places


def behind(layers: list[int]) -> list[int]:
    """The states behind layers that are counted from 0, or from the end: state 0 is what enters the first."""
    return [layer + (layer >= 0) for layer in layers]


def ones(flags: list[int]) -> list[int]:
    """The places of the ones in a list of zeros and ones."""
    if not set(flags) <= {0, 1}:
        raise ValueError("it holds something other than 0 and 1")
    return [place for place, flag in enumerate(flags) if flag]


def older(version: Any, than: str) -> bool:
    """Whether a release, `4.45.0.dev0`, comes before another, by its whole numbers."""
    numbers = [[int(part) for part in str(text).split(".") if part.isdigit()] for text in (version, than)]
    return numbers[0] < numbers[1]


MADE: dict[str, Callable[[Any], Any]] = {
    "halvings": lambda levels: 2 ** (len(levels) - 1),
    "cycle": cycle,
    "side": side,
    "sqrt": root,
    "rsqrt": lambda number: 1 / root(number),
    "count": lambda values: len(set(values)),
    "length": len,
    "next": lambda number: number + 1,
    "inserted": inserted,
    "ones": ones,
    "behind": behind,
    "several": lambda value: isinstance(value, list),
    "joined": lambda value: ", ".join(map(str, value)),
    "behind_first": lambda layers: behind(layers)[0],
}
