"""loss.dpo: preferences of one answer over another."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from pydantic import Field

from ...ir import types as T
from ...ir.dims import DimError
from ...ir.types import Type
from ..base import Loss, Ports


class DPO(Loss, name="loss.dpo"):
    """Direct preference optimisation (arXiv 2305.18290, equation 7): -log sigmoid of how much more than the reference the policy prefers
    the chosen answer, averaged. Lists of two, the chosen batch and the rejected one: logits[B, T, V], ids[B, T] → loss.

    An answer's score is the sum over its labels, each predicted by the state before it; label -100 does not count.
    """

    beta: float = Field(0.1, gt=0, description="strength of the pull to the reference")
    label_smoothing: float = Field(0.0, ge=0, lt=0.5, description="share of pairs that are taken to be the wrong way round")
    batches: ClassVar[tuple[str, ...]] = ("chosen", "rejected")
    ports = Ports(
        policy=T.logits["...", "V"].many, reference=T.logits["...", "V"].many, labels=T.ids["..."].many, returns=T.loss[()]
    )  # fmt: skip
    module = "vlmgraph.nn.losses:DPO"

    def result(self, inputs: Mapping[str, Type | tuple[Type, ...]]) -> Mapping[str, Type] | None:
        """Raises DimError where there are not two of each, or an answer's labels are not as long as its logits."""
        lists = {port: (given,) if isinstance(given, Type) else given for port, given in inputs.items()}
        for port, given in lists.items():
            if len(given) != 2:
                raise DimError(f"{port} takes two values, of the chosen batch and of the rejected one, not {len(given)}")
        for name, policy, reference, labels in zip(("chosen", "rejected"), *(lists[p] for p in ("policy", "reference", "labels"))):
            if len(policy.dims) != 3 or policy.dims != reference.dims or policy.dims[:2] != labels.dims:
                raise DimError(f"of the {name} batch policy is {policy}, reference {reference}, labels {labels}")
        return None
