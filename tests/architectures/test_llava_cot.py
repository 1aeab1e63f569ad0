"""LLaVA-CoT (arXiv 2411.10440): answers in four tagged sections, searched section by section by a procedure over one program."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import PIL.Image
import pytest
import torch
from torch import Tensor

import vlmgraph
from tests.architectures.common import fresh, graph, lively, processor, published, trains
from vlmgraph.components.inference import SectionRetrace, SectionSearch
from vlmgraph.diagnostics import DiagnosticError
from vlmgraph.lower.section_search import Reply, answer, section_retrace, section_search

NAME, NAMES, END = "llava-cot", ("SUMMARY", "CAPTION", "REASONING", "CONCLUSION"), 306
PICTURE = PIL.Image.new("RGB", (30, 20), (200, 30, 30))


class Scripted:
    """Stands in for the program `generate`: writes what `script` says to a prompt, byte by byte, then the end of the turn."""

    def __init__(self, program: Any, script: Callable[[str], str]) -> None:
        self.graph, self.source, self.script = program.graph, program.source, script
        self.prompts: list[str] = []
        self.given: list[dict[str, Tensor]] = []
        self.left: list[int] = []

    def run(self, inputs: dict[str, Tensor], caches: Any = None, step: bool = False, last: bool = False) -> dict[str, Tensor]:
        if not step:
            self.prompts.append(processor(NAME).decode(inputs["input_ids"][0].tolist()))
            self.given.append(dict(inputs))
            self.left = [*self.script(self.prompts[-1]).encode(), END]
        logits = torch.full((1, inputs["input_ids"].shape[1], 310), -1e4)
        logits[0, -1, self.left.pop(0)] = 1e4
        return {"logits": logits}


class Teller:
    """Drafts are numbered by section; the verdicts of judge and reviews are given. Every draft goes on behind its closing tag."""

    def __init__(self, better: Callable[[str, str], bool] = lambda a, b: False, wrong: tuple[str, ...] = ()) -> None:
        self.better, self.wrong = better, wrong
        self.count = dict.fromkeys(NAMES, 0)
        self.asked: list[tuple[str, str]] = []

    def __call__(self, prompt: str) -> str:
        if "Response 1:" in prompt:
            a, b = (prompt.partition(f"Response {n}: ")[2].partition("\n")[0] for n in (1, 2))
            self.asked.append(("judge", prompt))
            return "Since it is so, I choose response 1." if self.better(a, b) else "Since it is not, I choose neither."
        if "correct or incorrect" in prompt:
            self.asked.append(("review", prompt))
            text = prompt.partition("Reasoning: ")[2].partition("\n")[0]
            return f"It is {'in' if text in self.wrong else ''}correct."
        said = prompt.partition("\nassistant\n\n")[2] if "\nassistant\n\n" in prompt else prompt
        section = NAMES[sum(said.count(f"</{name}>") for name in NAMES) - sum(QUESTION.count(f"</{name}>") for name in NAMES)]
        self.count[section] += 1
        return f"<{section}>{section[:2].lower()}{self.count[section]}</{section}> and on"


QUESTION = "What is </SUMMARY> red?"  # a closing tag in the prompt ends nothing


@pytest.fixture
def scripted() -> Iterator[Callable[[Callable[[str], str]], Any]]:
    model = lively(NAME)
    real = model.programs["generate"]

    def made(script: Callable[[str], str]) -> tuple[Any, Scripted]:
        stub = Scripted(real, script)
        model.programs._programs["generate"] = stub
        return model, stub

    yield made
    model.programs._programs["generate"] = real


def search(model: Any, seed: int = 0, **fields: Any) -> Reply:
    declared = graph(NAME, "tiny").procedures["stage_beam"]
    rules = SectionSearch(**{**declared.arguments(), **fields})
    return section_search(model, rules, processor(NAME), QUESTION, PICTURE, torch.Generator().manual_seed(seed))


def number(text: str) -> int:
    return int(text[2:])


@pytest.mark.parametrize("candidates", [1, 2, 3])
@pytest.mark.parametrize("low", [False, True])
def test_the_winner_of_every_section_and_nothing_else(candidates: int, low: bool, scripted: Any) -> None:
    """The judge prefers low or high numbers, wherever they stand: whole sections of the winners, in order, and no loser is ever read."""
    teller = Teller(lambda a, b: (number(a) < number(b)) == low)
    model, stub = scripted(teller)
    made = search(model, candidates=candidates)
    best = 1 if low else candidates
    assert made.text == "".join(f"<{name}>{name[:2].lower()}{best}</{name}>" for name in NAMES)
    assert made.sections == {name: f"{name[:2].lower()}{best}" for name in NAMES} and made.answer == f"co{best}"
    assert teller.count == dict.fromkeys(NAMES, candidates)
    kinds = [kind for kind, _ in teller.asked]
    assert kinds.count("judge") == 4 * (candidates - 1) and kinds.count("review") == 2 * (candidates - 1)
    drafts = [prompt for prompt in stub.prompts if "correct or incorrect" not in prompt and "Response 1:" not in prompt]
    for k, prompt in enumerate(drafts):
        done = "".join(f"<{name}>{name[:2].lower()}{best}</{name}>" for name in NAMES[: k // candidates])
        assert prompt.endswith(f"\n\n{done}"), "all drafts of a section continue the winners in front of it"


def test_sections_end_at_their_own_tag_in_new_text(scripted: Any) -> None:
    """Another section's tag ends nothing; the end of the turn and the limit do."""
    texts = iter(["<SUMMARY>a</CAPTION>b</SUMMARY>x", "no tag", "<REASONING>" + "r" * 50, "<CONCLUSION>c\nd</CONCLUSION></CONCLUSION>"])
    model, stub = scripted(lambda prompt: next(texts))
    made = search(model, candidates=1, max_new_tokens=40)
    assert {int((given["input_ids"] == END).sum()) for given in stub.given} == {1}, "the turn that a section ended goes on"
    assert made.text == "<SUMMARY>a</CAPTION>b</SUMMARY>no tag<REASONING>" + "r" * 29 + "<CONCLUSION>c\nd</CONCLUSION>"
    assert made.sections == {"SUMMARY": "a</CAPTION>b", "CONCLUSION": "c\nd"} and made.answer == "c\nd"
    other = iter(["<SUMMARY>a</SUMMARY>", "", "", "<CONCLUSION>never closed"])
    model, _ = scripted(lambda prompt: next(other))
    assert search(model, candidates=1).answer is None


def test_what_the_judge_is_told(scripted: Any) -> None:
    teller = Teller(lambda a, b: number(a) > number(b))
    model, stub = scripted(teller)
    search(model)
    judged = {name: prompt for (kind, prompt), name in zip([a for a in teller.asked if a[0] == "judge"], NAMES)}
    declared = graph(NAME, "tiny").procedures["stage_beam"]
    for name, prompt in judged.items():
        assert declared.instructions[name] in prompt and QUESTION in prompt
        assert all(f"{name[:2].lower()}{k}" in prompt for k in (1, 2)) and f"<{name}>" not in prompt, "inner texts"
    assert "\nca2\n" not in judged["CAPTION"] and "\nca2\n" in judged["REASONING"] and "\nca2\nre2\n" in judged["CONCLUSION"]
    for prompt, given in zip(stub.prompts, stub.given):
        reviewed = "correct or incorrect" in prompt
        assert ("pixel_values" in given) != reviewed and (not reviewed or "image: ca2" in prompt)
        if not reviewed:
            seen, place = given["cross_attention_mask"], int((given["input_ids"][0] == 310).nonzero())
            assert seen.shape[1] == given["input_ids"].shape[1] == given["attention_mask"].shape[1]
            assert seen[0].flatten(1).any(-1).tolist() == [t >= place for t in range(seen.shape[1])], "drafts see the image to their end"


def test_verdicts(scripted: Any) -> None:
    """One that chooses nothing is for the second; the duel is drawn, so that over seeds either draft stands first."""
    winners = set()
    for seed in range(8):
        teller = Teller()
        made = search(scripted(teller)[0], seed)
        firsts = [p.partition("Response 1: ")[2].partition("\n")[0] for kind, p in teller.asked if kind == "judge"]
        assert all(made.sections[name] != first for name, first in zip(NAMES, firsts))
        winners.add(made.answer)
    assert winners == {"co1", "co2"}


@pytest.mark.parametrize("wrong", [("re1",), ("re2",), ("re1", "re2")])
def test_reviews_come_before_the_judge(wrong: tuple[str, ...], scripted: Any) -> None:
    """The first one wrong: the second wins, unread. The first right and the second wrong: the first wins. No duel is judged then."""
    for seed in range(4):
        teller = Teller(lambda a, b: number(a) < number(b), wrong)
        made = search(scripted(teller)[0], seed)
        reviews = [p.partition("Reasoning: ")[2].partition("\n")[0] for kind, p in teller.asked if kind == "review"]
        assert sum(kind == "judge" for kind, _ in teller.asked) == 3
        other = {"re1": "re2", "re2": "re1"}[reviews[0]]
        assert reviews == ([reviews[0]] if reviews[0] in wrong else [reviews[0], other])
        assert made.sections["REASONING"] == (other if reviews[0] in wrong else reviews[0])


# ---- going back


def retrace(model: Any, reward: Callable[[str, str], float], **fields: Any) -> Reply:
    rules = SectionRetrace(**{**graph(NAME, "tiny").procedures["swires"].arguments(), **fields})
    return section_retrace(model, rules, processor(NAME), QUESTION, reward, PICTURE, torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("good", "rounds"), [(-0.24, 1), (-0.25, 5)])
def test_rounds(good: float, rounds: int, scripted: Any) -> None:
    """Above -0.2431 one round is enough; below it goes back four times. Of each caption kept two reasonings, of three a conclusion."""
    teller = Teller()
    asked: list[tuple[str, str]] = []

    def reward(question: str, text: str) -> float:
        asked.append((question, text))
        return good

    retrace(scripted(teller)[0], reward)
    assert teller.count == {"SUMMARY": 1, "CAPTION": 4 * rounds, "REASONING": 4 * rounds, "CONCLUSION": 3}
    requests = graph(NAME, "tiny").procedures["swires"].requests
    captions, reasonings, whole = ([t for _, t in asked if t.startswith(s)] for s in ("ca", "re", "<SUMMARY>"))
    assert (len(captions), len(reasonings), len(whole)) == (4 * rounds, 4 * rounds, 3)
    wanted = {"ca": QUESTION + requests["CAPTION"], "re": QUESTION + requests["REASONING"], "<S": QUESTION}
    assert all(question == wanted[text[:2]] for question, text in asked)


def test_the_second_best_of_the_whole_pool_decides(scripted: Any) -> None:
    """One good reasoning is not enough, two of different rounds are; tries of earlier rounds stay in the pool."""
    teller = Teller()
    scores = {"re3": 5.0, "re6": 1.0, "ca2": 3.0, "ca4": 2.0, "ca7": 1.0, "ca8": 0.9}
    made = retrace(scripted(teller)[0], lambda _, text: scores.get(text, -3.0) if text[0] != "<" else -float("re3" in text))
    assert teller.count == {"SUMMARY": 1, "CAPTION": 8, "REASONING": 8, "CONCLUSION": 3}
    # re3 follows the second best caption of the first round, re6 the best one of the second; of whole answers that with re3 is the worst
    assert (made.sections["SUMMARY"], made.sections["CAPTION"], made.sections["REASONING"]) == ("su1", "ca7", "re6")


# ---- on the model itself


def test_sections_continue_one_text() -> None:
    """Tiny random weights close no tag: four sections of five tokens are twenty tokens written at once."""
    model, words = lively(NAME), processor(NAME)
    rules = SectionSearch(**{**graph(NAME, "tiny").procedures["stage_beam"].arguments(), "candidates": 1, "max_new_tokens": 5})
    made = section_search(model, rules, words, "red?", [PICTURE, PICTURE], torch.Generator().manual_seed(3))
    content = [{"type": "image"}, {"type": "image"}, {"type": "text", "text": "red?"}]
    arrays = words(messages=[{"role": "user", "content": content}], images=[PICTURE, PICTURE])
    inputs = {name: torch.from_numpy(value) for name, value in arrays.items()}
    options = {"do_sample": True, "temperature": 0.6, "top_p": 0.9, "max_new_tokens": 20}
    whole = model.generate(**inputs, **options, generator=torch.Generator().manual_seed(3))[0, inputs["input_ids"].shape[1] :]
    assert not set(whole.tolist()) & {*words.stop}, "choose another seed: this one ends a turn"
    assert made.text == words.decode(whole.tolist()) and len(made.text) > 5


def test_the_procedure_is_chosen_by_name() -> None:
    model, words = lively(NAME), processor(NAME)
    with pytest.raises(DiagnosticError, match="there are: stage_beam, swires"):
        answer(model, words, "?", procedure="beam")
    with pytest.raises(DiagnosticError, match="chooses by rewards"):
        answer(model, words, "?", procedure="swires")
    with pytest.raises(DiagnosticError, match="there are: none"):
        answer(lively("llama-3.2-vision"), words, "?")


# ---- the spec


def test_the_model_is_the_one_that_it_starts_from() -> None:
    ours, base = graph(NAME), graph("llama-3.2-vision")
    assert ours.components == base.components and ours.tokens == base.tokens and ours.nodes == base.nodes
    assert list(ours.stages) == ["sft"] and ours.stages["sft"].objectives == {"lm": 1.0}


def test_counts() -> None:
    assert published(NAME)["total"] == 10_670_220_835 == published("llama-3.2-vision")["total"]


def test_training_reaches_everything() -> None:
    model = fresh(NAME)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "gate" in name or ".scales." in name:
                parameter.fill_(0.4)
    asked = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "why?"}]}
    made = processor(NAME)(messages=[asked, {"role": "assistant", "content": "<SUMMARY>so</SUMMARY>"}], images=[PICTURE], train=True)
    names = trains(model, "sft", {name: torch.from_numpy(value) for name, value in made.items()})
    assert names == {name for name, _ in model.named_parameters()}


def test_labels_are_what_the_assistant_says() -> None:
    """Its words and the end of its turn; not the header, the question or the image."""
    turns = [
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "why?"}]},
        {"role": "assistant", "content": "<SUMMARY>so"},
    ]
    made = processor(NAME)(messages=turns, images=[PICTURE], train=True)
    labels = made["labels"][0]
    assert labels[labels != -100].tolist() == [*b"<SUMMARY>so", END] and (made["input_ids"][0] == 310).sum() == 1
    model = fresh(NAME)
    inputs = {name: torch.from_numpy(value) for name, value in made.items()}
    with torch.no_grad():
        loss = model.programs["objective.lm"](**inputs)["loss"]
        log_p = model(**{k: v for k, v in inputs.items() if k != "labels"})["logits"][0, :-1].log_softmax(-1)
    places = (inputs["labels"][0, 1:] != -100).nonzero()[:, 0]
    assert torch.allclose(loss, -log_p[places, inputs["labels"][0, 1:][places]].mean(), atol=1e-5)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"stage_beam.answer": "ANSWER"}, "answer: there is no section 'ANSWER'"),
        ({"stage_beam.sections": ["A", "A"]}, "'A' is there twice"),
        ({"stage_beam.sections": ["<A>"]}, "cannot stand in a tag"),
        ({"stage_beam.hints": {"CAPTION": ["REASONING"]}}, "'REASONING' is not written before 'CAPTION'"),
        ({"stage_beam.judge": "{a} or not?"}, "judge: it must hold {b}"),
        ({"stage_beam.judge": "{a} {b} {c}"}, "judge: nothing fills {c}"),
        ({"stage_beam.program": "write"}, "which is not declared"),
        ({"swires.back": "CONCLUSION"}, "no section stands behind 'CONCLUSION'"),
        ({"swires.keep": {"CAPTION": 0}}, "at least one of a section"),
        ({"swires.deviation": 0.0}, "deviation: this is more than 0"),
    ],
)
def test_faults_of_the_declaration(change: dict[str, Any], said: str) -> None:
    found = vlmgraph.check(vlmgraph.read_spec(NAME, size="tiny", overrides={f"inference.{k}": v for k, v in change.items()}))
    assert any(said in " ".join((d.message, *d.notes)) for d in found), [d.message for d in found]
