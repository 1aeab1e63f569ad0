"""How rotary positions reach contexts longer than those a model was trained on."""

from __future__ import annotations

import math
from typing import Any, Literal

from pydantic import Field, model_validator

from ..base import Config


class Scaling(Config):
    """How rotary positions beyond the trained ones are brought back."""

    rule: Literal["linear", "dynamic", "llama3", "yarn", "longrope"] = Field(
        description="positions divided by `factor`; a base that grows with the call's length; long wavelengths only; a blend by the "
        "number of the pair; a divisor for each pair"
    )
    factor: float | None = Field(None, gt=0, description="how many times longer")
    length: int | None = Field(None, ge=1, description="yarn, longrope: or the new length, `factor` times the old one")
    low: float = Field(1.0, gt=0, description="llama3: turns in the old context below which a frequency is slowed down fully")
    high: float = Field(4.0, gt=0, description="llama3: turns in the old context above which it is kept")
    original: int = Field(8192, ge=2, description="length of the old context; all but linear")
    fast: float = Field(32.0, gt=0, description="yarn: turns in the old context above which a pair is kept")
    slow: float = Field(1.0, gt=0, description="yarn: turns below which it is divided by `factor`")
    whole: bool = Field(True, description="yarn: the blend begins and ends at whole pairs")
    attention: float | None = Field(None, gt=0, description="yarn, longrope: factor on queries and keys; else by the rule")
    mscale: float | None = Field(None, description="yarn: weight of that factor, with `mscale_all`")
    mscale_all: float | None = Field(None, description="yarn: weight of what it is divided by")
    short: tuple[float, ...] | None = Field(None, description="longrope: a divisor for each pair, up to the old length")
    long: tuple[float, ...] | None = Field(None, description="longrope: a divisor for each pair, in longer calls")

    @model_validator(mode="after")
    def _whole(self) -> Scaling:
        either = self.rule in ("yarn", "longrope")
        if self.factor is None and not (either and self.length is not None):
            raise ValueError(f"{self.rule} needs `factor`" + (" or `length`" if either else ""))
        if self.length is not None and (not either or self.factor is not None):
            raise ValueError("`length` stands in place of `factor`, for yarn and longrope")
        if (self.rule == "longrope") != (self.short is not None and self.long is not None):
            raise ValueError("longrope and its lists `short` and `long` go together")
        if self.rule == "llama3" and not self.low < self.high:
            raise ValueError(f"low = {self.low} is not below high = {self.high}")
        if self.rule == "yarn" and self.slow > self.fast:
            raise ValueError(f"slow = {self.slow} is above fast = {self.fast}")
        return self

    def check(self, dim: int, theta: float) -> None:
        """Raises ValueError where `dim` turned values of a head or their base do not go with the rule."""
        if self.rule == "longrope" and not len(self.short or ()) == len(self.long or ()) == dim // 2:
            found = f"{len(self.short or ())} and {len(self.long or ())}"
            raise ValueError(f"scaling: longrope needs a divisor for each of the {dim // 2} pairs of a head, not {found}")
        if self.rule == "dynamic" and dim < 4:
            raise ValueError("scaling: dynamic needs more than one pair in a head")
        if self.rule == "yarn" and theta <= 1:
            raise ValueError(f"scaling: yarn needs a base above one, not {theta}")

    def resolved(self, dim: int, theta: float) -> dict[str, Any]:
        """Arguments of the module."""
        factor = self.factor if self.factor is not None else (self.length or 0) / self.original
        table: dict[str, Any] = {"scaling": self.rule, "factor": factor}
        if self.rule == "linear":
            return table
        table["original"] = self.original
        if self.rule == "llama3":
            return {**table, "low": self.low, "high": self.high}
        if self.rule == "yarn":
            first, last = self.ramp(dim, theta)
            return {**table, "low": first, "high": last, "attention": self.loudness(factor)}
        if self.rule == "longrope":
            return {**table, "short": self.short, "long": self.long, "attention": self.loudness(factor)}
        return table

    def ramp(self, dim: int, theta: float) -> tuple[float, float]:
        """The pairs between which YaRN blends: those that turn `fast` and `slow` times within the old context."""
        first, last = (dim * math.log(self.original / (turns * 2 * math.pi)) / (2 * math.log(theta)) for turns in (self.fast, self.slow))
        if self.whole:
            first, last = math.floor(first), math.ceil(last)
        first, last = max(first, 0), min(last, dim - 1)
        return first, last if last != first else last + 0.001

    def loudness(self, factor: float) -> float:
        """What keeps the entropy of attention over longer contexts (arXiv 2309.00071, section 3.4; arXiv 2402.13753)."""
        if self.attention is not None:
            return self.attention
        if factor <= 1:
            return 1.0
        if self.rule == "longrope":
            return math.sqrt(1 + math.log(factor) / math.log(self.original))
        grown = 0.1 * math.log(factor)
        if self.mscale and self.mscale_all:
            return (1 + grown * self.mscale) / (1 + grown * self.mscale_all)
        return 1 + grown
