"""op.scale: tokens times a number."""

from __future__ import annotations

from pydantic import Field

from ...ir import types as T
from ..base import Op, Ports


class Scale(Op, name="op.scale"):
    """Every value times `scale`, or with `of = "llm"` times that component's: tokens[..., d] → tokens[..., d].

    Where `text.embedding` scales words alone, this scales what has been spliced in between them too (KOSMOS-1, arXiv 2302.14045).
    """

    scale: float = Field(1.0, description="the factor")
    shares = ("scale",)
    ports = Ports(x=T.tokens["...", "d"], returns=T.tokens["...", "d"])
    module = "vlmgraph.nn.scale:Scale"
