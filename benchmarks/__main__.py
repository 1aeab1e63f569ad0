"""`python -m benchmarks [check build compile scaling]`: runs them and writes README.md where all were run."""

from __future__ import annotations

import os
import sys
from importlib import import_module

from .common import Table, write

NAMES = ("check", "build", "compile", "scaling")


def main(names: list[str]) -> None:
    for name in names:
        if name not in NAMES:
            sys.exit(f"there is no benchmark {name!r}; benchmarks: {', '.join(NAMES)}")
    before = os.getloadavg()[0]
    tables: list[Table] = []
    for name in names or NAMES:
        tables.append(import_module(f"benchmarks.{name}").measure())
        print(tables[-1].markdown())
    if len(tables) == len(NAMES):
        write(tables, (before, os.getloadavg()[0]))


main(sys.argv[1:])
