"""op.merge_patches and op.keep: fewer tokens out of packed patches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ...ir import types as T
from ..base import Op, Ports


class MergePatches(Op, name="op.merge_patches"):
    """Blocks of packed patches to one token each, by bilinear interpolation: tokens[P, d], grid[n, 3], index[n] → tokens[Q, d].

    Every image says how large its blocks are; patches come block by block (VideoLLaMA 3, arXiv 2501.13106).
    """

    ports = Ports(T.tokens["Q", "d"], x=T.tokens["P", "d"], grid=T.grid["n", 3], merges=T.index["n"])
    module = "vlmgraph.nn.merge_patches:MergePatches"

    def lengths(self, inputs: Mapping[str, Any]) -> Sequence[int] | None:
        if "grid" not in inputs or "merges" not in inputs:
            return None
        return [int(t * h * w) // int(m) ** 2 for (t, h, w), m in zip(inputs["grid"], inputs["merges"])]


class Keep(Op, name="op.keep"):
    """The rows of packed tokens that a mask keeps: tokens[N, d], mask[N] → tokens[K, d]. Without a mask all stay."""

    ports = Ports(T.tokens["K", "d"], x=T.tokens["N", "d"], keep=T.mask["N"].optional_)
    module = "vlmgraph.nn.merge_patches:Keep"

    def bypass(self, fed: frozenset[str]) -> str | None:
        return "x" if "keep" not in fed else None
