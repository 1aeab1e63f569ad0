"""Answer a prompt about pictures with a compiled folder, a published checkpoint folder or a spec.

A model that writes text prints its answer while it is written, one that compares prints how well each --prompt fits each picture, and one
that draws writes a PNG to -o. <image> and <video> in a prompt say where the pictures stand; without them they come first. A spec has no
weights: a small one is run with random weights, a large one only with --random-weights.

examples:
  vlmgraph run build/cogvlm --image photo.jpg --prompt "What is this?"
  vlmgraph run clip --size tiny --image photo.jpg --prompt "a cat" --prompt "a dog"
  vlmgraph run build/qwen2-vl --image a.jpg --image b.jpg --prompt "What changed?" --max-new-tokens 64
  vlmgraph run build/qwen2-vl --video 1.jpg 2.jpg 3.jpg 4.jpg --prompt "What happens?" --json
  vlmgraph run build/janus --prompt "a red box" -o box.png
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..diagnostics import Diagnostic, DiagnosticError
from .common import UsageError, overlay_arguments, progress, read, unwritable
from .writing import above, drawing, positive, writing, writing_arguments

if TYPE_CHECKING:
    from ..ir.graph import Graph
    from ..lower.model import CompiledModel
    from ..processor import Processor

SMALL = 20_000_000
"""Parameters up to which a spec is run with random weights without being asked to."""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="a compiled, checkpoint or exported folder, or a spec by name or path")
    overlay_arguments(parser)
    parser.add_argument("--image", metavar="FILE", action="append", default=[], help="a picture; repeat for more")
    parser.add_argument("--video", metavar="FILE", action="append", nargs="+", default=[], help="an animation, or the frames of a video")
    parser.add_argument("--fps", type=positive, metavar="RATE", help="frames a second of --video, to be sampled (default: use all)")
    parser.add_argument("--prompt", metavar="TEXT", action="append", default=[], help="what to ask; repeat for more")
    writing_arguments(parser)
    parser.add_argument("--seed", type=int, default=0, help="of drawn tokens and of random weights (default: %(default)s)")
    parser.add_argument("--random-weights", action="store_true", help="run a spec without weights, whatever its size")
    parser.add_argument("-o", "--output", metavar="PNG", help="draw a picture of the prompt into this file")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: %(default)s)")
    parser.add_argument("--threads", type=above, metavar="N", help="of the processor (default: one on each core)")
    parser.add_argument("--dtype", choices=("float32", "float16", "bfloat16"), help="default: the folder's own, float32 for a spec")
    parser.add_argument(
        "--quantize", metavar="[ROLE=]TYPE", action="append", default=[],
        help="int8 or int4 for the weights of the language model, or of a role; repeat for more",
    )  # fmt: skip
    parser.add_argument("--json", action="store_const", const="json", dest="format", help="print the result, or what is wrong, as JSON")


def run(args: argparse.Namespace) -> int:
    if not args.prompt:
        raise UsageError("give a --prompt")
    if any(not prompt.strip() for prompt in args.prompt):
        from ..diagnostics import codes as C

        raise DiagnosticError(Diagnostic(C.BAD_TEMPLATE, "a --prompt is empty", fix='ask something: --prompt "What is this?"'))
    for name in [*args.image, *(frame for video in args.video for frame in video)]:
        from ..processor.pictures import open_picture

        open_picture(name)  # what cannot be read is said before a model is loaded
    from ..export.onnx.run import is_exported

    if is_exported(args.model):
        from .run_exported import run as run_exported

        if args.quantize:
            raise UsageError(f"{args.model} is an exported folder: --quantize is given to `vlmgraph export`")
        return run_exported(args)
    if args.threads:
        import torch

        torch.set_num_threads(args.threads)
    with progress(f"loading {args.model}"):
        model, folder = opened(args)
        from ..processor.model import model_processor

        processor = model_processor(model.spec, model.graph, folder)
    noted(processor.notes)
    if args.quantize:
        print(model.quantization, file=sys.stderr)
    if args.output is not None:
        results = [drawn(model, processor, args)]
    elif "logits" in model.programs[model.main].graph().outputs:
        results = [answered(model, processor, prompt, args) for prompt in args.prompt]
    else:
        results = compared(model, processor, args)
    if args.format == "json":
        low = {"quantization": model.quantization.json()} if model.quantization is not None else {}
        print(json.dumps({"model": model.graph.name, "seed": args.seed, **low, "results": results}, indent=2, ensure_ascii=False))
    return 0


def noted(notes: Iterable[Diagnostic]) -> None:
    """What is worth knowing and no reason to stop, one line each, apart from the answer."""
    for note in notes:
        print(f"note: {note.message} ({note.code})", file=sys.stderr)


# ---- models


def opened(args: argparse.Namespace) -> tuple[CompiledModel, Path | None]:
    """The model, and its folder where it has one. Raises DiagnosticError for a large one without weights."""
    from .. import api

    path = Path(args.model)
    if path.is_dir():
        if args.size or args.variant or args.overrides:
            raise UsageError(f"{path} is a folder of a built model: --size, --variant and --set are for specs")
        if (path / "spec.lock.toml").is_file() and not any(path.glob("*.safetensors")):
            weightless(api.elaborate(path / "spec.lock.toml"), args, f"{path} was compiled on the meta device and holds no weights")
        usable(args.device)
        import torch

        torch.manual_seed(args.seed)
        return api.load(path, device=args.device, dtype=args.dtype, quantize=args.quantize), path
    spec = read(args, args.model)
    weightless(api.elaborate(spec), args, f"{args.model} is a spec and holds no weights")
    usable(args.device)
    return api.compile(spec, device=args.device, dtype=args.dtype or "float32", seed=args.seed, quantize=args.quantize), None


def weightless(graph: Graph, args: argparse.Namespace, reason: str) -> None:
    """Refuse a large model without weights unless it is asked for, and one that the memory cannot hold; say that weights are random."""
    from ..diagnostics import codes as C
    from ..passes.expect import count_parameters, parameters_of

    total = parameters_of(graph, count_parameters(graph), "total") or 0
    note = f"{graph.name} has {total:,} parameters."
    if total > SMALL and not args.random_weights:
        fix = "give a folder with weights, or --size tiny; --random-weights runs it all the same, with answers that mean nothing"
        raise DiagnosticError(Diagnostic(C.NO_WEIGHTS, reason, notes=(note,), fix=fix))
    needed, there = total * (4 if args.dtype in (None, "float32") else 2), memory() if args.device == "cpu" else None
    if there is not None and needed > there:
        text = f"random weights of {graph.name} take {needed / 1e9:.1f} GB, this machine has {there / 1e9:.1f} GB of memory"
        raise DiagnosticError(Diagnostic(C.NO_WEIGHTS, text, fix="choose a smaller --size, or --dtype bfloat16"))
    text = f"{reason}: they are random here, and so is what the model says"
    noted([Diagnostic(C.NO_WEIGHTS, text, severity="warning")])


def memory() -> int | None:
    """Bytes of memory, where the system tells."""
    import os

    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def usable(device: str) -> None:
    """Raises DiagnosticError for a device that is not there, UsageError for the one without storage."""
    from ..lower.device import usable

    usable(device)
    if device == "meta":
        raise UsageError("nothing can be run on the meta device: it holds no numbers")


# ---- what goes in


def media(args: argparse.Namespace) -> dict[str, Any]:
    """Pictures and videos as the processor takes them."""
    from ..processor import Video
    from ..processor.pictures import open_frames

    given: dict[str, Any] = {"images": args.image} if args.image else {}
    videos = []
    for files in args.video:
        frames, fps = open_frames(files[0]) if len(files) == 1 else (files, None)
        videos.append(Video(frames, args.fps or fps))
    return given | ({"videos": videos} if videos else {})


def tensors(model: CompiledModel, arrays: dict[str, Any]) -> dict[str, Any]:
    import torch

    return {name: torch.from_numpy(value).to(model.device) for name, value in arrays.items()}


# ---- what comes out


class Stream:
    """Prints an answer while its tokens come. Letters whose bytes are not all there are held back."""

    def __init__(self, processor: Processor, silent: bool) -> None:
        from ..processor.stream import Pieces

        self.silent, self.pieces = silent, Pieces(processor.decode)

    def __call__(self, token: Any) -> None:
        self.print(self.pieces.push(int(token[0])))

    @property
    def text(self) -> str:
        return self.pieces.decode(self.pieces.ids)

    def print(self, text: str) -> None:
        if not self.silent:
            print(printable(text), end="", flush=True)

    def end(self) -> None:
        self.print(self.pieces.end())
        if not self.silent:
            print()


def printable(text: str) -> str:
    """Control characters written out: a model's words are not commands to a terminal."""
    return "".join(c if c.isprintable() or c in "\n\t" else ascii(c)[1:-1] for c in text)


def answered(model: CompiledModel, processor: Processor, prompt: str, args: argparse.Namespace) -> dict[str, Any]:
    """One answer, streamed to stdout."""
    inputs = processor.ask(prompt, **media(args))
    given = tensors(model, inputs)
    stream = Stream(processor, silent=args.format == "json")
    if len(args.prompt) > 1 and not stream.silent:
        print(f"> {printable(prompt)}")
    before = 1 if "decoder_input_ids" in model.graph.inputs else given["input_ids"].shape[1]
    options = {**writing(args), "processor": processor, "num_return_sequences": 1}
    if processor.stop:
        options["eos_token_id"] = processor.stop
    most = room(model.graph, before, args.max_new_tokens)
    if options.get("num_beams", model.generation.get("num_beams", 1)) > 1:
        ids = model.generate(**given, max_new_tokens=most, **options)
        for token in ids[0, before:]:
            stream(token[None])
        stream.end()
    else:
        ids = model.generate(**given, max_new_tokens=most, **options, streamer=stream)
    return {"prompt": prompt, "answer": stream.text, "ids": ids[0, before:].tolist(), "prompt_tokens": int(given["input_ids"].shape[1])}


def room(graph: Graph, before: int, wanted: int) -> int:
    """Tokens that an answer may have: what a table of learned positions leaves. The last token needs no position, nothing reads it."""
    from ..diagnostics import codes as C
    from ..processor.model import longest

    most = longest(graph, "decoder_input_ids" if "decoder_input_ids" in graph.inputs else "input_ids")
    if most is None or before + wanted - 1 <= most:
        return wanted
    left = most + 1 - before
    noted([Diagnostic(C.TEXT_TOO_LONG, f"the answer ends after {left} tokens: {graph.name} has {most} positions", severity="warning")])
    return left


def compared(model: CompiledModel, processor: Processor, args: argparse.Namespace) -> list[dict[str, Any]]:
    """A share for each text and picture, or what the model gives of one of them."""
    import torch

    with torch.no_grad():
        out = model(**tensors(model, processor(text=args.prompt, **media(args))))
    table = out.get("logits_per_image")
    if table is None:
        found = [{"output": name, "shape": list(value.shape), "values": value.float().tolist()} for name, value in out.items()]
        for row in found if args.format != "json" else ():
            print(f"{row['output']} {row['shape']}")
        return found
    results = []
    for name, scores, shares in zip(args.image, table.tolist(), table.float().softmax(-1).tolist()):
        rows = sorted(zip(shares, scores, args.prompt), key=lambda row: -row[0])
        results.append({"image": name, "texts": [{"text": t, "score": s, "share": p} for p, s, t in rows]})
        if args.format != "json":
            if len(args.image) > 1:
                print(name)
            for part, score, text in rows:
                print(f"{part:7.2%}  {score:8.3f}  {printable(text)}")
    return results


def picture_file(args: argparse.Namespace) -> Path:
    """The file that -o names. Raises UsageError for what no picture is drawn of or into."""
    if len(args.prompt) > 1:
        raise UsageError("-o takes one --prompt: one picture is drawn")
    if args.image or args.video:
        raise UsageError("-o draws from words alone: leave --image and --video out")
    target = Path(args.output)
    if target.suffix.lower() != ".png":
        raise UsageError(f"-o {args.output}: the picture is a PNG, so call it {target.stem or 'picture'}.png")
    return target


def drawn(model: CompiledModel, processor: Processor, args: argparse.Namespace) -> dict[str, Any]:
    """A picture of the prompt, in the file -o."""
    import torch

    from ..lower.sample_image import draw, pixels

    target = picture_file(args)
    if not processor.entries.outputs:
        from ..diagnostics import codes as C

        raise DiagnosticError(Diagnostic(C.NO_GENERATE, f"{model.graph.name} draws no pictures", fix="leave -o out"))
    inputs = tensors(model, processor(processor.prompt("generate_image", prompt=args.prompt[0])))
    generator = torch.Generator(device=model.device).manual_seed(args.seed)
    with progress("drawing"):
        procedure, codes = draw(model, **inputs, **drawing(args), generator=generator)
        picture = processor.pictures(pixels(model, procedure, codes).float().cpu().numpy())[0]
    return saved(picture, target, codes[0].tolist(), args)


def saved(picture: Any, target: Path, codes: list[int], args: argparse.Namespace) -> dict[str, Any]:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        picture.save(target)
    except OSError as error:
        raise unwritable(args.output, error) from error
    if args.format != "json":
        print(f"{args.output}: {picture.width} x {picture.height}", file=sys.stderr)
    return {"prompt": args.prompt[0], "picture": str(target), "width": picture.width, "height": picture.height, "codes": codes}
