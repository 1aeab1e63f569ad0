"""A step as one CUDA graph: thousands of kernels that a single call launches."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..generate.fixed import Unfit
from ..generate.recorded import Step

cuda: Any = torch.cuda
WARM = 3
"""Runs in front of the capture: kernels are compiled and chosen by then, libraries have their workspaces."""


class Captured:
    """The outputs of a captured step, which each call computes anew. What it holds on the device is free when it goes."""

    def __init__(self, graph: Any, out: dict[str, Tensor]) -> None:
        self.graph, self.out = graph, out

    def __call__(self) -> dict[str, Tensor]:
        self.graph.replay()
        return self.out


def record(step: Step) -> Captured:
    """Warm up on a stream of its own, which the capture asks for, then capture with a pool of memory of its own. Raises Unfit."""
    side = cuda.Stream()
    side.wait_stream(cuda.current_stream())
    with cuda.stream(side):
        for _ in range(WARM):
            step()
    cuda.current_stream().wait_stream(side)
    graph = cuda.CUDAGraph()
    try:
        with cuda.graph(graph):
            out = step()
    except RuntimeError as error:  # what may not happen while a stream is captured
        raise Unfit(f"CUDA captures no graph of it: {str(error).partition(chr(10))[0]}") from error
    return Captured(graph, out)
