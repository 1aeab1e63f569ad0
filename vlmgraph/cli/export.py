"""Write a model for another runtime. Targets come from the entry-point group `vlmgraph.targets`.

ONNX: every declared program becomes a graph or several (the vision tower, the embedding, the merge, the decoder with keys and values in and
out), and each graph is held against eager with onnxruntime at three sizes of everything that is open. The table of errors is printed and
stored in manifest.json; a graph that departs is an error that names the first node that does, and nothing is written. Graphs with quantized
weights may be further away: 0.1 of relative error with int8, 0.6 with int4.

TensorRT: the graphs, a plan with the shapes that engines are built for, and the engines where a GPU and TensorRT are there.

examples:
  vlmgraph export llava-1.5 --size tiny --to onnx -o build/onnx
  vlmgraph export build/cogvlm --to onnx -o build/cogvlm-onnx --dtype float16
  vlmgraph export build/llava --to onnx -o build/llava-onnx --optimize --quantize int4 --quantize head=int8
  vlmgraph export qwen2-vl --to tensorrt --plan-only --limit batch=1,1,8 --precision float16 -o build/trt
  vlmgraph run build/onnx --image photo.jpg --prompt "What is this?"
"""

from __future__ import annotations

import argparse
import inspect
import os
import sys
from pathlib import Path
from typing import Any

from .common import overlay_arguments, progress, read, unwritable


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="a compiled folder, a checkpoint folder, or a spec by name or path")
    overlay_arguments(parser)
    parser.add_argument("--to", "--target", dest="target", metavar="NAME", required=True, help="what to write for")
    parser.add_argument("-o", "--output", metavar="FOLDER", required=True)
    parser.add_argument("--dtype", choices=("float32", "float16", "bfloat16"), help="of weights (default: the folder's own, else float32)")
    parser.add_argument("--opset", type=int, metavar="N", help="of ONNX (default: the target's own)")
    parser.add_argument("--program", action="append", default=[], metavar="NAME", help="only this program; repeat for more")
    fast = parser.add_argument_group("for ONNX")
    fast.add_argument("--optimize", action="store_true", help="write onnxruntime's fused operators; keys and values are kept in place")
    of = "weights of products as int8 or int4 (:32 or :128 values to a scale), or none, of a role or of the language"
    fast.add_argument("--quantize", action="append", default=[], metavar="[ROLE=]TYPE", help=of)
    fast.add_argument(
        "--stream", action=argparse.BooleanOptionalAction, default=None,
        help="weights stay in the folder's files (default: where they take over a quarter of the memory)",
    )  # fmt: skip
    only = parser.add_argument_group("for TensorRT")
    only.add_argument("--plan-only", action="store_true", help="build no engine; of a spec write the plan alone, without weights")
    only.add_argument("--limit", action="append", default=[], metavar="NAME=MIN,OPT,MAX", help="batch, pictures, text, picture=WxH,..")
    only.add_argument("--precision", action="append", default=[], metavar="[ROLE=]TYPE", help="of matrix products, of a role or of all")


def run(args: argparse.Namespace) -> int:
    from .. import api
    from .folder import replacing

    target = api.find_target(args.target)  # a name that nobody provides is said before a model is built
    given = {"opset": args.opset, "programs": args.program, "plan_only": args.plan_only, "limits": args.limit, "precision": args.precision}
    given |= {"optimize": args.optimize, "quantize": args.quantize}
    options: dict[str, Any] = {name: value for name, value in given.items() if value not in (None, [], False)}
    known(target, args.target, options)
    with progress(f"building {args.model}"):
        if Path(args.model).is_dir():
            model = opened(args)
        else:
            model = api.compile(read(args, args.model), device="meta" if args.plan_only else "cpu", dtype=args.dtype or "float32")
    with replacing(args.output) as folder:
        with progress(f"writing {args.output}") as tell:
            if "observe" in inspect.signature(target).parameters:
                options["observe"] = tell
            try:
                report = api.export(model, args.target, folder, **options)
            except OSError as error:
                raise unwritable(args.output, error) from error
        written = sorted(p.name for p in folder.iterdir())
    print(str(report).replace(str(folder), args.output))
    for name, reason in getattr(report, "refused", {}).items():
        print(f"refused {name}: {reason.message} ({reason.code})", file=sys.stderr)
    print(f"{args.output}: {', '.join(written)}", file=sys.stderr)
    return 0


def opened(args: argparse.Namespace) -> Any:
    """The model of a folder; with its weights left in their files where they are large and the target is ONNX."""
    from .. import api
    from ..diagnostics import Diagnostic, DiagnosticError
    from ..diagnostics import codes as C

    if args.stream and args.target != "onnx":
        raise DiagnosticError(Diagnostic(C.BAD_OPTION, f"the target {args.target} has no --stream", fix="leave it out"))
    size = sum(path.stat().st_size for path in Path(args.model).glob("*.safetensors"))
    large = args.target == "onnx" and size > os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 4
    if size and (large if args.stream is None else args.stream):
        from ..weights.stream import stream_model

        return stream_model(args.model, dtype=args.dtype)
    return api.load(args.model, dtype=args.dtype)


def known(target: Any, name: str, options: dict[str, Any]) -> None:
    """Say what a target does not take, and what it lacks here, before a model is built: its `preflight` raises, where it has one."""
    from ..diagnostics import Diagnostic, DiagnosticError
    from ..diagnostics import codes as C

    taken = inspect.signature(target).parameters
    if not any(p.kind is p.VAR_KEYWORD for p in taken.values()) and (extra := [o for o in options if o not in taken]):
        words = {"plan_only": "--plan-only", "limits": "--limit", "programs": "--program"}
        flag = words.get(extra[0], f"--{extra[0]}")
        raise DiagnosticError(Diagnostic(C.BAD_OPTION, f"the target {name} has no {flag}", fix="leave it out"))
    if (preflight := getattr(target, "preflight", None)) is not None:
        preflight(**options)
