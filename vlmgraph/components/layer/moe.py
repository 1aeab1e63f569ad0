"""mlp.moe: a mixture of experts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, model_validator

from ...ir.dims import Dim
from ..base import Layer, load_symbol
from .mlp import Act, GatedMLP, GatedSlot, MLPSlot, activation
from .slot import counted, filled


class MixtureOfExperts(Layer, name="mlp.moe"):
    """A router sends every token through `top_k` of many MLPs (Mixtral, arXiv 2401.04088, section 2.1), and through a shared one if there
    is any (DeepSeekMoE, arXiv 2401.06066, section 3.2)."""

    experts: int = Field(ge=1, le=10_000, description="number of experts")
    top_k: int = Field(ge=1, description="experts that run for a token")
    renormalise: bool = Field(True, description="the weights of those that run add up to one")
    each: MLPSlot | None = Field(None, description="the kind of MLP; gated where left out")
    width: int | None = Field(None, ge=1, description="width of the tokens; the stack's")
    hidden: int | None = Field(None, ge=1, description="width inside, of all experts")
    act: Act | None = Field(None, description="activation; the stack's")
    bias: bool | None = Field(None, description="biases in all linear layers of the experts")
    stacked: bool = Field(False, description="gated experts whose weights stand in one tensor each, [experts, in, out] (Aria)")
    shared: GatedSlot | None = Field(None, description="an MLP that every token goes through besides: its hidden width, or a layer")
    score: Literal["softmax", "sigmoid"] = Field("softmax", description="over all experts, or of each by itself (DeepSeek-V3)")
    scale: float = Field(1.0, gt=0, description="factor on the weights")
    groups: int = Field(1, ge=1, description="groups of experts, of which the best ones count (DeepSeek-V2)")
    kept_groups: int = Field(1, ge=1, description="how many of the groups count")
    group_score: Literal["max", "two_best"] = Field("max", description="score of a group: its best expert's, or the sum of its two best")
    bias_step: float | None = Field(
        None,
        ge=0,
        description="a bias on the scores, for the choice alone, that moves by so much after each step towards equal loads, without "
        "an auxiliary loss (arXiv 2408.15664)",
    )
    precise: bool = Field(False, description="scores are computed in float32 whatever the dtype of the model")

    @model_validator(mode="after")
    def _enough(self) -> MixtureOfExperts:
        if self.top_k > self.experts:
            raise ValueError(f"top_k: {self.top_k} of {self.experts} experts cannot run")
        if self.experts % self.groups:
            raise ValueError(f"groups: {self.groups} do not divide {self.experts} experts")
        if self.kept_groups > self.groups or self.top_k * self.groups > self.experts * self.kept_groups:
            raise ValueError(f"kept_groups: {self.kept_groups} of {self.groups} groups do not hold {self.top_k} experts")
        if self.group_score == "two_best" and self.experts == self.groups:
            raise ValueError("group_score: a group of one expert has no two best")
        if self.stacked and (self.each is not None or self.bias):
            raise ValueError("stacked: the experts are gated MLPs without biases: leave out `each` and `bias`")
        return self

    @property
    def one(self) -> Any:
        return filled(
            self.each or GatedMLP(), width=self.width, hidden=self.hidden, act=self.act, bias=False if self.stacked else self.bias
        )

    @property
    def common(self) -> Any:
        """The shared MLP with its dims."""
        return None if self.shared is None else filled(self.shared, width=self.width, act=self.act, bias=self.bias)

    def build(self) -> Any:
        experts: Any
        if self.stacked:
            if self.hidden is None:
                raise ValueError("mlp.moe needs `hidden`, the width inside of its experts")
            made = load_symbol("vlmgraph.nn.moe:StackedExperts")
            experts = made(self.width, self.hidden, self.experts, activation(self.act or "silu"))
        else:
            experts = [self.one.build() for _ in range(self.experts)]
        return load_symbol("vlmgraph.nn.moe:MixtureOfExperts")(
            self.width, experts, self.top_k, self.renormalise, shared=None if self.common is None else self.common.build(),
            score=self.score, scale=self.scale, groups=self.groups, kept=self.kept_groups, group_score=self.group_score,
            bias_step=self.bias_step, precise=self.precise,
        )  # fmt: skip

    def parameters(self) -> dict[str, int]:
        experts = self.experts * sum(self.one.parameters().values())
        return {"router": (self.width or 0) * self.experts, "experts": experts, **counted("shared", self.common)}

    @property
    def idle(self) -> int:
        """Parameters of the experts that do not run for a token."""
        return (self.experts - self.top_k) * self.one.total()  # type: ignore[no-any-return]

    def flops(self, dims: Mapping[str, Dim]) -> Dim:
        """Of the experts that run."""
        routed = dims["N"] * (2 * (self.width or 0) * self.experts) + self.one.flops(dims) * self.top_k
        return routed if self.common is None else routed + self.common.flops(dims)
