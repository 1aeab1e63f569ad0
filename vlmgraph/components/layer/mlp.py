"""mlp.dense, mlp.gated and mlp.modality_expert."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator

from ...ir.dims import Dim
from ..base import Layer, linear, load_symbol
from .slot import NormSlot, filled, slot

Act = Literal["gelu", "gelu_tanh", "quick_gelu", "silu", "relu", "squared_relu", "tanh"]


def activation(name: str) -> Any:
    """The torch module of an activation."""
    return load_symbol("vlmgraph.nn.activation:activation")(name)


class Feed(Layer):
    """What the plain MLPs share."""

    width: int | None = Field(None, ge=1, description="width of the tokens; the stack's")
    hidden: int | None = Field(None, ge=1, description="width inside")
    act: Act | None = Field(None, description="activation; the stack's")
    bias: bool | None = Field(None, description="biases in all linear layers")
    inner_norm: NormSlot | None = Field(None, description="norm before the last linear layer (the point `mlp.inner`)")

    def arguments(self) -> dict[str, Any]:
        if self.width is None or self.hidden is None:
            raise ValueError(f"{self.kind} needs `hidden`, its width inside")
        inner = {} if self.inner is None else {"inner_norm": self.inner.build()}
        return {
            "width": self.width,
            "hidden": self.hidden,
            "act": activation(self.act or "gelu"),
            "bias": self.biased,
            **inner,
        }

    @property
    def inner(self) -> Any:
        """The norm before the last layer with its width, if there is one."""
        return None if self.inner_norm is None else filled(self.inner_norm, width=self.hidden)

    @property
    def inner_total(self) -> int:
        return 0 if self.inner is None else self.inner.total()

    @property
    def biased(self) -> bool:
        return bool(self.bias)


class DenseMLP(Feed, name="mlp.dense"):
    """fc1, activation, fc2. Has biases unless the stack or `bias` says no."""

    module = "vlmgraph.nn.mlp:MLP"

    @property
    def biased(self) -> bool:
        return self.bias is not False

    def parameters(self) -> dict[str, int]:
        width, hidden = self.width or 0, self.hidden or 0
        return {"": linear(width, hidden, self.biased) + linear(hidden, width, self.biased) + self.inner_total}

    def flops(self, dims: Mapping[str, Dim]) -> Dim:
        return dims["N"] * (4 * (self.width or 0) * (self.hidden or 0))


class GatedMLP(Feed, name="mlp.gated"):
    """down(act(gate x) * up x). Has no biases unless the stack or `bias` says so."""

    module = "vlmgraph.nn.mlp:GatedMLP"

    def parameters(self) -> dict[str, int]:
        width, hidden = self.width or 0, self.hidden or 0
        return {"": 2 * linear(width, hidden, self.biased) + linear(hidden, width, self.biased) + self.inner_total}

    def flops(self, dims: Mapping[str, Dim]) -> Dim:
        return dims["N"] * (6 * (self.width or 0) * (self.hidden or 0))


MLPSlot = slot("mlp", "mlp.dense", "hidden")
GatedSlot = slot("mlp", "mlp.gated", "hidden")


class ModalityExpertMLP(Layer, name="mlp.modality_expert"):
    """An MLP for every modality; the first runs alone where there are no modality ids (CogVLM, arXiv 2311.03079; VLMo)."""

    experts: tuple[str, ...] = Field(min_length=1, description="names by modality id, from 0")
    each: MLPSlot | None = Field(None, description="the kind of MLP; gated where left out")
    width: int | None = Field(None, ge=1, description="width of the tokens; the stack's")
    hidden: int | None = Field(None, ge=1, description="width inside, of all experts")
    act: Act | None = Field(None, description="activation; the stack's")
    bias: bool | None = Field(None, description="biases in all linear layers")
    routed: ClassVar[bool] = True

    @field_validator("experts")
    @classmethod
    def _named(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        return named(names)

    @property
    def one(self) -> Any:
        return filled(self.each or GatedMLP(), width=self.width, hidden=self.hidden, act=self.act, bias=self.bias)

    def build(self) -> Any:
        return load_symbol("vlmgraph.nn.mlp:Experts")({name: self.one.build() for name in self.experts})

    def parameters(self) -> dict[str, int]:
        count = sum(self.one.parameters().values())
        return {f"experts.{name}": count for name in self.experts}

    def flops(self, dims: Mapping[str, Dim]) -> Dim:
        return self.one.flops(dims)


def named(names: tuple[str, ...]) -> tuple[str, ...]:
    """Names that can stand in a parameter's path, each once. Raises ValueError."""
    for name in names:
        if not name.isidentifier():
            raise ValueError(f"{name!r} cannot name an expert")
    if len(set(names)) != len(names):
        raise ValueError(f"an expert is named twice in {list(names)}")
    return names
