"""What `run` does with a folder that `export --to onnx` wrote: onnxruntime answers, torch is never imported."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..diagnostics import Diagnostic, DiagnosticError
from .common import UsageError
from .folder import MARK
from .run import Stream, media, noted, printable, room
from .writing import refuse_searches

if TYPE_CHECKING:
    from ..export.onnx.run import Exported
    from ..ir.graph import Graph
    from ..processor import Processor


def run(args: argparse.Namespace) -> int:
    """Answers, or scores, of the folder `args.model`."""
    from .. import api
    from ..diagnostics import codes as C
    from ..export.onnx.run import Exported
    from ..processor.model import model_processor

    folder = Path(args.model)
    if args.size or args.variant or args.overrides:
        raise UsageError(f"{folder} is an exported folder: --size, --variant and --set are for specs")
    refuse_searches(args, f"{folder} is an exported folder")
    if args.output is not None:
        raise DiagnosticError(Diagnostic(C.NO_GENERATE, f"{folder} draws no pictures", fix="leave -o out, or run the compiled folder"))
    spec = api.read_spec(folder / MARK)
    graph = api.elaborate(spec)
    processor = model_processor(spec, graph, folder)
    noted(processor.notes)
    exported = Exported(folder)
    if any("prompt" in p for p in exported.manifest["programs"].values()):
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


def chooser(args: argparse.Namespace) -> Any:
    """The most likely token, or one drawn after temperature, top-k and nucleus filtering."""
    if not args.sample:
        return lambda logits: logits.argmax(-1)
    random = np.random.default_rng(args.seed)

    def draw(logits: np.ndarray) -> np.ndarray:
        scores = logits.astype(np.float64) / (1.0 if args.temperature is None else max(args.temperature, 1e-6))
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
