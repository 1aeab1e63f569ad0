"""The page about a diagnostic code: what it means, an example, and how to mend it.

examples:
  vlmgraph explain VG0301
  vlmgraph explain            lists the codes
"""

from __future__ import annotations

import argparse
import difflib

from .common import UsageError


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("code", metavar="CODE", nargs="?", help="as printed in a finding, for example VG0301")


def run(args: argparse.Namespace) -> int:
    from importlib.resources import files

    pages = {p.name.removesuffix(".md"): p for p in files("vlmgraph.diagnostics").joinpath("explain").iterdir() if p.name.endswith(".md")}
    if not args.code:
        for code in sorted(pages):
            print(f"{code}  {pages[code].read_text(encoding='utf-8').splitlines()[0].lstrip('# ').removeprefix(code).strip(' :-')}")
        return 0
    code = args.code.upper()
    if code not in pages:
        near = difflib.get_close_matches(code, pages, 1)
        raise UsageError(
            f"there is no code {args.code}" + (f"; did you mean {near[0]}?" if near else "") + "; `vlmgraph explain` lists them"
        )
    print(pages[code].read_text(encoding="utf-8").rstrip())
    return 0
