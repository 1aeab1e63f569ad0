"""What `run` does with a folder that `export --to onnx` wrote: onnxruntime answers, torch is never imported."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..diagnostics import Diagnostic, DiagnosticError
from .common import UsageError, progress
from .folder import MARK
from .run import Stream, media, noted, picture_file, printable, room, saved
from .writing import refuse_searches

if TYPE_CHECKING:
    from ..export.onnx.run import Exported
    from ..ir.graph import Graph
    from ..processor import Processor


def run(args: argparse.Namespace) -> int:
    """Answers, or scores, of the folder `args.model`."""
    from .. import api
    from ..export.onnx.run import Exported
    from ..processor.model import model_processor

    folder = Path(args.model)
    if args.size or args.variant or args.overrides:
        raise UsageError(f"{folder} is an exported folder: --size, --variant and --set are for specs")
    refuse_searches(args, f"{folder} is an exported folder")
    spec = api.read_spec(folder / MARK)
    graph = api.elaborate(spec)
    processor = model_processor(spec, graph, folder)
    noted(processor.notes)
    exported = Exported(folder, args.threads or 0, args.device)
    if args.output is not None:
        results = [drawn(exported, graph, processor, args)]
    elif any("prompt" in p for p in exported.manifest["programs"].values()):
        results = [answered(exported, graph, processor, prompt, args) for prompt in args.prompt]
    else:
        results = compared(exported, processor, args)
    if args.format == "json":
        print(json.dumps({"model": exported.manifest["model"], "seed": args.seed, "results": results}, indent=2, ensure_ascii=False))
    return 0


def answered(exported: Exported, graph: Graph, processor: Processor, prompt: str, args: argparse.Namespace) -> dict[str, Any]:
    """One answer, streamed to stdout."""
    inputs: dict[str, Any] = processor.ask(prompt, **media(args))
    stream = Stream(processor, silent=args.format == "json")
    if len(args.prompt) > 1 and not stream.silent:
        print(f"> {printable(prompt)}")
    before = 1 if "decoder_input_ids" in graph.inputs else inputs["input_ids"].shape[1]
    count = room(graph, before, args.max_new_tokens)
    ids = exported.generate(**inputs, max_new_tokens=count, eos_token_id=processor.stop, streamer=stream, choose=chooser(args))
    stream.end()
    return {"prompt": prompt, "answer": stream.text, "ids": ids[0, before:].tolist(), "prompt_tokens": int(inputs["input_ids"].shape[1])}


def drawn(exported: Exported, graph: Graph, processor: Processor, args: argparse.Namespace) -> dict[str, Any]:
    """A picture of the prompt, in the file -o. Numbers are drawn by numpy: a seed gives another picture than in torch."""
    from ..components.inference import SampleImage
    from ..diagnostics import codes as C
    from ..export.onnx.draw import draw, pixels

    target = picture_file(args)
    procedure = next((p for p in graph.procedures.values() if isinstance(p, SampleImage)), None)
    count = None if procedure is None else graph.types()[graph.resolve(procedure.codes)].dims[-1].constant
    if procedure is None or count is None or not processor.entries.outputs:
        raise DiagnosticError(Diagnostic(C.NO_GENERATE, f"{graph.name} draws no pictures", fix="leave -o out"))
    inputs = processor(processor.prompt("generate_image", prompt=args.prompt[0]))
    choose = chooser(args, procedure.sample if args.sample is None else args.sample, procedure.temperature)
    with progress("drawing"):
        codes = draw(exported, procedure, count, inputs["input_ids"], inputs.get("attention_mask"), choose=choose)
        picture = processor.pictures(pixels(exported, procedure, codes))[0]
    return saved(picture, target, codes[0].tolist(), args)


def chooser(args: argparse.Namespace, sample: bool | None = None, temperature: float = 1.0) -> Any:
    """The most likely token, or one drawn after temperature, top-k and nucleus filtering."""
    if not (args.sample if sample is None else sample):
        return lambda logits: logits.argmax(-1)
    random = np.random.default_rng(args.seed)

    def draw(logits: np.ndarray) -> np.ndarray:
        scores = logits.astype(np.float64) / max(temperature if args.temperature is None else args.temperature, 1e-6)
        order = np.argsort(-scores, axis=-1)
        ranked = np.take_along_axis(scores, order, -1)
        shares = np.exp(ranked - ranked[:, :1])
        shares /= shares.sum(-1, keepdims=True)
        kept = np.arange(scores.shape[1])[None] < (args.top_k or scores.shape[1])
        if args.top_p is not None:
            kept = kept & (shares.cumsum(-1) - shares < args.top_p)
        shares = np.where(kept, shares, 0)
        return np.array([random.choice(row, p=p / p.sum()) for row, p in zip(order, shares)])

    return draw


def compared(exported: Exported, processor: Processor, args: argparse.Namespace) -> list[dict[str, Any]]:
    """A share for each text and picture, or what the model gives of one of them."""
    programs = exported.manifest["programs"]
    out = exported.run("forward" if "forward" in programs else next(iter(programs)), **processor(text=args.prompt, **media(args)))
    table = out.get("logits_per_image")
    if table is None:
        found = [{"output": name, "shape": list(value.shape), "values": value.tolist()} for name, value in out.items()]
        for row in found if args.format != "json" else ():
            print(f"{row['output']} {row['shape']}")
        return found
    results = []
    for name, scores in zip(args.image, table.astype(np.float64)):
        shares = np.exp(scores - scores.max())
        shares /= shares.sum()
        rows = sorted(zip(shares.tolist(), scores.tolist(), args.prompt), key=lambda row: -row[0])
        results.append({"image": name, "texts": [{"text": t, "score": s, "share": p} for p, s, t in rows]})
        for part, score, text in rows if args.format != "json" else ():
            print(f"{part:7.2%}  {score:8.3f}  {printable(text)}")
    return results
