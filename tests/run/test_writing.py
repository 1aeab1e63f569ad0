"""`run` writes with the options of `generate`: the same tokens as the same options by hand."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.run.test_specs import by_hand
from vlmgraph.cli.common import UsageError
from vlmgraph.cli.writing import refuse_searches, writing_arguments

PROMPT = "What is this?"


@pytest.mark.parametrize(
    ("options", "by_name"),
    [
        ("--num-beams 3 --length-penalty 2 --early-stopping", {"num_beams": 3, "length_penalty": 2.0, "early_stopping": True}),
        ("--repetition-penalty 1.8 --no-repeat-ngram-size 2", {"repetition_penalty": 1.8, "no_repeat_ngram_size": 2}),
        ("--sample --temperature 3 --top-k 9 --top-p .9 --min-p .01",
         {"do_sample": True, "temperature": 3.0, "top_k": 9, "top_p": 0.9, "min_p": 0.01, "seed": 0}),
        ("--static-cache --min-new-tokens 6 --no-sample", {"min_new_tokens": 6}),
    ],
)  # fmt: skip
def test_options_reach_the_model(options: str, by_name: dict[str, Any], run: Any, photos: list[Path]) -> None:
    said = run("qwen2-vl", "--size", "tiny", "--image", photos[0], "--prompt", PROMPT, "--max-new-tokens", 6, "--json", *options.split())
    (result,) = said.results
    model, processor = by_hand("qwen2-vl")
    inputs = {k: torch.from_numpy(v) for k, v in processor.ask(PROMPT, images=photos[0]).items()}
    ids = model.generate(**inputs, max_new_tokens=6, eos_token_id=processor.stop, **by_name)
    assert result["ids"] == ids[0, inputs["input_ids"].shape[1] :].tolist()
    assert result["answer"] == processor.decode(result["ids"])


def test_an_answer_ends_at_a_stop_string(run: Any, photos: list[Path]) -> None:
    arguments = ("llava-1.5", "--size", "tiny", "--image", photos[0], "--prompt", PROMPT, "--max-new-tokens", 8, "--json")
    whole = run(*arguments).results[0]
    string = next(c for c in whole["answer"] if c != whole["answer"][0])
    cut = run(*arguments, "--stop-string", string).results[0]
    assert cut["answer"] == whole["answer"][: whole["answer"].index(string) + 1] and len(cut["ids"]) < 8


def test_beams_are_printed_when_they_are_found(run: Any, photos: list[Path]) -> None:
    arguments = ("llava-1.5", "--size", "tiny", "--image", photos[0], "--prompt", PROMPT, "--max-new-tokens", 4, "--num-beams", 2)
    said, result = run(*arguments), run(*arguments, "--json").results[0]
    assert said.out == "".join(c if c.isprintable() or c in "\n\t" else ascii(c)[1:-1] for c in result["answer"]) + "\n"


def test_an_exported_folder_says_what_it_cannot() -> None:
    parser = argparse.ArgumentParser()
    writing_arguments(parser)
    for option in ("--num-beams=2", "--stop-string=x", "--early-stopping", "--static-cache", "--min-p=.1"):
        with pytest.raises(UsageError, match=option.partition("=")[0]):
            refuse_searches(parser.parse_args([option]), "onnx/ is an exported folder")
    refuse_searches(parser.parse_args(["--sample", "--top-k=3", "--temperature=2"]), "onnx/ is an exported folder")
