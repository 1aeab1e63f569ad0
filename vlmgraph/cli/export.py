"""Write a model for another runtime. Targets come from the entry-point group `vlmgraph.targets`.

example:
  vlmgraph export build/cogvlm --target NAME -o build/exported
"""

from __future__ import annotations

import argparse
from pathlib import Path

from .common import overlay_arguments, progress, read


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="a compiled folder, a checkpoint folder, or a spec by name or path")
    overlay_arguments(parser)
    parser.add_argument("--target", metavar="NAME", required=True, help="what to write for")
    parser.add_argument("-o", "--output", metavar="FOLDER", required=True)


def run(args: argparse.Namespace) -> int:
    from .. import api

    api.find_target(args.target)  # a name that nobody provides is said before a model is built
    with progress(f"building {args.model}"):
        model = api.load(args.model) if Path(args.model).is_dir() else api.compile(read(args, args.model))
    print(api.export(model, args.target, args.output))
    return 0
