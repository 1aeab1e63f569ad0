"""Answer a prompt about pictures with a compiled folder, a published checkpoint folder or a spec (fresh weights).

A model that writes text prints its answer, one that scores texts against pictures prints a probability for each --prompt,
one that draws writes pictures to -o.

examples:
  vlmgraph run build/cogvlm --image photo.jpg --prompt "What is this?"
  vlmgraph run build/clip --image photo.jpg --prompt "a cat" --prompt "a dog"
  vlmgraph run build/qwen2-vl --image a.jpg --image b.jpg --prompt "What changed?" --max-new-tokens 64
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .common import UsageError, emit, overlay_arguments, progress, read

if TYPE_CHECKING:
    from ..lower.model import CompiledModel
    from ..processor import Processor


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="a compiled folder, a checkpoint folder, or a spec by name or path")
    overlay_arguments(parser)
    parser.add_argument("--image", metavar="FILE", action="append", default=[], help="a picture; repeat for more")
    parser.add_argument("--prompt", metavar="TEXT", action="append", default=[], help="what to ask; repeat to score several texts")
    parser.add_argument("--max-new-tokens", type=int, default=32, help="default: %(default)s")
    parser.add_argument("--sample", action="store_true", help="draw tokens instead of taking the most likely")
    parser.add_argument("--temperature", type=float, default=1.0, help="with --sample (default: %(default)s)")
    parser.add_argument("--top-p", type=float, default=1.0, help="with --sample (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of --sample and of fresh weights (default: %(default)s)")
    parser.add_argument("--device", default="cpu", help="default: %(default)s")
    parser.add_argument("--dtype", choices=("float32", "float16", "bfloat16"), default="float32", help="default: %(default)s")


def run(args: argparse.Namespace) -> int:
    if not args.prompt:
        raise UsageError("give a --prompt")
    with progress("loading"):
        model, folder = opened(args)
        from ..processor.model import model_processor

        processor = model_processor(model.spec, model.graph, folder)
    emit(processor.notes)
    images = args.image or None
    if "logits" in model.programs[model.main].graph().outputs:
        if len(args.prompt) > 1:
            raise UsageError("this model answers one --prompt at a time")
        inputs = processor.ask(args.prompt[0], images=images)
        print(answer(model, processor, inputs, args))
    else:
        scores(model, processor(text=args.prompt, images=images), args.prompt)
    return 0


def opened(args: argparse.Namespace) -> tuple[CompiledModel, Path | None]:
    from .. import api

    path = Path(args.model)
    if path.is_dir():
        if args.size or args.variant or args.overrides:
            raise UsageError(f"{path} is a folder of a built model: --size, --variant and --set are for specs")
        return api.load(path, device=args.device, dtype=args.dtype), path
    return api.compile(read(args, args.model), device=args.device, dtype=args.dtype, seed=args.seed), None


def tensors(model: CompiledModel, arrays: dict[str, Any]) -> dict[str, Any]:
    import torch

    return {name: torch.from_numpy(value).to(model.device) for name, value in arrays.items()}


def answer(model: CompiledModel, processor: Processor, inputs: dict[str, Any], args: argparse.Namespace) -> str:
    import torch

    generator = torch.Generator(device=model.device).manual_seed(args.seed)
    given = tensors(model, inputs)
    ids = model.generate(
        **given, max_new_tokens=args.max_new_tokens, do_sample=args.sample, temperature=args.temperature, top_p=args.top_p,
        generator=generator if args.sample else None, eos_token_id=model.graph.tokens.get("</s>"),
    )  # fmt: skip
    prompt = 0 if "decoder_input_ids" in model.graph.inputs else given["input_ids"].shape[1]
    return processor.decode(ids[0, prompt:].tolist())


def scores(model: CompiledModel, inputs: dict[str, Any], prompts: list[str]) -> None:
    import torch

    with torch.no_grad():
        out = model(**tensors(model, inputs))
    table = out.get("logits_per_image")
    if table is None:
        print("this model gives " + ", ".join(f"{name} {list(value.shape)}" for name, value in out.items()), file=sys.stderr)
        return
    for row in table.softmax(-1):
        for share, text in sorted(zip(row.tolist(), prompts), reverse=True):
            print(f"{share:7.2%}  {text}")
