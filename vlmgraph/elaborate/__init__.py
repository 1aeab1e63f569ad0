"""Spec → Graph: the first lowering. No torch, no weights; every problem is collected."""

from .build import elaborate

__all__ = ["elaborate"]
