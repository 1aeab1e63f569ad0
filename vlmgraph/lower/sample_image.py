"""An image drawn code by code, with classifier-free guidance (Janus, arXiv 2410.13848; guidance: arXiv 2207.12598)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..components.inference import SampleImage
from ..diagnostics import Diagnostic, DiagnosticError
from ..diagnostics import codes as C
from .generate import Draw, applied, check_padding, drawing_rules, new_caches, options_of

if TYPE_CHECKING:
    from .model import CompiledModel


@torch.no_grad()
def sample_image(
    model: CompiledModel,
    procedure: SampleImage,
    input_ids: Tensor,
    attention_mask: Tensor | None = None,
    *,
    guidance_scale: float | None = None,
    do_sample: bool | None = None,
    temperature: float | None = None,
    top_k: int = 0,
    top_p: float = 1.0,
    num_return_sequences: int = 1,
    pad_token_id: int | None = None,
    use_cache: bool = True,
    cache_implementation: str = "dynamic",
    seed: int | Sequence[int] | None = None,
    generator: torch.Generator | None = None,
    streamer: Callable[[Tensor], None] | None = None,
    **others: Any,
) -> Tensor:
    """Codes [B * num_return_sequences, count] in raster order after the prompts input_ids [B, T], padded on the left.

    Options left out are the procedure's; `streamer` is called with each step's codes [B]; `seed` is as `generate` has it. Raises
    DiagnosticError for empty prompts and ones padded on the right, for guidance without a `pad` token, for inputs other than words, and
    for options that cannot hold.
    """
    given = model.prepare({"input_ids": input_ids, "attention_mask": attention_mask, **others}, procedure.program)
    check_words(given, num_return_sequences)
    given = {name: value.repeat_interleave(num_return_sequences, 0) for name, value in given.items()}
    guidance = procedure.guidance if guidance_scale is None else guidance_scale
    drawn = procedure.sample if do_sample is None else do_sample
    heat = procedure.temperature if temperature is None else temperature
    chosen = {"temperature": heat, "top_k": top_k, "top_p": top_p, "seed": seed, "cache_implementation": cache_implementation}
    options, count = options_of(chosen, {}), code_count(model, procedure)
    batch, streams = len(given["input_ids"]), 1 if guidance == 1 else 2
    draw, rules = Draw(drawn, batch, options.seed, generator), drawing_rules(heat, top_k, top_p)
    if streams == 2:
        pad = procedure.pad if pad_token_id is None else pad_token_id
        bare = without_words(given["input_ids"], given.get("attention_mask"), pad, model.graph.name)
        given = {name: torch.cat([value, bare if name == "input_ids" else value]) for name, value in given.items()}
    room = count - 1 if options.cache_implementation == "static" else None
    program, caches = model.programs[procedure.program], new_caches(model, procedure.program, room) if use_cache else {}
    prompt, codes = given["input_ids"], given["input_ids"].new_empty(batch, 0)
    for _ in range(count):
        out = program.run(given, caches)
        scores = next(iter(out.values()))[:, -1].float()
        if streams == 2:
            conditional, unconditional = scores[:batch], scores[batch:]
            scores = unconditional + guidance * (conditional - unconditional)
        code = draw(applied(rules, codes, scores) if drawn else scores)
        codes = torch.cat([codes, code[:, None]], dim=1)
        if streamer:
            streamer(code)
        if codes.shape[1] == count:
            break
        new = codes[:, -1:] if caches else codes
        holders = prompt.new_full((len(prompt), new.shape[1]), int(procedure.placeholder))
        given["input_ids"] = holders if caches else torch.cat([prompt, holders], dim=1)
        given[procedure.codes] = new.repeat(streams, 1)  # both streams go on with the code that was drawn
        if "attention_mask" in given:
            mask = given["attention_mask"]
            given["attention_mask"] = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
    return codes


def check_words(given: dict[str, Any], copies: int) -> None:
    others = [name for name in given if name not in ("input_ids", "attention_mask")]
    if others:
        text = f"images are drawn from words alone, not from {', '.join(others)}"
        raise DiagnosticError(Diagnostic(C.UNKNOWN_INPUT, text, fix=f"leave {others[0]} out"))
    if not given["input_ids"].numel() or copies < 1:
        text = f"there is nothing to draw: input_ids of shape {tuple(given['input_ids'].shape)}, {copies} images each"
        raise DiagnosticError(Diagnostic(C.BAD_INPUT_VALUE, text))
    check_padding(given.get("attention_mask"))


def without_words(ids: Tensor, mask: Tensor | None, pad: int | str | None, model: str) -> Tensor:
    """Prompts [B, T] of which the first real token and the last are left, `pad` between them: they stay as long as they were."""
    if pad is None:
        fix = "give `pad` in [inference], pad_token_id=, or guidance_scale=1"
        raise DiagnosticError(Diagnostic(C.NO_GENERATE, f"{model} has no token to pad the unconditional prompt with", fix=fix))
    real = torch.ones_like(ids) if mask is None else mask.to(ids.dtype)
    kept = real.cumsum(1) * real == 1
    kept[:, -1] = True
    return torch.where(kept, ids, int(pad))


def code_count(model: CompiledModel, procedure: SampleImage) -> int:
    """Codes of one image, as the graph's types have it."""
    count = model.graph.types()[model.graph.resolve(procedure.codes)].dims[-1].constant
    if count is None:
        raise DiagnosticError(Diagnostic(C.NO_GENERATE, f"{model.graph.name}: the number of {procedure.codes} is not fixed"))
    return count


def draw(model: CompiledModel, *inputs: Any, **options: Any) -> tuple[SampleImage, Tensor]:
    """The codes of an image by the model's procedure. Raises DiagnosticError where the spec declares none."""
    procedure = next((p for p in model.graph.procedures.values() if isinstance(p, SampleImage)), None)
    if procedure is None:
        fix = 'declare [inference.generate_image] with type = "inference.sample_image"'
        raise DiagnosticError(Diagnostic(C.NO_GENERATE, f"{model.graph.name} has no procedure that draws images", fix=fix))
    return procedure, sample_image(model, procedure, *inputs, **options)


@torch.no_grad()
def pixels(model: CompiledModel, procedure: SampleImage, codes: Tensor) -> Tensor:
    """Codes [B, count] → float32 pixels [B, 3, H, W] by the procedure's last program."""
    if procedure.then is None:
        raise DiagnosticError(Diagnostic(C.NO_GENERATE, f"{model.graph.name}: the procedure names no program that turns codes into pixels"))
    return next(iter(model.programs[procedure.then](**{procedure.codes: codes}).values())).float()
