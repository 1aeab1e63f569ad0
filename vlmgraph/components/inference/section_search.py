"""inference.section_search and inference.section_retrace: answers in tagged sections, the best of several at each."""

from __future__ import annotations

import re
from collections.abc import Mapping

from pydantic import Field, model_validator

from .base import Procedure

HOLE = re.compile(r"\{(\w+)\}")


def filled(template: str, values: Mapping[str, str]) -> str:
    """`template` with its {names} replaced in one pass, so that braces inside a value stay as they are."""
    return HOLE.sub(lambda hole: values[hole[1]], template)


class Sections(Procedure):
    """What searches over sections share: an answer is `<NAME>...</NAME>` for each of `sections`, in order (LLaVA-CoT, arXiv 2411.10440).

    The tags are ordinary text. A section ends where its closing tag stands in the text written since the section began.
    """

    program: str = Field(description="program that writes")
    sections: tuple[str, ...] = Field(min_length=1, description="names of the sections, in order")
    answer: str = Field(description="the section that holds the answer itself")
    temperature: float = Field(1.0, gt=0, allow_inf_nan=False, description="divides the scores before drawing")
    top_p: float = Field(1.0, gt=0, le=1, description="share of the probability that is drawn from")
    max_new_tokens: int = Field(2048, ge=1, description="tokens of a section at most")

    @model_validator(mode="after")
    def _named(self) -> Sections:
        for name in self.sections:
            if not re.fullmatch(r"[A-Za-z][\w-]*", name):
                raise ValueError(f"sections: {name!r} cannot stand in a tag")
            if self.sections.count(name) > 1:
                raise ValueError(f"sections: {name!r} is there twice")
        self.among("answer", self.answer)
        return self

    def among(self, field: str, *names: str) -> None:
        """Raises ValueError for a name that is no section."""
        for name in names:
            if name not in self.sections:
                raise ValueError(f"{field}: there is no section {name!r}; sections: {', '.join(self.sections)}")

    def programs(self) -> dict[str, str]:
        return {"program": self.program}

    def inner(self, section: str, text: str) -> str | None:
        """What stands in a section of `text`; None where the section is not there or not closed."""
        found = re.search(f"<{section}>(.*?)</{section}>", text, re.DOTALL)
        return None if found is None else found[1]

    def read(self, text: str) -> dict[str, str]:
        """The sections of a whole answer by name, those that are closed."""
        return {name: inner for name in self.sections if (inner := self.inner(name, text)) is not None}


class SectionSearch(Sections, name="inference.section_search"):
    """Beam search over sections (LLaVA-CoT, arXiv 2411.10440, section 3.2): of each section `candidates` are drawn after the best text so
    far, and two of them at random meet in a duel until one is left.

    The model itself judges, after the image and `judge`, a template with {instruction}, {question}, {hint}, {a} and {b}: the first wins if
    the verdict has `first` in it, else the second. Where a section has a review, a template with {hint} and {text}, the two are read
    without the image before that: one that a review finds `wrong` loses at once, the first one being reviewed first.
    """

    candidates: int = Field(2, ge=1, description="drawn of each section")
    judge: str = Field(description="what the model is asked about two candidates")
    first: str = Field(description="what a verdict for the first one says")
    instructions: dict[str, str] = Field(default_factory=dict, description="what is to be judged, by section")
    hints: dict[str, tuple[str, ...]] = Field(default_factory=dict, description="earlier sections that the judge is told, by section")
    reviews: dict[str, str] = Field(default_factory=dict, description="what the model is asked about one candidate, by section")
    wrong: str = Field("incorrect", min_length=1, description="what a review says of a wrong one")
    module = "vlmgraph.lower.section_search:section_search"

    @model_validator(mode="after")
    def _templates(self) -> SectionSearch:
        self.among("instructions", *self.instructions)
        self.among("reviews", *self.reviews)
        for section, names in self.hints.items():
            self.among("hints", section, *names)
            for name in names:
                if self.sections.index(name) >= self.sections.index(section):
                    raise ValueError(f"hints: {name!r} is not written before {section!r}")
        for what, template, needed, known in (
            ("judge", self.judge, {"a", "b"}, {"instruction", "question", "hint", "a", "b"}),
            *((f"reviews.{section}", template, {"text"}, {"question", "hint", "text"}) for section, template in self.reviews.items()),
        ):
            given = set(HOLE.findall(template))
            if needed - given or given - known:
                wanted = ", ".join(f"{{{name}}}" for name in sorted(needed - given or given - known))
                raise ValueError(f"{what}: it must hold {wanted}" if needed - given else f"{what}: nothing fills {wanted}")
        return self


class SectionRetrace(Sections, name="inference.section_retrace"):
    """Search that goes back (LLaVA-CoT's SWIRES): what stands in front of the section `back` is written once. Then, in rounds, `candidates`
    of `back` are drawn and the `keep` best stay; each is continued by candidates of the next section, which join a pool. A round is the
    last where the `rank`-th best of the pool is above mean + z * deviation, or where `limit` rounds were gone back. The `keep` best of the
    pool are continued to the end, and the best whole answer is taken.

    Rewards come from outside, (question, text) → number, of a section's inner text with its request behind the question, of whole answers
    with the bare question; `mean` and `deviation` are those of that model's rewards.
    """

    back: str = Field(description="the section that is gone back to; the one behind it fills the pool")
    candidates: dict[str, int] = Field(default_factory=dict, description="drawn of each section; 1 where left out")
    keep: dict[str, int] = Field(default_factory=dict, description="kept of `back` in a round, and of the pool at the end")
    limit: int = Field(4, ge=0, description="how often it goes back at most")
    rank: int = Field(2, ge=1, description="place in the pool whose reward decides")
    mean: float = Field(allow_inf_nan=False, description="of the rewards")
    deviation: float = Field(gt=0, allow_inf_nan=False, description="of the rewards")
    z: float = Field(allow_inf_nan=False, description="deviations above the mean that are good enough")
    requests: dict[str, str] = Field(default_factory=dict, description="what stands behind the question, by section")
    module = "vlmgraph.lower.section_search:section_retrace"

    @model_validator(mode="after")
    def _places(self) -> SectionRetrace:
        self.among("back", self.back)
        if self.back == self.sections[-1]:
            raise ValueError(f"back: no section stands behind {self.back!r} that could fill the pool")
        for what, table in (("candidates", self.candidates), ("keep", self.keep), ("requests", self.requests)):
            self.among(what, *table)
            if what != "requests" and any(count < 1 for count in table.values()):  # type: ignore[operator]
                raise ValueError(f"{what}: at least one of a section")
        return self

    @property
    def pool(self) -> str:
        """The section that fills the pool."""
        return self.sections[self.sections.index(self.back) + 1]

    @property
    def threshold(self) -> float:
        """The reward above which a try is good enough."""
        return self.mean + self.z * self.deviation
