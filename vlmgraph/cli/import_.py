"""The spec of a published checkpoint folder (config.json and safetensors), or with --weights the whole model as a vlmgraph folder.

Every key of config.json is mapped, or ignored for a stated reason, or refused; with --weights every tensor is accounted for too.

examples:
  vlmgraph import llava-1.5-7b-hf                          print the spec
  vlmgraph import llava-1.5-7b-hf -o my-llava.toml         edit it, then `vlmgraph check my-llava.toml`
  vlmgraph import llava-1.5-7b-hf --weights -o build/llava
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from .common import UsageError, progress, unwritable, write


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", metavar="FOLDER", help="a folder with config.json, as transformers writes it")
    parser.add_argument("-o", "--output", metavar="PATH", help="the spec's file; with --weights the folder to write")
    parser.add_argument("--weights", action="store_true", help="write the model with its weights, not the spec alone")


def run(args: argparse.Namespace) -> int:
    folder = Path(args.checkpoint)
    if args.weights:
        if not args.output:
            raise UsageError("--weights needs -o FOLDER")
        return convert(folder, args.output)
    from ..weights.import_config import import_config
    from ..weights.tidy import spec_text, tidied

    imported = import_config(folder / "config.json")
    comment = f"from {folder.resolve().name}/config.json, model type {imported.family}"
    write(spec_text(tidied(imported.spec, folder), folder.resolve().name, comment), args.output)
    return 0


def convert(folder: Path, output: str) -> int:
    from .. import api
    from .folder import replacing

    with replacing(output) as made:
        with progress(f"loading {folder}"):
            model = api.load(folder)
        with progress(f"writing {output}"):
            try:
                model.save(made)
            except OSError as error:
                raise unwritable(output, error) from error
        written = sorted(path.name for path in made.iterdir())
    print(f"{output}: {', '.join(written)}", file=sys.stderr)
    return 0
