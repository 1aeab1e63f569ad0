"""Weights of 8 and 4 bits, and products of a few rows at the speed of the memory.

`pack` makes codes and scales of weights, `ops` are the products (`rows.cpp`, which `native` compiles), `modules` hold the codes in the
places of linear maps, `choice` and `quantize` say which, `errors` what it costs.
"""

from __future__ import annotations

from .choice import Choice, chosen
from .quantize import Quantization, quantize

__all__ = ["Choice", "Quantization", "chosen", "quantize"]
