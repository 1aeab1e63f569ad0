"""What low-bit weights cost: a model's outputs beside those of itself as it was, role by role, on inputs that its spec implies."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .choice import Choice, chosen
from .quantize import quantize

if TYPE_CHECKING:
    from ...model import CompiledModel


@dataclass(frozen=True)
class Error:
    """Of one output with one role quantised, or all that are chosen (`role` is then "all")."""

    role: str
    kind: str
    output: str
    relative: float
    """Norm of the difference over the norm."""
    cosine: float

    def __str__(self) -> str:
        return f"{self.role} {self.kind}, {self.output}: relative error {self.relative:.2e}, cosine {self.cosine:.5f}"


@torch.no_grad()
def errors(make: Callable[[], CompiledModel], choice: Choice, inputs: Mapping[str, Tensor] | None = None) -> list[Error]:
    """`make` gives the model unquantised, with the same weights each time: one is held at a time. `inputs` are the example's where none are
    given. Raises DiagnosticError for a choice that cannot be meant.
    """
    types = chosen(choice)
    model = make()
    given = example(model) if inputs is None else inputs
    wanted = outputs(model, given)
    present = {config.role for config in model.graph.components.values()}
    del model
    found = []
    for role, part in {**{r: {r: t} for r, t in types.items() if r in present}, "all": types}.items():
        model = make()
        quantize(model, part)
        kind = ", ".join(dict.fromkeys(part.values()))
        found += [Error(role, kind, name, *apart(value, wanted[name])) for name, value in outputs(model, given).items()]
        del model
    return found


def example(model: CompiledModel) -> dict[str, Tensor]:
    from ....processor.model import model_processor
    from ...example import example_inputs

    made = example_inputs(model.graph, model_processor(model.spec, model.graph), model.main)
    return {name: torch.as_tensor(value.copy(), device=model.device) for name, value in made.items()}


def outputs(model: CompiledModel, given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # some programs draw
        found = model(**given)
    return {name: value.double().flatten() for name, value in found.items() if value.is_floating_point()}


def apart(value: Tensor, wanted: Tensor) -> tuple[float, float]:
    return float((value - wanted).norm() / wanted.norm().clamp_min(1e-30)), float(torch.cosine_similarity(value, wanted, 0))
