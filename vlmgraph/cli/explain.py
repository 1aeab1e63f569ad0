"""The page about a diagnostic code, with an example and how to mend it; or about a component type, with its ports and fields.

examples:
  vlmgraph explain VG0301
  vlmgraph explain connector.mlp
  vlmgraph explain            lists the codes; `vlmgraph list components` lists the types
"""

from __future__ import annotations

import argparse
import difflib

from .common import UsageError


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="CODE|TYPE", nargs="?", help="a code as printed in a finding, for example VG0301, or a type")


def run(args: argparse.Namespace) -> int:
    from importlib.resources import files

    from ..plugins import registry

    pages = {p.name.removesuffix(".md"): p for p in files("vlmgraph.diagnostics").joinpath("explain").iterdir() if p.name.endswith(".md")}
    if not args.name:
        for code in sorted(pages):
            print(f"{code}  {pages[code].read_text(encoding='utf-8').splitlines()[0].lstrip('# ').removeprefix(code).strip(' :-')}")
        return 0
    code, types = args.name.upper(), registry().names()
    if code in pages:
        print(pages[code].read_text(encoding="utf-8").rstrip())
    elif args.name in types:
        print(_type(args.name), end="")
    else:
        near = difflib.get_close_matches(code, pages, 1) or difflib.get_close_matches(args.name, types, 1)
        raise UsageError(
            f"there is no code or component type {args.name}"
            + (f"; did you mean {near[0]}?" if near else "")
            + "; `vlmgraph explain` lists them, `vlmgraph list components` the types"
        )
    return 0


def _type(kind: str) -> str:
    from ..diagnostics import DiagnosticError
    from ..elaborate.configs import plugin_diagnostic
    from ..plugins import PluginError, registry
    from ..report.reference import component_page

    try:
        return component_page(kind, registry().load(kind))
    except PluginError as error:
        raise DiagnosticError(plugin_diagnostic(error, None)) from error
