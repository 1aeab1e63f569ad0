"""op.match: where an index is what one looks for."""

from __future__ import annotations

from pydantic import Field

from ...ir import types as T
from ..base import Op, Ports


class Match(Op, name="op.match"):
    """Where an index is one of `values`: index[...] → mask[...]. Token types become the prefix of a prefix-LM, say."""

    values: tuple[int, ...] = Field(min_length=1, description="what is looked for")
    ports = Ports(x=T.index["..."], returns=T.mask["..."])
    module = "vlmgraph.nn.match:Match"
