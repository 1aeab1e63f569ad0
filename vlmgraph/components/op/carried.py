"""op.concat_carried: what joined tokens carry. Placed by the compiler beside an op that puts tokens one behind the other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import Field

from ...ir import types as T
from ...ir.dims import Dim
from ...ir.types import Type
from ..base import Op, Ports


class ConcatCarried(Op, name="op.concat_carried"):
    """The masks (modality ids, spans) of several values one behind the other, as their tokens are; nobody writes this op by hand.

    A value that carries none counts as real tokens (`mask`) or as text (0). Of a mask that also covers the past of a cache the part of the
    value's own tokens is taken. Where no value carries any there is no output.
    """

    carried: Literal["mask", "modality", "spans"] = Field("mask", description="what is joined")
    count: int = Field(2, ge=1, description="number of values")
    module = "vlmgraph.nn.ops:ConcatCarried"

    def signature(self, facet: str = "") -> Ports:
        kind = T.mask if self.carried == "mask" else T.index
        inputs = {}
        for i in range(self.count):
            inputs[f"x{i}"] = T.tokens["...", f"N{i}", f"d{i}"].optional_
            inputs[f"given{i}"] = kind["...", f"N{i}"].optional_
        return Ports(kind["B", "N"], **inputs)

    def result(self, inputs: Mapping[str, Type | tuple[Type, ...]]) -> Mapping[str, Type] | None:
        """As long as all values that are there; disagreement among their other dims is said of the op that joins them."""
        values = [type_ for port, type_ in inputs.items() if port.startswith("x") and isinstance(type_, Type)]
        total = Dim()
        for type_ in values:
            total = total + type_.dims[-2]
        return {"out": Type("mask" if self.carried == "mask" else "index", (*values[0].dims[:-2], total))} if values else None

    def absent(self, fed: frozenset[str]) -> frozenset[str]:
        return frozenset() if any(port.startswith("given") for port in fed) else frozenset({"out"})
