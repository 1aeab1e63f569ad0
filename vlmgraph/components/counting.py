"""Operation counts of maps that act on every vector by itself."""

from __future__ import annotations

from collections.abc import Mapping

from ..ir.dims import Dim


def rows(dims: Mapping[str, Dim]) -> Dim:
    """How many vectors a port `kind["...", "d"]` received: the product of what `...` stands for, given under that name."""
    return dims.get("...", Dim.of(1))


def dense(dims: Mapping[str, Dim], *widths: int) -> Dim:
    """FLOPs of linear layers one after another, widths given from the input to the output."""
    weights = sum(a * b for a, b in zip(widths[:-1], widths[1:], strict=True))
    return rows(dims) * weights * 2
