"""Writes a compiled model out as one file of plain PyTorch (`docs/codegen.md`)."""

from __future__ import annotations

from .generate import source

__all__ = ["source"]
