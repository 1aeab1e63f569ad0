"""Parameters, FLOPs, memory, visual tokens and trainable parts of a spec, without weights and without torch.

Exits with 1 when a number differs from the spec's [expect].

examples:
  vlmgraph report cogvlm
  vlmgraph report qwen2-vl --image-size 1280x720 --image-size 336x336
  vlmgraph report llava-1.5 --dims B=8,T=2048 --dtype float16 --format json
  vlmgraph report blip-2 --format html -o blip-2.html
"""

from __future__ import annotations

import argparse
import json
import re
from typing import TYPE_CHECKING

from .common import UsageError, format_argument, read, spec_arguments, write

if TYPE_CHECKING:
    from ..ir.graph import Graph
    from ..report.measure import Report
    from ..spec import Spec


def configure(parser: argparse.ArgumentParser) -> None:
    spec_arguments(parser)
    format_argument(parser, ("human", "json", "html"))
    parser.add_argument("-o", "--output", metavar="FILE", help="write to a file")
    parser.add_argument(
        "--image-size", metavar="WxH", action="append", default=[], help="count the visual tokens of such a picture; repeat for more"
    )
    parser.add_argument("--dims", metavar="B=1,T=512", default="", help="numbers for the symbols of the inputs")
    parser.add_argument("--dtype", choices=("float32", "float16", "bfloat16", "float8"), default="bfloat16", help="default: %(default)s")


def run(args: argparse.Namespace) -> int:
    from .. import api
    from ..report.measure import report

    spec = read(args)
    graph = api.elaborate(spec)
    made = report(graph, args.dtype, dims(args.dims), [image(i) for i in args.image_size], spec.data.get("processor"))
    if args.format == "human" and args.output in (None, "-"):
        from ..report.text import print_report

        print_report(made)  # to the terminal itself, for its width and its colours
    else:
        write(rendered(spec, graph, made, args.format), args.output)
    return 1 if any(row.actual != row.expected for row in made.expected) else 0


def rendered(spec: Spec, graph: Graph, made: Report, format: str) -> str:
    if format == "json":
        return json.dumps(made.json(), indent=2)
    if format == "html":
        from ..report.html import page

        return page(graph, made, str(spec.data.get("model", {}).get("summary", "")))
    import io

    from ..report.text import print_report

    text = io.StringIO()
    print_report(made, text)
    return text.getvalue()


def image(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)[xX](\d+)", text)
    if not match or not all(1 <= int(n) <= 65_536 for n in match.groups()):
        raise UsageError(f"--image-size {text}: write WIDTHxHEIGHT, for example --image-size 1280x720")
    return int(match[1]), int(match[2])


def dims(text: str) -> dict[str, int]:
    found = {}
    for part in filter(None, (p.strip() for p in text.split(","))):
        match = re.fullmatch(r"([A-Za-z_]\w*)\s*=\s*(\d+)", part)
        if not match:
            raise UsageError(f"--dims {text}: write NAME=NUMBER with commas between, for example --dims B=8,T=2048")
        found[match[1]] = int(match[2])
    return found
