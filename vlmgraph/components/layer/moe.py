"""mlp.moe: a mixture of experts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field, model_validator

from ...ir.dims import Dim
from ..base import Layer, load_symbol
from .mlp import Act, GatedMLP, MLPSlot
from .slot import filled


class MixtureOfExperts(Layer, name="mlp.moe"):
    """A router sends every token through `top_k` of many MLPs (Mixtral, arXiv 2401.04088, section 2.1)."""

    experts: int = Field(ge=1, le=10_000, description="number of experts")
    top_k: int = Field(ge=1, description="experts that run for a token")
    renormalise: bool = Field(True, description="the weights of those that run add up to one")
    each: MLPSlot | None = Field(None, description="the kind of MLP; gated where left out")
    width: int | None = Field(None, ge=1, description="width of the tokens; the stack's")
    hidden: int | None = Field(None, ge=1, description="width inside, of all experts")
    act: Act | None = Field(None, description="activation; the stack's")
    bias: bool | None = Field(None, description="biases in all linear layers of the experts")

    @model_validator(mode="after")
    def _enough(self) -> MixtureOfExperts:
        if self.top_k > self.experts:
            raise ValueError(f"top_k: {self.top_k} of {self.experts} experts cannot run")
        return self

    @property
    def one(self) -> Any:
        return filled(self.each or GatedMLP(), width=self.width, hidden=self.hidden, act=self.act, bias=self.bias)

    def build(self) -> Any:
        experts = [self.one.build() for _ in range(self.experts)]
        return load_symbol("vlmgraph.nn.moe:MixtureOfExperts")(self.width, experts, self.top_k, self.renormalise)

    def parameters(self) -> dict[str, int]:
        return {"router": (self.width or 0) * self.experts, "experts": self.experts * sum(self.one.parameters().values())}

    def flops(self, dims: Mapping[str, Dim]) -> Dim:
        """Of the experts that run."""
        return dims["N"] * (2 * (self.width or 0) * self.experts) + self.one.flops(dims) * self.top_k
