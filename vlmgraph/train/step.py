"""What holds between two steps of an optimizer."""

from __future__ import annotations

from torch import nn


def after_step(model: nn.Module) -> None:
    """Call `after_step` of every module that has one: bounds of parameters (CLIP's scale). To be called after each `optimizer.step()`."""
    for module in model.modules():
        rule = getattr(module, "after_step", None)
        if callable(rule):
            rule()
