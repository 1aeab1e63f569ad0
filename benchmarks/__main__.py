"""`python -m benchmarks [check build compile scaling load curation generate generate_big lowbit encode onnx onnx_big stage]`: runs them.

README.md shows the latest results of each.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module

from .common import page, save

NAMES = ("check", "build", "compile", "scaling", "load", "curation", "generate", "generate_big", "lowbit", "encode")
NAMES += ("onnx", "onnx_big", "stage")


def main(names: list[str]) -> None:
    for name in names:
        if name not in NAMES:
            sys.exit(f"there is no benchmark {name!r}; benchmarks: {', '.join(NAMES)}")
    for name in names or NAMES:
        before = os.getloadavg()[0]
        table = import_module(f"benchmarks.{name}").measure()
        save(table, (before, os.getloadavg()[0]))
        print(table.markdown())
        page(NAMES)


main(sys.argv[1:])
