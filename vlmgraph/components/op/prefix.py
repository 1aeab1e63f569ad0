"""op.prefix_mask, op.prefix_to and op.split."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from ...ir import types as T
from ..base import Op, Ports, Token


class PrefixMask(Op, name="op.prefix_mask"):
    """Which tokens are of a prefix: the first `length` of each sample, or as many as are drawn, 1 to N - 1: tokens[B, N, d] → mask[B, N]
    (AIM, arXiv 2401.08541; AIMv2)."""

    draws = True
    ports = Ports(T.mask["B", "N"], x=T.tokens["B", "N", "d"], length=T.index["B"].optional_)
    module = "vlmgraph.nn.prefix:PrefixMask"


class Split(Op, name="op.split"):
    """Joined tokens taken apart again: tokens[B, P + T, d] → `first` tokens[B, P, d] and `second` tokens[B, T, d].

    The inputs `first` and `second` are the values that were joined, for their lengths; one that is left out has no part.
    """

    ports = Ports(
        {"first": T.tokens["B", "P", "d"], "second": T.tokens["B", "T", "d"]},
        x=T.tokens["B", "N", "d"], first=T.tokens["B", "P", "d_first"].optional_, second=T.tokens["B", "T", "d_second"].optional_,
    )  # fmt: skip
    module = "vlmgraph.nn.prefix:Split"

    def absent(self, fed: frozenset[str]) -> frozenset[str]:
        return frozenset({"first", "second"}) - fed


class PrefixTo(Op, name="op.prefix_to"):
    """Which tokens stand before the last of a kind, or are it: ids[B, T] → mask[B, T], such as an image and what is in front of it."""

    token: Token | list[Token] = Field(description="the last token of a prefix")
    ports = Ports(T.mask["B", "T"], ids=T.ids["B", "T"])
    module = "vlmgraph.nn.prefix:PrefixTo"

    def arguments(self) -> dict[str, Any]:
        return {"token": tuple(self.token) if isinstance(self.token, list) else (self.token,)}
