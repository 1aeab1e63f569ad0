"""Write a model out as a folder: spec.lock.toml, graph.txt, model.py, report.json, report.html, and weights where they exist.

On the meta device (the default) nothing is allocated, so that a model of any size compiles on a laptop; on another device
the weights are initialised and written too. An existing folder is replaced only if vlmgraph wrote it.

examples:
  vlmgraph compile cogvlm -o build/cogvlm
  vlmgraph compile cogvlm --size tiny --device cpu -o build/cogvlm-tiny
  vlmgraph compile my-model.toml --set llm.layers=4 --print-after infer --time
"""

from __future__ import annotations

import argparse
import sys

from ..diagnostics import DiagnosticError
from ..diagnostics import codes as C
from ..spec.locate import NAME
from .common import progress, read, spec_arguments, unwritable
from .show import elaborated, pass_arguments


def configure(parser: argparse.ArgumentParser) -> None:
    spec_arguments(parser)
    parser.add_argument("-o", "--output", metavar="FOLDER", help="default: build/ and the spec's name, with its size and variant")
    parser.add_argument("--device", default="meta", help="meta (no weights), cpu or cuda (default: %(default)s)")
    parser.add_argument("--dtype", choices=("float32", "float16", "bfloat16"), default="float32", help="of weights (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the initial weights (default: %(default)s)")
    pass_arguments(parser)


def run(args: argparse.Namespace) -> int:
    from .folder import replacing

    spec = read(args)
    elaborated(args, spec)  # findings come before torch is imported
    # a lock file is called alike everywhere: the model's name tells them apart, where it can be that of a folder
    told = spec.model.model.name
    name = told if spec.name.endswith(".lock") and NAME.fullmatch(told) else spec.name
    sourceless: DiagnosticError | None = None
    output = args.output or "/".join(["build", "-".join(filter(None, (name, args.variant, args.size)))])
    with replacing(output) as folder:
        with progress(f"building {spec.name}"):
            from .. import api

            model = api.compile(spec, device=args.device, dtype=args.dtype, seed=args.seed)
        with progress(f"writing {output}"):
            try:
                model.save(folder)
            except OSError as error:
                raise unwritable(output, error) from error
            except DiagnosticError as error:
                if {d.code for d in error.diagnostics} != {C.CANNOT_WRITE_SOURCE}:
                    raise
                sourceless = error  # the folder has everything else
        written = sorted(p.name for p in folder.iterdir())
    print(f"{output}: {', '.join(written)}", file=sys.stderr)
    if sourceless is not None:
        raise sourceless
    return 0
