"""Writes an answer section by section: each continues the text so far and ends at its closing tag."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..components.inference.section_search import Sections
from .generate import continued, generate

if TYPE_CHECKING:
    from ..processor import Processor
    from .model import CompiledModel


@dataclass(frozen=True)
class Draft:
    """A part of an answer: its ids [1, n] behind the prompt, its text, and the text of its last section."""

    ids: Tensor
    text: str = ""
    last: str = ""


class Writer:
    """Draws continuations of one answer, and asks the same model other things."""

    def __init__(
        self, model: CompiledModel, processor: Processor, procedure: Sections, question: str, images: Any, generator: torch.Generator | None
    ) -> None:
        self.model, self.processor, self.procedure, self.generator = model, processor, procedure, generator
        self.question, self.images = question, pictures(images)
        self.prompt = self.encoded(question, self.images)

    @property
    def start(self) -> Draft:
        return Draft(self.prompt["input_ids"][:, :0])

    def encoded(self, text: str, images: Sequence[Any]) -> dict[str, Any]:
        """The inputs of the model for one turn of a user, the answer opened."""
        content = [*({"type": "image"} for _ in images), {"type": "text", "text": text}]
        arrays = self.processor(messages=[{"role": "user", "content": content}], images=list(images) or None)
        return {name: torch.from_numpy(value).to(self.model.device) for name, value in arrays.items()}

    def write(self, draft: Draft, section: str) -> Draft:
        """One more section behind a draft, up to its closing tag, the end of the turn or the limit."""
        new = self.drawn(continued(self.model, self.prompt, draft.ids), f"</{section}>")
        said = self.processor.decode(new[0].tolist())
        return Draft(torch.cat([draft.ids, new], dim=1), draft.text + said, said)

    def ask(self, text: str, images: bool) -> str:
        """What the model says to another turn."""
        return self.processor.decode(self.drawn(self.encoded(text, self.images if images else ()))[0].tolist())

    def drawn(self, inputs: dict[str, Any], tag: str = "") -> Tensor:
        """New ids [1, n] behind a prompt, the end of the turn left out. They stop where `tag` stands in their own text."""
        before, ends = inputs["input_ids"].shape[1], self.processor.stop
        rules = self.procedure
        out = generate(
            self.model, **inputs, program=rules.program, do_sample=True, temperature=rules.temperature, top_p=rules.top_p,
            max_new_tokens=rules.max_new_tokens, eos_token_id=ends, stop_strings=[tag] if tag else (), processor=self.processor,
            generator=self.generator,
        )  # fmt: skip
        new = out[:, before:]
        return new[:, :-1] if new.shape[1] and int(new[0, -1]) in ends else new

    def inner(self, section: str, draft: Draft) -> str:
        """What the draft's last section says, without its tags where it has them."""
        inner = self.procedure.inner(section, draft.last)
        return (draft.last if inner is None else inner).strip()

    def shuffled(self, count: int) -> list[int]:
        """The numbers below `count` in random order."""
        return torch.randperm(count, generator=self.generator, device=self.generator.device if self.generator else "cpu").tolist()


def pictures(images: Any) -> list[Any]:
    if images is None:
        return []
    return list(images) if isinstance(images, (list, tuple)) else [images]
