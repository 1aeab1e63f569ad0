"""inference.sample_image: an image drawn code by code."""

from __future__ import annotations

from pydantic import Field

from ..base import Token
from .base import Procedure


class SampleImage(Procedure, name="inference.sample_image"):
    """Draws the codes of an image after a prompt, one a step, then turns them into pixels (Janus, arXiv 2410.13848).

    `program` gives scores of the next code at every place, from the prompt and from the codes drawn so far, each of which stands at a
    `placeholder`. With a `guidance` s other than 1 a second stream runs beside the first: its prompt has `pad` in the place of all but the
    first and the last token, and codes are drawn from u + s * (c - u), c being the scores after the prompt, u those of the second stream.
    """

    program: str = Field(description="program with the scores of the next code at every place")
    codes: str = Field(description="value that the program is cut at: the codes drawn so far")
    placeholder: Token = Field(description="token that a drawn code stands at")
    pad: Token | None = Field(None, description="what the words of a prompt become in the unconditional stream")
    guidance: float = Field(1.0, ge=0, allow_inf_nan=False, description="weight of classifier-free guidance; 1 is none")
    temperature: float = Field(1.0, gt=0, allow_inf_nan=False, description="divides the scores before drawing")
    sample: bool = Field(True, description="draw, instead of taking the most likely code")
    then: str | None = Field(None, description="program that turns the codes into pixels")
    module = "vlmgraph.lower.sample_image:sample_image"

    def programs(self) -> dict[str, str]:
        return {"program": self.program} | ({"then": self.then} if self.then else {})

    def values(self) -> dict[str, tuple[str, str]]:
        return {"codes": (self.program, self.codes)}

    def stepping(self) -> tuple[str, str, int]:
        return self.program, self.codes, int(self.placeholder)
