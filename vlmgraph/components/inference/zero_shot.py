"""inference.zero_shot: classes by their names."""

from __future__ import annotations

from pydantic import Field, field_validator

from .base import Procedure


class ZeroShot(Procedure, name="inference.zero_shot"):
    """Scores images against classes that are described in words (CLIP, arXiv 2103.00020, section 3.1.4).

    Every class stands in every template; the text embeddings of a class are normalised, averaged, and normalised again. The scores are
    `scale` times the products with the image's embedding, softmax over the classes.
    """

    image: str = Field(description="program that gives the embedding of an image")
    text: str = Field(description="program that gives the embedding of a text")
    templates: tuple[str, ...] = Field(("a photo of a {label}.",), min_length=1, description="sentences with {label} in them")
    scale: float = Field(100.0, gt=0, allow_inf_nan=False, description="factor on the products")
    module = "vlmgraph.lower.zero_shot:zero_shot"

    @field_validator("templates")
    @classmethod
    def _holds_a_label(cls, templates: tuple[str, ...]) -> tuple[str, ...]:
        for template in templates:
            if template.count("{label}") != 1:
                raise ValueError(f"{template!r} must hold {{label}} once")
        return templates

    def programs(self) -> dict[str, str]:
        return {"image": self.image, "text": self.text}

    def prompts(self, label: str) -> list[str]:
        """A class in every template."""
        return [template.replace("{label}", label) for template in self.templates]
