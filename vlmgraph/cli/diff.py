"""Compare the graphs of two specs: components, fields, parameters, visual tokens, types, edges.

Exits with 1 when they differ.

examples:
  vlmgraph diff llava-1.5 llava-1.5 --left-size tiny
  vlmgraph diff cogvlm my-cogvlm.toml --format json
"""

from __future__ import annotations

import argparse

from .common import format_argument, overrides, write


def configure(parser: argparse.ArgumentParser) -> None:
    for side in ("left", "right"):
        parser.add_argument(side, metavar=side.upper(), help=f"the {side} spec: a name or a path")
    for side in ("left", "right"):
        parser.add_argument(f"--{side}-size", metavar="NAME", help=f"a size of the {side} spec")
        parser.add_argument(f"--{side}-variant", metavar="NAME", help=f"a variant of the {side} spec")
    parser.add_argument("--size", metavar="NAME", help="a size of both")
    parser.add_argument(
        "--set", metavar="KEY=VALUE", action="append", default=[], dest="overrides", help="override a value of the right spec"
    )
    format_argument(parser, ("human", "json"))
    parser.add_argument("-o", "--output", metavar="FILE", help="write to a file")


def run(args: argparse.Namespace) -> int:
    from .. import api
    from ..report import diff, format_diff
    from ..spec import read_spec

    graphs, names = [], []
    for side in ("left", "right"):
        name, size, variant = getattr(args, side), getattr(args, f"{side}_size") or args.size, getattr(args, f"{side}_variant")
        changed = overrides(args.overrides) if side == "right" else ()
        graphs.append(api.elaborate(read_spec(name, size=size, variant=variant, overrides=changed)))
        names.append(
            " ".join(
                [
                    name,
                    *(f"--{k} {v}" for k, v in (("size", size), ("variant", variant)) if v),
                    *(f"--set {o}" for o in args.overrides if changed),
                ]
            )
        )
    changes = diff(*graphs)
    if args.format == "json":
        import json

        write(json.dumps({"left": names[0], "right": names[1], "changes": [c.json() for c in changes]}, indent=2), args.output)
    else:
        write(format_diff(changes, *names), args.output)
    return 1 if changes else 0
