"""op.masked: says which tokens of a value are real."""

from __future__ import annotations

from ...ir import types as T
from ..base import Op, Ports


class Masked(Op, name="op.masked"):
    """The same tokens, which from here on carry the mask: tokens[B, N, d], mask[B, N] → tokens[B, N, d]. Without a mask all are real.

    For values that are joined or read by others before any part with a port `mask` sees them.
    """

    ports = Ports(x=T.tokens["B", "N", "d"], mask=T.mask["B", "N"].optional_, returns=T.tokens["B", "N", "d"])
    module = "vlmgraph.nn.masked:Masked"

    def bypass(self, fed: frozenset[str]) -> str | None:
        return "x" if "mask" not in fed else None
