"""Report every problem of a spec at once, without building anything.

examples:
  vlmgraph check cogvlm
  vlmgraph check my-model.toml --size tiny --format github
  vlmgraph check llava-1.5 --set llm.preset=vicuna-13b-v1.5
"""

from __future__ import annotations

import argparse
import sys

from .common import emit, findings_argument, overlay_arguments, read


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("specs", metavar="SPEC", nargs="+", help="names (see `vlmgraph list`) or paths of .toml files")
    overlay_arguments(parser)
    findings_argument(parser)
    parser.add_argument("--quiet", action="store_true", help="say nothing about clean specs")


def run(args: argparse.Namespace) -> int:
    from .. import api
    from ..diagnostics import Diagnostic, DiagnosticError

    found: list[Diagnostic] = []
    for name in args.specs:
        try:
            here = api.check(read(args, name))
        except DiagnosticError as error:
            here = list(error.diagnostics)
        found += here
        if not here and not args.quiet and args.format in ("human", "concise"):
            print(f"{name}: no problems", file=sys.stderr)
    return emit(found, args.format) if found or args.format in ("json", "sarif") else 0
