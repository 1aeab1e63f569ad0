"""Beam search, penalties and lengths: the texts that the reference finds, on its own random weights."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

import vlmgraph

pytest.importorskip("transformers", minversion="5.0", reason="the reference implementations are those of transformers 5")

from tests.parity.models import CASES
from tests.parity.test_parity import write

NAMES = ("blip_2_left_padding", "instructblip_left_padding", "llava_left_padding_two_images", "florence_2_wide_picture")
NEW = 8


@cache
def case(name: str) -> tuple[Any, Any, dict[str, torch.Tensor]]:
    import tempfile

    reference, inputs, _ = CASES[name]()
    inputs = {k: v for k, v in inputs.items() if not k.startswith("decoder_")}
    with torch.no_grad():
        for parameter in reference.parameters():
            parameter.mul_(2)  # scores further apart than at the start of training, so that beams find other texts than greedy steps
    with tempfile.TemporaryDirectory() as folder:
        write(reference, Path(folder))
        return reference, vlmgraph.load(folder), inputs


def written(name: str, **options: Any) -> tuple[list[list[int]], list[list[int]]]:
    """New tokens by the reference and by us. The padding is 1: instead of 0 the reference pads beams with the end token."""
    reference, model, inputs = case(name)
    options = {"max_new_tokens": NEW, "do_sample": False, "pad_token_id": 1, "eos_token_id": None, **options}
    with torch.no_grad():
        wanted = reference.generate(**inputs, **options)
    ours = model.generate(**inputs, **options)
    return wanted[:, before(name)[0] :].tolist(), ours[:, before(name)[1] :].tolist()


@cache
def before(name: str) -> tuple[int, int]:
    """Lengths of the prompts, as both count them."""
    reference, model, inputs = case(name)
    options = {"max_new_tokens": 2, "min_new_tokens": 2, "do_sample": False, "pad_token_id": 1, "eos_token_id": None}
    with torch.no_grad():
        return reference.generate(**inputs, **options).shape[1] - 2, model.generate(**inputs, **options).shape[1] - 2


@cache
def ends(name: str) -> list[int]:
    """Two tokens that the beams write early, one in each row where they can."""
    found = written(name, num_beams=3)[0]
    return [found[0][2], found[-1][3]]


SEARCHES: dict[str, dict[str, Any]] = {
    "beams": {"num_beams": 4},
    "all of them": {"num_beams": 3, "num_return_sequences": 3},
    "ends": {"num_beams": 3, "eos_token_id": "ends", "num_return_sequences": 2},
    "long": {"num_beams": 4, "eos_token_id": "ends", "length_penalty": 2.0, "num_return_sequences": 3},
    "short": {"num_beams": 4, "eos_token_id": "ends", "length_penalty": -1.0, "num_return_sequences": 2},
    "sums": {"num_beams": 3, "eos_token_id": "ends", "length_penalty": 0.0, "early_stopping": "never", "num_return_sequences": 3},
    "early": {"num_beams": 3, "eos_token_id": "ends", "early_stopping": True, "num_return_sequences": 3},
    "never": {"num_beams": 3, "eos_token_id": "ends", "early_stopping": "never", "num_return_sequences": 3},
    "least": {"num_beams": 3, "eos_token_id": "ends", "min_new_tokens": 5},
    "no repeats": {"num_beams": 3, "no_repeat_ngram_size": 2, "repetition_penalty": 1.3},
    "last": {"num_beams": 3, "eos_token_id": "ends", "forced_eos_token_id": 7},
    "no beams": {"repetition_penalty": 1.5, "no_repeat_ngram_size": 2, "bad_words_ids": [[5], [8, 60]], "suppress_tokens": [35, 88]},
}


@pytest.mark.parametrize("search", SEARCHES)
@pytest.mark.parametrize("name", NAMES)
def test_the_same_texts_are_found(name: str, search: str) -> None:
    options = SEARCHES[search]
    if options.get("eos_token_id") == "ends":
        options = {**options, "eos_token_id": ends(name)}
    wanted, ours = written(name, **options)
    assert ours == wanted


@pytest.mark.parametrize("name", NAMES)
def test_beams_find_other_texts_than_steps(name: str) -> None:
    """What the comparisons above rest on: searching changes the text, and ends are met."""
    assert written(name, num_beams=4)[1] != written(name)[1]
    found = written(name, num_beams=3, num_return_sequences=3, eos_token_id=ends(name))[1]
    assert any(set(row) & set(ends(name)) for row in found)
