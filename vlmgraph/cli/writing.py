"""How `run` writes an answer: the options of `generate` on the command line. What is left out is the folder's choice."""

from __future__ import annotations

import argparse
import math
from typing import Any

from .common import UsageError


def writing_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--max-new-tokens", type=count, metavar="N", default=32, help="default: %(default)s")
    add("--min-new-tokens", type=count, metavar="N", help="do not end before")
    add("--stop-string", metavar="TEXT", action="append", help="end the answer behind this text; repeat for more")
    add("--sample", action=argparse.BooleanOptionalAction, help="draw tokens instead of taking the most likely")
    add("--temperature", type=positive, metavar="T", help="of drawn tokens (default: 1, for pictures as the spec says)")
    add("--top-k", type=count, metavar="K", help="draw among so many tokens (default: all)")
    add("--top-p", type=share, metavar="P", help="draw among tokens that have this probability together")
    add("--min-p", type=share, metavar="P", help="draw among tokens at least so likely, beside the likeliest")
    add("--num-beams", type=above, metavar="N", help="search with so many beams; the answer is printed when it is found")
    add("--length-penalty", type=float, metavar="X", help="of beams: scores are divided by length ** X (default: 1)")
    add("--early-stopping", action="store_true", default=None, help="of beams: stop at the first N ended texts")
    add("--repetition-penalty", type=positive, metavar="X", help="weaken tokens that stand in the text already (default: 1, not at all)")
    add("--no-repeat-ngram-size", type=count, metavar="N", help="no run of N tokens twice")
    add("--static-cache", action="store_true", help="allocate keys and values once, for the longest answer")


def positive(text: str) -> float:
    value = float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not a number above 0")
    return value


def count(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text} is below 0")
    return value


def above(text: str) -> int:
    value = count(text)
    if value == 0:
        raise argparse.ArgumentTypeError("0 is not a number above 0")
    return value


def share(text: str) -> float:
    value = positive(text)
    if value > 1:
        raise argparse.ArgumentTypeError(f"{text} is above 1")
    return value


def drawing(args: argparse.Namespace) -> dict[str, Any]:
    """How tokens are drawn, of texts and of pictures."""
    return given({"temperature": args.temperature, "top_k": args.top_k, "top_p": args.top_p})


def writing(args: argparse.Namespace) -> dict[str, Any]:
    """The options of `generate` that were given, but for the length."""
    names = ("min_new_tokens", "min_p", "num_beams", "length_penalty", "early_stopping", "repetition_penalty", "no_repeat_ngram_size")
    return {
        **drawing(args),
        **given({name: getattr(args, name) for name in names}),
        **given({"do_sample": args.sample, "stop_strings": args.stop_string}),
        **({"cache_implementation": "static"} if args.static_cache else {}),
        "seed": args.seed,
    }


def refuse_searches(args: argparse.Namespace, what: str) -> None:
    """Raises UsageError for options that only a model in torch has: they would silently do nothing."""
    names = (
        "min_new_tokens", "stop_string", "min_p", "num_beams", "length_penalty", "early_stopping", "repetition_penalty",
        "no_repeat_ngram_size",
    )  # fmt: skip
    found = next((name for name in names if getattr(args, name) is not None), None)
    if found is not None or args.static_cache:
        option = f"--{(found or 'static_cache').replace('_', '-')}"
        raise UsageError(f"{what}, which writes without {option}: leave it out, or run the compiled folder")


def given(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}
