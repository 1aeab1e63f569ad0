"""Names of the specs, components or presets that are installed.

examples:
  vlmgraph list                 every spec with its summary
  vlmgraph list components      by role, with the package that provides each
  vlmgraph list presets
"""

from __future__ import annotations

import argparse
import json

from .common import format_argument


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("what", nargs="?", choices=("specs", "components", "presets"), default="specs", help="default: %(default)s")
    format_argument(parser, ("human", "json"))


def run(args: argparse.Namespace) -> int:
    rows = {"specs": _specs, "components": _components, "presets": _presets}[args.what]()
    if args.format == "json":
        print(json.dumps(rows, indent=2))
        return 0
    width = max((len(row["name"]) for row in rows), default=0)
    for row in rows:
        print(f"{row['name']:{width}}  {row['text']}".rstrip())
    return 0


def _specs() -> list[dict[str, str]]:
    from ..spec import installed_specs
    from ..spec.read import toml

    rows = []
    for name, path in sorted(installed_specs().items()):
        model = toml(path).get("model", {})
        rows.append({"name": name, "text": model.get("summary", ""), "path": str(path)})
    return rows


def _components() -> list[dict[str, str]]:
    from ..plugins import registry

    found = registry()
    return [{"name": n, "text": ", ".join(sorted({p.dist.name if p.dist else "?" for p in found.points[n]}))} for n in found.names()]


def _presets() -> list[dict[str, str]]:
    from ..presets import names

    return [{"name": name, "text": kind} for name, kind in sorted(names().items())]
