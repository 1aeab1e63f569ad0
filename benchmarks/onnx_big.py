"""`benchmarks.onnx` with a decoder of 24 layers and 0.5B parameters."""

from __future__ import annotations

from .common import Table
from .onnx import measure as measure_size


def measure() -> Table:
    return measure_size("big")
