"""Whether a run-time check may look at values."""

from __future__ import annotations

import torch
from torch import Tensor


def readable(x: Tensor) -> bool:
    """False on the meta device and while tracing, compiling or exporting, where values do not exist."""
    return x.device.type != "meta" and not torch.compiler.is_compiling() and not torch.jit.is_tracing()
