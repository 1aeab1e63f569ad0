"""Who provides which component, pass, target and spec, and whether each loads.

Exits with 1 when something does not load or two packages claim one name.

examples:
  vlmgraph plugins
  vlmgraph plugins --all        the built-ins too
"""

from __future__ import annotations

import argparse
import json

from .common import format_argument


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--all", action="store_true", help="the built-ins too")
    format_argument(parser, ("human", "json"))


def run(args: argparse.Namespace) -> int:
    from ..plugins import GROUPS, PluginError, registry

    rows, bad = [], False
    for group in GROUPS:
        found = registry(group)
        for name in found.names():
            points = found.points[name]
            owners = sorted({p.dist.name if p.dist else "?" for p in points})
            state = "loads"
            try:
                found.load(name)
            except PluginError as error:
                state, bad = str(error), True
            if args.all or owners != ["vlmgraph"] or state != "loads":
                rows.append({"group": group, "name": name, "package": ", ".join(owners), "from": points[0].value, "state": state})
    if args.format == "json":
        print(json.dumps(rows, indent=2))
        return int(bad)
    for row in rows:
        print(f"{row['group'].removeprefix('vlmgraph.'):11} {row['name']:32} {row['package']:20} {row['state']}")
    if not rows:
        print("no plugins besides the built-ins; `vlmgraph plugins --all` lists those")
    return int(bad)
