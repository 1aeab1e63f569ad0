"""op.splice: features in the place of placeholder tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, model_validator

from ...ir import types as T
from ..base import Op, Ports, Token, load_symbol

Ids = Token | list[Token]


class Splice(Op, name="op.splice"):
    """Writes features over the embeddings of placeholder tokens; one optional port a placeholder.

    With `by = "mask"` a mask `where` marks the places of the one port `vision`, whatever ids stand there (KOSMOS-2). With no features fed
    it is left out of the program and the text passes unchanged.
    """

    token: Ids | None = Field(None, description="placeholder of the one port `vision`")
    tokens: dict[str, Ids] | None = Field(
        None, description="placeholder (or list of them) by port, in the order of the modality ids 1, 2, ..."
    )
    by: Literal["token", "mask"] = Field("token", description="what marks the places: their ids, or a mask")
    modality: Literal["all", "all but last"] = Field("all", description="which places of an image carry its modality id")
    module = "vlmgraph.nn.splice:Splice"

    @model_validator(mode="after")
    def _one_form(self) -> Splice:
        if self.by == "mask":
            if self.token is not None or self.tokens is not None or self.modality != "all":
                raise ValueError('by = "mask" takes no tokens, and all places of an image are of its modality')
            return self
        if (self.token is None) == (self.tokens is None):
            raise ValueError("give either `token` or `tokens`")
        for port, ids in self.placeholders.items():
            if not port.isidentifier() or port in ("text", "ids", "mask", "returns", "self"):
                raise ValueError(f"{port!r} cannot name a port of features")
            if not ids:
                raise ValueError(f"port {port!r} has no placeholder")
        return self

    @property
    def placeholders(self) -> dict[str, tuple[int | str, ...]]:
        """Ids by port; none where a mask marks the places."""
        if self.by == "mask":
            return {}
        given = {"vision": self.token} if self.tokens is None else self.tokens
        return {port: tuple(ids) if isinstance(ids, list) else (ids,) for port, ids in given.items() if ids is not None}

    def signature(self, facet: str = "") -> Ports:
        features = dict.fromkeys(self.features, T.tokens["...", "d"].optional_)
        if self.by == "mask":
            features["where"] = T.mask["B", "T"]
        each = T.index["B", "T"]
        outputs = {"out": T.tokens["B", "T", "d"], "mask": T.mask["B", "T"], "modality": each, "spans": each, "ids": T.ids["B", "T"]}
        return Ports(outputs, text=T.tokens["B", "T", "d"], ids=T.ids["B", "T"], **features, mask=T.mask["B", "T"].optional_)

    @property
    def marks(self) -> Mapping[str, str]:
        return {"where": "vision"} if self.by == "mask" else {}

    @property
    def features(self) -> tuple[str, ...]:
        """Ports of features."""
        return ("vision",) if self.by == "mask" else tuple(self.placeholders)

    def build(self) -> Any:
        return load_symbol("vlmgraph.nn.splice_mask:MaskSplice")() if self.by == "mask" else super().build()

    def arguments(self) -> dict[str, Any]:
        return {"tokens": self.placeholders, "modality": self.modality}

    def bypass(self, fed: frozenset[str]) -> str | None:
        return "text" if "text" in fed and not fed.intersection(self.features) else None
