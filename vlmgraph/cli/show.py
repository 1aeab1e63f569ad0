"""Print or draw the graph of a spec; with --resolved, every value and where it came from.

examples:
  vlmgraph show cogvlm                          the graph as text, with every type
  vlmgraph show cogvlm --format svg -o cogvlm.svg
  vlmgraph show cogvlm --format mermaid         for a Markdown page
  vlmgraph show cogvlm --size tiny --resolved   values with file, line and layer
  vlmgraph show cogvlm --print-after infer --time
"""

from __future__ import annotations

import argparse
import sys

from .common import UsageError, format_argument, read, spec_arguments, write


def configure(parser: argparse.ArgumentParser) -> None:
    spec_arguments(parser)
    format_argument(parser, ("text", "svg", "mermaid"))
    parser.add_argument("--resolved", action="store_true", help="the merged values of the spec, each with its origin")
    parser.add_argument("-o", "--output", metavar="FILE", help="write to a file")
    pass_arguments(parser)


def pass_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--pipeline", "--passes", metavar="LIST", dest="passes", help="a pipeline of passes, for example carry,infer")
    parser.add_argument("--print-after", metavar="PASS", action="append", default=[], help="print the graph after a pass, to stderr")
    parser.add_argument("--time", action="store_true", help="print what each pass took, to stderr")


def observer(args: argparse.Namespace):  # type: ignore[no-untyped-def]
    """What to do after each pass, by --print-after and --time; None where neither is asked for."""
    from ..api import PIPELINE

    known = [step.strip() for step in (args.passes or PIPELINE).split(",")]
    for name in args.print_after:
        if name not in known:
            raise UsageError(f"--print-after {name}: no such pass runs; passes: {', '.join(known)}")
    if not args.print_after and not args.time:
        return None

    def observe(name: str, graph: object, seconds: float) -> None:
        if args.time:
            print(f"{name:12} {1000 * seconds:8.2f} ms", file=sys.stderr)
        if name in args.print_after:
            from ..ir.text import print_graph

            print(f"# after {name}\n{print_graph(graph)}", file=sys.stderr)  # type: ignore[arg-type]

    return observe


def elaborated(args: argparse.Namespace, spec: object):  # type: ignore[no-untyped-def]
    """The graph of a spec after the passes of the command line. Raises DiagnosticError, UsageError."""
    from .. import api
    from ..passes.base import PipelineError

    try:
        return api.elaborate(spec, args.passes or api.PIPELINE, observer(args))  # type: ignore[arg-type]
    except PipelineError as error:
        raise UsageError(str(error)) from error


def run(args: argparse.Namespace) -> int:
    spec = read(args)
    if args.resolved:
        from ..spec.resolved import resolved

        write(resolved(spec), args.output)
        return 0
    graph = elaborated(args, spec)
    if args.format == "text":
        from ..ir.text import print_graph

        text = print_graph(graph)
    else:
        from .. import report

        drawing = report.diagram(graph)
        text = report.svg(drawing) if args.format == "svg" else report.mermaid(drawing)
    write(text, args.output)
    return 0
