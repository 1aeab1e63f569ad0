"""Generation of every spec at `tiny`: caches change no token, padding and other rows neither."""

from __future__ import annotations

import pytest
import torch

from tests.generate.programs import answers, prompt, variants, writer
from tests.levels.models import SPECS
from vlmgraph.components.inference import SampleImage
from vlmgraph.diagnostics import DiagnosticError
from vlmgraph.diagnostics import codes as C
from vlmgraph.lower.generate.loop import writes

ABSOLUTE = {"blip"}
"""Before it is taught to caption, the first place of whatever comes in becomes its start token: of a padded row the padding."""


def check_text(name: str, given: dict[str, torch.Tensor], whole: bool) -> None:
    """The tokens of both rows by a growing cache are those of every other way."""
    wanted = answers(name, given)
    assert torch.equal(answers(name, given, use_cache=False), wanted)
    if whole:
        assert torch.equal(answers(name, given, cache_implementation="static"), wanted)
        beams = {"num_beams": 2, "num_return_sequences": 2}
        assert torch.equal(answers(name, given, **beams), answers(name, given, **beams, use_cache=False))


@pytest.mark.parametrize("name", SPECS)
def test_generated(name: str) -> None:
    check(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", SPECS)
def test_generated_by_variants(name: str) -> None:
    for one in variants(name)[1:]:
        check(one)


@pytest.mark.parametrize("name", [n if n in ("qwen2-vl", "idefics", "mantis") else pytest.param(n, marks=pytest.mark.slow) for n in SPECS])
def test_two_pictures_a_prompt(name: str) -> None:
    model, _ = writer(name)
    given = prompt(name, pictures=2) if "generate" in model.programs else None
    if given is None:
        pytest.skip("takes one picture a text, or writes none")
    check_text(name, given, whole=True)
    alone = prompt(name, batch=1, pictures=2)
    assert alone is not None and torch.equal(answers(name, alone), answers(name, given)[:1])


def check(name: str) -> None:
    model, _ = writer(name)
    if "generate" not in model.programs:
        if writes(model, model.main):
            pytest.skip("a masked language model: nothing says that it writes, nothing forbids it, and nothing is compared")
        with pytest.raises(DiagnosticError) as caught:
            model.generate(torch.ones(1, 3, dtype=torch.long))
        assert caught.value.diagnostics[0].code == C.NO_GENERATE
        return
    asked = {media: given for media in (True, False) if (given := prompt(name, media)) is not None}
    main = next(iter(asked))  # with pictures, where the model takes any
    for media, given in asked.items():
        check_text(name, given, whole=media == main)
    if name not in ABSOLUTE:
        alone = prompt(name, main, batch=1)
        assert alone is not None and torch.equal(answers(name, alone), answers(name, asked[main])[:1])
    for procedure in model.graph.procedures.values():
        if isinstance(procedure, SampleImage):
            check_image(name)


def check_image(name: str) -> None:
    """Codes with guidance: two streams share the cache."""
    model, _ = writer(name)
    given = prompt(name, media=False)
    assert given is not None
    options = {"generation_mode": "image", "do_sample": False, "guidance_scale": 3.0, "pad_token_id": 0}
    wanted = model.generate(**given, **options)
    assert wanted.unique().numel() > 1
    assert torch.equal(model.generate(**given, **options, cache_implementation="static"), wanted)
    assert torch.equal(model.generate(**given, **options, use_cache=False), wanted)
