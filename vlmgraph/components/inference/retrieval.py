"""inference.retrieval: texts for images and images for texts."""

from __future__ import annotations

from pydantic import Field

from .base import Procedure


class Retrieval(Procedure, name="inference.retrieval"):
    """Ranks texts for every image and images for every text, in two steps (ALBEF, arXiv 2107.07651, section 5; BLIP, arXiv 2201.12086).

    All pairs are compared by the product of their embeddings. The `top` candidates of each are then read once more by a program that sees
    both, whose logit of a match is added; all others are out.
    """

    image: str = Field(description="program that gives the embedding of an image")
    text: str = Field(description="program that gives the embedding of a text")
    match: str | None = Field(None, description="program that gives two logits for a pair, of no match and of a match; without it one step")
    top: int = Field(256, ge=1, description="candidates that are read once more")
    module = "vlmgraph.lower.retrieval:retrieve"

    def programs(self) -> dict[str, str]:
        named = {"image": self.image, "text": self.text}
        return named if self.match is None else {**named, "match": self.match}
