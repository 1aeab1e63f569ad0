"""Scores of every image against every text."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


def pairwise(image: Tensor, text: Tensor) -> Tensor:
    """image [B, d] or [B, Q, d], text [C, d] → [B, C]; of Q vectors an image the nearest counts (BLIP-2, arXiv 2301.12597, section 3.2)."""
    scores = image @ text.t()
    return scores.amax(1) if image.dim() == 3 else scores


class Similarity(nn.Module):
    """`out` [B, C] = scale * image . text (+ bias), with the `scale` beside it.

    The scale is exp(log_scale), held at `maximum` (CLIP, arXiv 2103.00020, section 2.5), or 1 / temperature with `divide` (BLIP-2), which
    stays within `bounds` (BLIP).
    `bias` is the start of a learned offset (SigLIP, arXiv 2303.15343); it is then an output too.
    """

    def __init__(
        self,
        initial: float = 1.0,
        maximum: float | None = None,
        divide: bool = False,
        learned: bool = True,
        bias: float | None = None,
        bounds: tuple[float, float] | None = None,
        minimum: float | None = None,
    ) -> None:
        super().__init__()
        self.minimum = minimum
        self.bounds = bounds
        self.initial, self.maximum, self.initial_bias = initial, maximum, bias
        value = nn.Parameter(torch.empty(()), requires_grad=learned)
        self.log_scale = None if divide else value
        self.temperature = value if divide else None
        self.bias = None if bias is None else nn.Parameter(torch.empty(()))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        with torch.no_grad():
            if self.temperature is not None:
                self.temperature.fill_(self.initial)
            if self.log_scale is not None:
                self.log_scale.fill_(math.log(self.initial))
            if self.bias is not None and self.initial_bias is not None:
                self.bias.fill_(self.initial_bias)

    def scale(self) -> Tensor:
        if self.temperature is not None:
            return 1 / self.temperature
        assert self.log_scale is not None
        scale = self.log_scale.exp()
        if self.maximum is None and self.minimum is None:
            return scale
        # the gradient passes the bound, so a scale that has reached it can come back again
        return scale - (scale - scale.clamp(self.minimum, self.maximum)).detach()

    @torch.no_grad()
    def after_step(self) -> None:
        """Between steps of training the parameter itself is brought back to its bounds, so that it does not run away above them."""
        if self.log_scale is not None and self.maximum is not None:
            self.log_scale.clamp_(max=math.log(self.maximum))
        if self.log_scale is not None and self.minimum is not None:
            self.log_scale.clamp_(min=math.log(self.minimum))
        if self.temperature is not None and self.bounds is not None:
            self.temperature.clamp_(*self.bounds)

    def forward(self, image: Tensor, text: Tensor) -> dict[str, Tensor]:
        scale = self.scale()
        scores = pairwise(image, text) * scale
        if self.bias is None:
            return {"out": scores, "scale": scale}
        return {"out": scores + self.bias, "scale": scale, "bias": self.bias}
