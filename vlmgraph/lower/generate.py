"""Autoregressive decoding over a model's programs: prefill with every input, then steps on the new token."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..diagnostics import Diagnostic, DiagnosticError
from ..diagnostics import codes as C

if TYPE_CHECKING:
    from .model import CompiledModel

IMAGE_KINDS = ("image", "video", "patches", "grid")


@torch.no_grad()
def generate(
    model: CompiledModel,
    input_ids: Tensor | None = None,
    *,
    max_new_tokens: int = 20,
    do_sample: bool = False,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    eos_token_id: int | Sequence[int] | None = None,
    pad_token_id: int = 0,
    use_cache: bool = True,
    generator: torch.Generator | None = None,
    streamer: Callable[[Tensor], None] | None = None,
    stopping_criteria: Sequence[Callable[[Tensor, Tensor | None], Tensor | bool]] = (),
    program: str | None = None,
    **inputs: Any,
) -> Tensor:
    """Sample or take the most likely token until `eos_token_id` or `max_new_tokens`.

    input_ids [B, T]; returns [B, T + new] (an encoder-decoder model returns its decoder's ids [B, 1 + new]).
    `streamer` is called with each step's tokens [B], a criterion with all ids so far (and None for the scores): it says which rows end.
    `program` writes where it is not `generate`. Raises DiagnosticError when no program generates, and for a prompt that is padded on the
    right: its next token would be read off the padding.
    """
    name = program or ("generate" if "generate" in model.programs else model.main)
    writes = model.programs[name]
    if "logits" not in writes.graph().outputs:
        raise DiagnosticError(Diagnostic(C.NO_GENERATE, f"{model.graph.name} has no program that gives logits to generate from"))
    inputs = model.prepare({"input_ids": input_ids, **inputs}, name)
    written = "decoder_input_ids" if "decoder_input_ids" in model.graph.inputs else "input_ids"
    if written not in inputs:
        start = int(model.graph.tokens.get("<decoder_start>", 0))
        batch = len(next(v for v in inputs.values() if isinstance(v, Tensor)))
        inputs[written] = torch.full((batch, 1), start, dtype=torch.long, device=model.device)
    elif written == "input_ids":
        check_padding(inputs.get("attention_mask"))
    ids = inputs[written]
    stop = {eos_token_id} if isinstance(eos_token_id, int) else set(eos_token_id or ())
    caches = new_caches(model, name) if use_cache else {}
    step_inputs = dict(inputs)
    out = writes.run(step_inputs, caches)
    done = torch.zeros(len(ids), dtype=torch.bool, device=ids.device)
    for _ in range(max_new_tokens):
        token = choose(out["logits"][:, -1].float(), do_sample, temperature, top_k, top_p, generator)
        token = torch.where(done, torch.full_like(token, pad_token_id), token)
        ids = torch.cat([ids, token[:, None]], dim=1)
        if streamer:
            streamer(token)
        for id in stop:
            done |= token == id
        for ends in stopping_criteria:
            done |= torch.as_tensor(ends(ids, None), device=ids.device)
        if bool(done.all()):
            break
        if len(ids[0]) >= len(inputs[written][0]) + max_new_tokens:
            break
        if "attention_mask" in step_inputs and written == "input_ids":
            mask = step_inputs["attention_mask"]
            step_inputs["attention_mask"] = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
        if caches:
            step_inputs = decode_inputs(model, step_inputs, token[:, None], out, written)
            out = writes.run(step_inputs, caches, step=True)
        else:
            step_inputs |= {written: ids, **{k: with_last(step_inputs[k]) for k in seen_by_token(model, step_inputs, written)}}
            step_inputs |= {k: with_no_type(step_inputs[k]) for k in types_of_tokens(model, step_inputs, written)}
            step_inputs |= {k: with_no_mark(step_inputs[k]) for k in marks_of_tokens(model, step_inputs, written)}
            out = writes.run(step_inputs)
    return ids


def continued(model: CompiledModel, inputs: Mapping[str, Any], new: Tensor) -> dict[str, Any]:
    """The inputs of a prompt with ids [B, n] behind it that were written before: as they were grown while it was."""
    count, grown = new.shape[1], dict(inputs)

    def add(name: str, row: Tensor) -> None:
        grown[name] = torch.cat([inputs[name], row.repeat_interleave(count, 1)], dim=1)

    for name in seen_by_token(model, grown, "input_ids"):
        add(name, inputs[name][:, -1:])
    for name in types_of_tokens(model, grown, "input_ids"):
        add(name, torch.full_like(inputs[name][:, :1], -1))
    for name in marks_of_tokens(model, grown, "input_ids"):
        add(name, torch.zeros_like(inputs[name][:, :1]))
    if "attention_mask" in grown:
        add("attention_mask", torch.ones_like(inputs["attention_mask"][:, :1]))
    grown["input_ids"] = torch.cat([inputs["input_ids"], new], dim=1)
    return grown


def check_padding(mask: Tensor | None) -> None:
    if mask is not None and not bool(mask[:, -1].all()):
        row = int((mask[:, -1] == 0).nonzero()[0])
        fix = 'pad on the left: `padding_side = "left"`'
        raise DiagnosticError(Diagnostic(C.BAD_INPUT_VALUE, f"row {row} of the prompt is padded on the right", fix=fix))


def new_caches(model: CompiledModel, name: str) -> dict[str, Any]:
    """A fresh cache for every component the program caches."""
    declared = model.graph.programs[name].cache
    if not declared:
        return {}
    from ..nn.cache import KVCache

    return {component: KVCache() for component in declared}


def decode_inputs(model: CompiledModel, last: dict[str, Any], token: Tensor, out: dict[str, Any], written: str) -> dict[str, Any]:
    """Inputs of the next step: the new token, the mask, what is carried; no images any more."""
    kept = {k: v for k, v in last.items() if k in model.graph.inputs and model.graph.inputs[k].kind not in IMAGE_KINDS}
    kept = {k: v for k, v in kept.items() if k in (written, "attention_mask")}
    kept |= {k: last[k][:, -1:] for k in seen_by_token(model, last, written)}
    carried = {k: v for k, v in last.items() if k not in model.graph.inputs}
    carried |= {k.partition(".")[2]: v for k, v in out.items() if k.startswith("carry.")}
    return {**kept, **carried, written: token}


def seen_by_token(model: CompiledModel, inputs: dict[str, Any], written: str) -> list[str]:
    """Inputs that say for every token what it may attend to beside the text: mask[B, T, ...]. A new token may attend to what the
    last one may."""
    types = model.graph.inputs
    masks = [k for k in inputs if k in types and types[k].kind == "mask" and len(types[k].dims) > 2]
    return [k for k in masks if types[k].dims[1] == types[written].dims[1]]


def types_of_tokens(model: CompiledModel, inputs: dict[str, Any], written: str) -> list[str]:
    """Inputs that say of every token what it is, index[B, T]: a part of a prefix, of an image."""
    types = model.graph.inputs
    return [k for k in inputs if k in types and types[k].kind == "index" and types[k].dims == types[written].dims]


def with_no_type(types: Tensor) -> Tensor:
    """The types [B, T + 1] with a token that was not given, -1."""
    return torch.cat([types, types.new_full((len(types), 1), -1)], dim=1)


def marks_of_tokens(model: CompiledModel, inputs: dict[str, Any], written: str) -> list[str]:
    """Masks beside the attention mask that mark some of the tokens, mask[B, T]: the places of images."""
    types = model.graph.inputs
    masks = [k for k in inputs if k in types and types[k].kind == "mask" and k not in ("attention_mask", "decoder_attention_mask")]
    return [k for k in masks if types[k].dims == types[written].dims]


def with_no_mark(marks: Tensor) -> Tensor:
    """The marks [B, T + 1] with a token that has none."""
    return torch.cat([marks, torch.zeros_like(marks[:, :1])], dim=1)


def with_last(mask: Tensor) -> Tensor:
    return torch.cat([mask, mask[:, -1:]], dim=1)


def choose(logits: Tensor, sample: bool, temperature: float, top_k: int, top_p: float, generator: torch.Generator | None) -> Tensor:
    """One token a row from logits [B, V]: the most likely, or drawn after temperature, top-k and nucleus filtering."""
    if not sample:
        return logits.argmax(-1)
    logits = logits / max(temperature, 1e-6)
    if top_k:
        kept = logits.topk(min(top_k, logits.shape[-1])).values[:, -1:]
        logits = logits.masked_fill(logits < kept, float("-inf"))
    if top_p < 1.0:
        ordered, index = logits.sort(descending=True)
        before = ordered.softmax(-1).cumsum(-1) - ordered.softmax(-1)
        logits = logits.masked_fill((before >= top_p).scatter(1, index, before >= top_p), float("-inf"))
    return torch.multinomial(logits.softmax(-1), 1, generator=generator)[:, 0]
