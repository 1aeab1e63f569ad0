"""memory.bank: rows that outlive a batch."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from ...ir import types as T
from ..base import Component, Ports


class MemoryBank(Component, name="memory.bank"):
    """The last `rows` vectors that went in, without gradient: embedding[B, width] → embedding[rows, width] as they were before this batch.

    Negatives beyond the batch, as MoCo's queue (arXiv 1911.05722), ALBEF's and BLIP's. A batch given in training enters behind the
    optimizer's step, of all processes, in the place of the oldest rows; it may be of any size.
    """

    rows: int = Field(ge=1, description="number of rows kept")
    width: int | None = Field(None, ge=1, description="width of a row; inferred")
    role = "memory"
    multiplies = False
    ports = Ports(x=T.embedding["B", "width"], returns=T.embedding["rows", "width"])
    module = "vlmgraph.nn.bank:MemoryBank"

    def arguments(self) -> dict[str, Any]:
        return {"rows": self.rows, "width": self.width or 1}
