"""The JSON Schema of specs, with every installed component and layer: editors complete and check with it.

Put `#:schema vlmgraph.schema.json` on the first line of a spec.

example:
  vlmgraph schema -o vlmgraph.schema.json
"""

from __future__ import annotations

import argparse
import json

from .common import write


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-o", "--output", metavar="FILE", help="write to a file")
    parser.add_argument("--own", action="store_true", help="without the components of plugins")


def run(args: argparse.Namespace) -> int:
    from ..spec.schema import schema

    write(json.dumps(schema(args.own), indent=1), args.output)
    return 0
