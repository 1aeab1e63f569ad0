"""What holds between two steps of an optimizer: bounds of parameters, memory banks, copies that follow their source."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from .stage import addressed, component_length, remainder

if TYPE_CHECKING:
    from ..lower.model import CompiledModel


def before_step(model: nn.Module) -> None:
    """To be called before each forward pass of training: copies with `update = { ema = RATE, when = "before" }` follow."""
    follow(model, "before")


def after_step(model: nn.Module) -> None:
    """To be called after each `optimizer.step()`: copies that are updated then follow, and every module that has an `after_step` calls it:
    a parameter stays at its bound (CLIP's scale), a bank takes in what the batch gave."""
    follow(model, "after")
    for module in model.modules():
        rule = getattr(module, "after_step", None)
        if callable(rule):
            rule()


@torch.no_grad()
def follow(model: nn.Module, when: str) -> None:
    """copy = rate * copy + (1 - rate) * source for every parameter of the copies updated at this time (mean teacher, arXiv 1703.01780)."""
    graph = getattr(model, "graph", None)
    for target, rule in graph.copies.items() if graph is not None else ():
        if rule.ema is None or rule.when != when:
            continue
        sources = counterparts(model, rule.of)
        for rest, parameter in counterparts(model, target).items():
            parameter.lerp_(sources[rest].to(parameter.dtype), 1 - rule.ema)


def counterparts(model: CompiledModel | nn.Module, component: str) -> dict[str, nn.Parameter]:
    """The parameters of a component, each once, by their names in it."""
    found: dict[int, tuple[str, nn.Parameter]] = {}
    for name, parameter in addressed(model, component).items():
        rest = remainder(component.split("."), name.split("."), component_length(model, component))
        found.setdefault(id(parameter), (".".join(rest or ()), parameter))
    return dict(found.values())
