"""Procedures over programs, `[inference.NAME]`: declarations; what runs them is named by text."""

from __future__ import annotations

from .base import Procedure
from .reserved import RESERVED
from .retrieval import Retrieval
from .sample_image import SampleImage
from .section_search import SectionRetrace, SectionSearch
from .value_loop import ValueLoop
from .zero_shot import ZeroShot

KINDS: dict[str, type[Procedure]] = {c.kind: c for c in (Retrieval, SampleImage, SectionRetrace, SectionSearch, ValueLoop, ZeroShot)}

__all__ = ["KINDS", "RESERVED", "Procedure", "Retrieval", "SampleImage", "SectionRetrace", "SectionSearch", "ValueLoop", "ZeroShot"]
