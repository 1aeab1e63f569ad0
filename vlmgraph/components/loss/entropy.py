"""loss.cross_entropy and loss.next_token."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from ...ir import types as T
from ..base import Loss, Ports, Token


class CrossEntropy(Loss, name="loss.cross_entropy"):
    """Mean cross entropy over the labels that count: logits[..., V], ids[...] → loss. Label -100 does not count."""

    label_smoothing: float = Field(0.0, ge=0, lt=1, description="share of every target spread over all classes")
    ignore: list[Token] = Field(default_factory=list, description="labels that do not count beside -100")
    ports = Ports(logits=T.logits["...", "V"], labels=T.ids["..."], returns=T.loss[()])
    module = "vlmgraph.nn.losses:CrossEntropy"

    def arguments(self) -> dict[str, Any]:
        return {"smoothing": self.label_smoothing, "ignore": tuple(self.ignore)}


class NextToken(Loss, name="loss.next_token"):
    """Mean cross entropy of every label given what stands before it: logits[B, T, V], ids[B, T] → loss. Label -100 does not count.

    A program that scores answers has `NAME.per_sample` among its outputs, the mean over each sample's own labels.
    """

    average: Literal["tokens", "samples", "sums"] = Field(
        "tokens",
        description="over all tokens at once; first over those of a sample; or over the sums of samples, which `weights` may weigh",
    )
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="share of every target spread over all tokens")
    ignore: list[Token] = Field(default_factory=list, description="labels that do not count beside -100")
    reduce: Literal["batch", "sample"] = Field("batch", description="one loss for the batch, or one for each sample")
    module = "vlmgraph.nn.losses:NextToken"

    def signature(self, facet: str = "") -> Ports:
        returns = T.loss["B"] if self.reduce == "sample" else T.loss[()]
        ports = Ports(returns, logits=T.logits["B", "T", "V"], labels=T.ids["B", "T"])
        return ports | {"weights": T.scores["B"].optional_} if self.average == "sums" else ports

    def arguments(self) -> dict[str, Any]:
        return {"reduce": self.reduce, "smoothing": self.label_smoothing, "ignore": tuple(self.ignore), "average": self.average}
