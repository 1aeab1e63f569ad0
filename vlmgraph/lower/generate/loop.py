"""Autoregressive decoding over a model's programs: prefill with every input, then steps on the new token."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...diagnostics import Diagnostic, DiagnosticError
from ...diagnostics import codes as C
from .beams import beam_search
from .decoder import Decoder
from .draw import Draw
from .grow import PADDING, check_padding, written_input
from .options import Options, options_of, split
from .scores import Rule, applied, drawing_rules, text_rules
from .stop import Criterion, StopStrings, StopTokens, ended

if TYPE_CHECKING:
    from ..model import CompiledModel


@dataclass
class Task:
    """One call of `generate`, ready to run."""

    decoder: Decoder
    options: Options
    rules: list[Rule]
    custom: list[Callable[[Tensor, Tensor], Tensor]]
    warp: list[Rule]
    criteria: list[Criterion]
    draw: Draw


@torch.no_grad()
def generate(
    model: CompiledModel,
    input_ids: Tensor | None = None,
    *,
    streamer: Any = None,
    stopping_criteria: Sequence[Criterion] | None = None,
    logits_processor: Sequence[Callable[[Tensor, Tensor], Tensor]] | None = None,
    generator: torch.Generator | None = None,
    processor: Any = None,
    tokenizer: Any = None,
    program: str | None = None,
    **given: Any,
) -> Tensor:
    """Sample, take the most likely token or search with beams until a row ends or `max_new_tokens`.

    input_ids [B, T]; returns [B * num_return_sequences, T + new] (an encoder-decoder model returns its decoder's ids [.., 1 + new]).
    The other arguments are the options (`vlmgraph.lower.generate.options.Options`), whose defaults a loaded folder's
    generation_config.json changes, and the model's inputs. `program` writes where it is not `generate`.

    `streamer` is called with each step's tokens [B] and, where it has an `end`, told when that was all; one with `put`, as transformers has
    them, gets the prompt first. A criterion is called with all ids so far (and None for the scores): it says which rows end. A logits
    processor is called with the ids and the scores [B, V]. `processor` (or a `tokenizer`) decodes for stop_strings. Tokens are drawn by
    `seed`, for each row with numbers of its own, or with a `generator` over all rows.

    Raises DiagnosticError when no program generates, for options and inputs that cannot hold, and for a prompt that is padded on the
    right: its next token would be read off the padding.
    """
    task = prepared(model, input_ids, stopping_criteria, logits_processor, generator, processor or tokenizer, program, given)
    if task.options.num_beams > 1:
        if streamer is not None:
            text = "a text that is searched with beams is known at its end only: it cannot be streamed"
            raise DiagnosticError(Diagnostic(C.BAD_OPTION, text, fix="leave streamer out, or num_beams"))
        rules = [*task.rules, *task.custom]
        return beam_search(task.decoder, task.options, rules, task.warp, task.criteria, task.draw)[0]
    put = getattr(streamer, "put", None)
    if put is not None:
        put(task.decoder.ids.cpu())
    for tokens in steps(task):
        if put is not None:
            put(tokens.cpu())
        elif streamer is not None:
            streamer(tokens)
    if hasattr(streamer, "end"):
        streamer.end()
    return task.decoder.ids


@torch.no_grad()
def steps(task: Task) -> Iterator[Tensor]:
    """The tokens [R] of each step, until all rows have ended; those of rows that have are padding. The decoder holds the text."""
    decoder, options = task.decoder, task.options
    if options.max_new_tokens < 1:
        return
    scores = decoder.start().repeat_interleave(options.num_return_sequences, 0)
    if options.num_return_sequences > 1:
        decoder.expand(options.num_return_sequences)
    done: Tensor | None = None
    for left in reversed(range(options.max_new_tokens)):
        if task.rules:
            scores = applied(task.rules, decoder.real(), scores)
        tokens = task.draw(applied([*task.custom, *task.warp], decoder.ids, scores))
        if done is not None:
            tokens = torch.where(done, options.pad_token_id, tokens)
        decoder.append(tokens)
        yield tokens
        if task.criteria:
            now = ended(task.criteria, decoder.ids)
            done = now if done is None else done | now
        if not left or (done is not None and bool(done.all())):
            return
        scores = decoder.next()


def prepared(
    model: CompiledModel,
    input_ids: Tensor | None,
    stopping_criteria: Sequence[Criterion] | None,
    logits_processor: Sequence[Callable[[Tensor, Tensor], Tensor]] | None,
    generator: torch.Generator | None,
    decoding: Any,
    program: str | None,
    given: dict[str, Any],
) -> Task:
    """Options held against each other, inputs against their types."""
    name = program or ("generate" if "generate" in model.programs else model.main)
    if name not in model.programs or not writes(model, name):
        raise DiagnosticError(Diagnostic(C.NO_GENERATE, f"{model.graph.name} has no program that gives logits to generate from"))
    chosen, others = split(given, list(model.accepted(name)))
    options = options_of(chosen, model.generation)
    inputs = model.prepare({"input_ids": input_ids, **others}, name)
    written = written_input(model)
    if written not in inputs:
        inputs[written] = started(model, inputs)
    elif not inputs[written].numel():
        text = f"there is nothing to go on from: {written} has shape {tuple(inputs[written].shape)}"
        raise DiagnosticError(Diagnostic(C.BAD_INPUT_VALUE, text, fix="give at least the token that begins a text"))
    check_padding(inputs.get(PADDING[written]))
    prompt = inputs[written].shape[1]
    options = options.sized(prompt, chosen)
    room = max(options.max_new_tokens - 1, 0) if options.cache_implementation == "static" else None
    decoder = Decoder(model, name, inputs, written, options.use_cache, room)
    least = 1 if options.num_beams == 1 else 1 + max(1, len(options.eos_token_id))  # beams have to have something to go on with
    warp = drawing_rules(options.temperature, options.top_k, options.top_p, options.min_p, least) if options.do_sample else []
    rows = len(inputs[written]) * options.num_return_sequences
    draw = Draw(options.do_sample, rows, options.seed, generator)
    criteria: list[Criterion] = [StopTokens(options.eos_token_id)] if options.eos_token_id else []
    if options.stop_strings:
        criteria.append(StopStrings(options.stop_strings, decode_of(decoding), prompt))
    criteria += stopping_criteria or ()
    return Task(decoder, options, text_rules(options, prompt), list(logits_processor or ()), warp, criteria, draw)


def writes(model: CompiledModel, name: str) -> bool:
    """Whether a program scores the next token of each place of a text: logits[B, T, V]."""
    value = model.programs[name].graph().outputs.get("logits")
    types = model.graph.types()
    return value is not None and len(types[value if value in types else model.graph.resolve(value)].dims) == 3


def started(model: CompiledModel, inputs: dict[str, Any]) -> Tensor:
    """The token that a decoder's text begins with, for each row [B, 1]."""
    if not inputs:
        raise DiagnosticError(Diagnostic(C.MISSING_INPUT, f"{model.graph.name} is given nothing to write about", fix="give input_ids"))
    batch = len(next(v for v in inputs.values() if isinstance(v, Tensor)))
    return torch.full((batch, 1), int(model.graph.tokens.get("<decoder_start>", 0)), dtype=torch.long, device=model.device)


def decode_of(decoding: Any) -> Callable[[Sequence[int]], str]:
    if not hasattr(decoding, "decode"):
        text = "stop_strings are texts, and nothing is given that knows the text of an id"
        raise DiagnosticError(Diagnostic(C.BAD_OPTION, text, fix="give processor=, the model's processor, beside them"))
    return lambda ids: str(decoding.decode(ids))
