"""The best of several at each section of an answer, by duels or by rewards (LLaVA-CoT, arXiv 2411.10440)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from ..components.inference import SectionRetrace, SectionSearch
from ..components.inference.section_search import Sections, filled
from ..diagnostics import Diagnostic, DiagnosticError
from ..diagnostics import codes as C
from .sections import Draft, Writer

if TYPE_CHECKING:
    from ..processor import Processor
    from .model import CompiledModel

Reward = Callable[[str, str], float]
"""(question, text) → how good the text is. What it looks at beside them, a picture say, is its own."""


@dataclass(frozen=True)
class Reply:
    """A whole answer: its text, its sections by name, and the answer itself, None where its section is missing or not closed."""

    text: str
    sections: dict[str, str] = field(default_factory=dict)
    answer: str | None = None


def reply(procedure: Sections, draft: Draft) -> Reply:
    sections = procedure.read(draft.text)
    return Reply(draft.text, sections, sections.get(procedure.answer))


@torch.no_grad()
def section_search(
    model: CompiledModel, procedure: SectionSearch, processor: Processor, question: str, images: Any = None,
    generator: torch.Generator | None = None,
) -> Reply:  # fmt: skip
    """Each section drawn several times after the winners so far; later sections see no loser."""
    writer = Writer(model, processor, procedure, question, images, generator)
    best = writer.start
    for section in procedure.sections:
        drafts = [writer.write(best, section) for _ in range(procedure.candidates)]
        while len(drafts) > 1:
            i, j = writer.shuffled(len(drafts))[:2]
            lost = j if first_wins(writer, procedure, section, best, drafts[i], drafts[j]) else i
            del drafts[lost]
        best = drafts[0]
    return reply(procedure, best)


def first_wins(writer: Writer, procedure: SectionSearch, section: str, so_far: Draft, a: Draft, b: Draft) -> bool:
    """The verdict on two candidates of a section: a review that finds one wrong, else the judge. What it does not say is for the second."""
    known = procedure.read(so_far.text)
    hint = "\n".join(known[name] for name in procedure.hints.get(section, ()) if name in known)
    texts = {"a": writer.inner(section, a), "b": writer.inner(section, b)}
    if section in procedure.reviews:
        for one, wins in (("a", False), ("b", True)):
            asked = filled(procedure.reviews[section], {"question": writer.question, "hint": hint, "text": texts[one]})
            if procedure.wrong in writer.ask(asked, images=False):
                return wins
    told = {"instruction": procedure.instructions.get(section, ""), "question": writer.question, "hint": hint, **texts}
    return procedure.first in writer.ask(filled(procedure.judge, told), images=True)


@torch.no_grad()
def section_retrace(
    model: CompiledModel, procedure: SectionRetrace, processor: Processor, question: str, reward: Reward, images: Any = None,
    generator: torch.Generator | None = None,
) -> Reply:  # fmt: skip
    """Rounds of candidates of two sections until enough of them are good, then the best of the pool to the end."""
    writer = Writer(model, processor, procedure, question, images, generator)
    at = procedure.sections.index(procedure.back)
    start = writer.start
    for section in procedure.sections[:at]:
        start = best_of(writer, procedure, section, [start], reward)[0][1]
    pool: list[tuple[float, Draft]] = []
    for _ in range(procedure.limit + 1):
        kept = best_of(writer, procedure, procedure.back, [start], reward)[: procedure.keep.get(procedure.back)]
        pool += best_of(writer, procedure, procedure.pool, [draft for _, draft in kept], reward)
        pool.sort(key=lambda scored: scored[0], reverse=True)
        if len(pool) >= procedure.rank and pool[procedure.rank - 1][0] > procedure.threshold:
            break
    whole = [draft for _, draft in pool[: procedure.keep.get(procedure.pool)]]
    for section in procedure.sections[at + 2 :]:
        whole = [writer.write(draft, section) for draft in whole for _ in range(procedure.candidates.get(section, 1))]
    return reply(procedure, max(whole, key=lambda draft: reward(question, draft.text)))


def best_of(writer: Writer, procedure: SectionRetrace, section: str, drafts: Sequence[Draft], reward: Reward) -> list[tuple[float, Draft]]:
    """Candidates of a section behind each of the drafts, with their rewards, the best first; a single one is not asked about."""
    count = procedure.candidates.get(section, 1)
    made = [writer.write(draft, section) for draft in drafts for _ in range(count)]
    if len(made) == 1 and section not in (procedure.back, procedure.pool):
        return [(0.0, made[0])]
    asked = f"{writer.question}{procedure.requests.get(section, '')}"
    return sorted(((reward(asked, writer.inner(section, d)), d) for d in made), key=lambda scored: scored[0], reverse=True)


def answer(
    model: CompiledModel, processor: Processor, question: str, images: Any = None, *, procedure: str | None = None,
    reward: Reward | None = None, generator: torch.Generator | None = None,
) -> Reply:  # fmt: skip
    """An answer by a procedure of the spec, the first that writes sections where none is named.

    Raises DiagnosticError where there is none, and where one that needs rewards is given none.
    """
    known = {name: p for name, p in model.graph.procedures.items() if isinstance(p, (SectionSearch, SectionRetrace))}
    chosen = known.get(procedure) if procedure is not None else next(iter(known.values()), None)
    if chosen is None:
        text = f"{model.graph.name} has no procedure {procedure or ''!r} that writes sections; there are: {', '.join(known) or 'none'}"
        raise DiagnosticError(Diagnostic(C.NO_GENERATE, text, fix='declare [inference.NAME] with type = "inference.section_search"'))
    if isinstance(chosen, SectionSearch):
        return section_search(model, chosen, processor, question, images, generator)
    if reward is None:
        text = f"{model.graph.name}: the procedure chooses by rewards, and none are given"
        raise DiagnosticError(Diagnostic(C.NO_GENERATE, text, fix="give reward=, a function of a question and a text"))
    return section_retrace(model, chosen, processor, question, reward, images, generator)
