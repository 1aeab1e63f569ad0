"""inference.value_loop: objects written as numbers, token by token."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from ..base import Config, Token
from .base import Procedure


class Number(Config):
    """One token of an object: numbers read off scores of bins, and fed back as numbers."""

    read: str = Field(description="output of the program with the scores of the token's bins, those of its numbers one behind the other")
    feed: str = Field(description="input that takes the numbers")
    count: int = Field(1, ge=1, description="numbers of the token")
    bins: Literal["linear", "log2"] = Field(
        "linear", description="bin over the number of bins; or 2 ** (span * bin / last - span), so that the last bin is 1"
    )
    span: float = Field(10.0, gt=0, description="octaves of the logarithmic bins")
    last: int = Field(1023, ge=1, description="number of the last logarithmic bin")


class ValueLoop(Procedure, name="inference.value_loop"):
    """Writes objects after a prompt, each as a fixed row of numbers, until the program says `stop` (moondream's boxes and points).

    `program` gives scores for what stands behind the last token: of bins, and of the next word, which is either `stop` or anything that
    begins another object. A number is the most likely bin's and becomes the next token.
    """

    program: str = Field(description="program that reads the prompt and the numbers so far")
    words: str = Field("logits", description="output with the scores of the next word")
    numbers: tuple[Number, ...] = Field(min_length=1, description="tokens of an object, in order")
    placeholders: tuple[Token, ...] = Field(description="what each of them stands at among the ids")
    boxes: bool = Field(False, description="objects are a centre and a size, given back as left, top, right and bottom")
    stop: Token = Field(description="the word behind the last object")
    max_objects: int = Field(50, ge=1, description="objects that are written at most")
    module = "vlmgraph.lower.value_loop:value_loop"

    @model_validator(mode="after")
    def _each(self) -> ValueLoop:
        if len(self.placeholders) != len(self.numbers):
            raise ValueError(f"placeholders: {len(self.placeholders)} for {len(self.numbers)} tokens of an object")
        if self.boxes and sum(number.count for number in self.numbers) != 4:
            raise ValueError("boxes: a centre and a size are four numbers")
        return self

    def programs(self) -> dict[str, str]:
        return {"program": self.program}

    def values(self) -> dict[str, tuple[str, str]]:
        return {f"numbers.{i}": (self.program, number.feed) for i, number in enumerate(self.numbers)}
