"""`python -m benchmarks [NAME ...]`: runs those named, or all (`NAMES`).

README.md shows the latest results of each. `generate encode --device cuda` runs these two on a CUDA device; a result of its own each.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module

from .common import page, save
from .device import split

NAMES = ("check", "build", "compile", "scaling", "load", "curation", "generate", "generate_big", "lowbit", "encode", "export")
NAMES += ("onnx", "onnx_big", "cold", "stage")
ON_DEVICES = ("generate", "encode")


def main(arguments: list[str]) -> None:
    names, device = split(arguments)
    if device != "cpu" and (wrong := sorted(set(names or NAMES) - set(ON_DEVICES))):
        sys.exit(f"these run on the processor only: {', '.join(wrong)}; with --device: {', '.join(ON_DEVICES)}")
    for name in names:
        if name not in NAMES:
            sys.exit(f"there is no benchmark {name!r}; benchmarks: {', '.join(NAMES)}")
    for name in names or NAMES:
        before = os.getloadavg()[0]
        module = import_module(f"benchmarks.{name}")
        table = module.measure() if device == "cpu" else module.measure(device=device)
        save(table, (before, os.getloadavg()[0]), f"python -m benchmarks {name}" + (f" --device {device}" if device != "cpu" else ""))
        print(table.markdown())
        page([*NAMES, *(f"{n}_cuda" for n in ON_DEVICES)])


main(sys.argv[1:])
