"""Options: their ranges, what contradicts, what a folder's generation_config.json says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import vlmgraph
from tests.generate.programs import prompt, writer
from vlmgraph.diagnostics import Diagnostic, DiagnosticError
from vlmgraph.diagnostics import codes as C
from vlmgraph.lower.generate import folder_options, options_of

NAME = "fuyu-8b"


def refused(**options) -> Diagnostic:
    with pytest.raises(DiagnosticError) as caught:
        writer(NAME)[0].generate(**prompt(NAME), **options)
    return caught.value.diagnostics[0]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"temperature": -1.0}, "temperature = -1.0"),
        ({"top_p": 1.5}, "top_p = 1.5"),
        ({"num_beams": 0}, "num_beams = 0"),
        ({"max_new_tokens": "many"}, "max_new_tokens"),
        ({"repetition_penalty": 0.0}, "repetition_penalty"),
        ({"early_stopping": "soon"}, "early_stopping"),
        ({"cache_implementation": "quantized"}, "cache_implementation"),
        ({"num_beams": 3, "num_return_sequences": 4}, "4 of 3 beams"),
        ({"num_return_sequences": 2}, "do_sample"),
        ({"min_new_tokens": 9, "max_new_tokens": 3}, "min_new_tokens is 9"),
        ({"max_length": 2}, "max_length is 2"),
        ({"stop_strings": ""}, "empty stop string"),
        ({"bad_words_ids": [[]]}, "bad_words_ids"),
        ({"stop_strings": "x"}, "nothing is given that knows the text"),
        ({"num_beams": 2, "streamer": print}, "cannot be streamed"),
        ({"do_sample": True, "seed": 1, "generator": torch.Generator()}, "both seed and generator"),
        ({"do_sample": True, "seed": [1]}, "1 seeds for 2 rows"),
        ({"num_beam": 3}, "no option 'num_beam'"),
        ({"penalty_alpha": 0.6}, "no option 'penalty_alpha'"),
    ],
)
def test_what_cannot_hold_is_a_finding(options, said):
    found = refused(**options)
    assert found.code == C.BAD_OPTION and said in found.message


def test_inputs_stay_inputs():
    assert refused(pixel_valuess=torch.ones(1)).code == C.UNKNOWN_INPUT
    assert "num_beams" in (refused(num_beam=3).fix or "")
    with pytest.raises(DiagnosticError) as caught:
        writer(NAME)[0].generate(torch.ones(1, 0, dtype=torch.long))
    assert caught.value.diagnostics[0].code == C.BAD_INPUT_VALUE
    with pytest.raises(DiagnosticError) as caught:
        writer(NAME)[0].generate()
    assert caught.value.diagnostics[0].code == C.MISSING_INPUT


def test_nothing_is_written_where_there_is_no_room():
    model, given = writer(NAME)[0], prompt(NAME)
    for options in ({}, {"num_beams": 2}, {"num_beams": 2, "num_return_sequences": 2}):
        made = model.generate(**given, max_new_tokens=0, **options)
        assert torch.equal(made, given["input_ids"].repeat_interleave(options.get("num_return_sequences", 1), 0))


def test_a_call_wins_over_its_folder():
    folder = {"temperature": 0.5, "eos_token_id": [2, 3], "max_length": 40, "num_beams": 4, "pad_token_id": 9}
    made = options_of({"num_beams": None, "temperature": 2.0}, folder)
    assert (made.temperature, made.eos_token_id, made.num_beams, made.pad_token_id) == (2.0, (2, 3), 1, 9)
    assert options_of({"eos_token_id": None}, folder).eos_token_id == ()
    assert options_of({}, folder).sized(30, {}).max_new_tokens == 10
    assert options_of({}, folder).sized(50, {}).max_new_tokens == 20  # a folder's length that a prompt has used up says nothing
    assert options_of({"max_new_tokens": 5}, folder).sized(30, {"max_new_tokens": 5}).max_new_tokens == 5
    assert options_of({"min_length": 33}, folder).sized(30, {}).min_new_tokens == 3


def test_a_loaded_folder_brings_its_defaults(tmp_path: Path):
    model = writer(NAME)[0]
    model.save(tmp_path)
    given = prompt(NAME)
    plain = model.generate(**given, max_new_tokens=8)
    new = plain[0, -8:].tolist()
    end = new[2]
    (tmp_path / "generation_config.json").write_text(
        json.dumps({"eos_token_id": end, "pad_token_id": 1, "max_new_tokens": 5, "transformers_version": "5", "top_k": None})
    )
    loaded = vlmgraph.load(tmp_path)
    assert torch.equal(loaded.generate(**given, eos_token_id=None), plain[:, :-3])
    written = loaded.generate(**given)[0, given["input_ids"].shape[1] :].tolist()
    first = new.index(end) + 1
    assert written[:first] == new[:first] and set(written[first:]) <= {1} and len(written) <= 5
    (tmp_path / "generation_config.json").write_text('{"temperature": "warm"}')
    with pytest.raises(DiagnosticError) as caught:
        vlmgraph.load(tmp_path)
    (found,) = caught.value.diagnostics
    assert found.code == C.BAD_OPTION and "generation_config.json" in found.message
    (tmp_path / "generation_config.json").write_text(
        '{"cache_implementation": "hybrid", "pad_token_id": -1, "forced_eos_token_id": [2, 3]}'
    )
    assert folder_options(tmp_path) == {"forced_eos_token_id": [2, 3]}
    (tmp_path / "generation_config.json").write_text("{")
    with pytest.raises(DiagnosticError) as caught:
        folder_options(tmp_path)
    assert caught.value.diagnostics[0].code == C.BAD_CONFIG
