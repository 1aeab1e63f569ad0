"""`python -m benchmarks [check build compile scaling]`"""

from __future__ import annotations

import sys
from importlib import import_module

NAMES = ("check", "build", "compile", "scaling")

for name in sys.argv[1:] or NAMES:
    if name not in NAMES:
        sys.exit(f"there is no benchmark {name!r}; benchmarks: {', '.join(NAMES)}")
    import_module(f"benchmarks.{name}").main()
