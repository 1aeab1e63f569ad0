"""Every value of a merged spec with where it came from, one line a value."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .read import Spec


def resolved(spec: Spec) -> str:
    """`components.llm.layers = 2    # size tiny, cogvlm.toml:103`, in the spec's order."""
    rows = []
    for path, tree in spec.tree.walk():
        if not path or isinstance(path[-1], int) or tree.table:
            continue
        rows.append((f"{'.'.join(map(str, path))} = {json.dumps(tree.plain(), ensure_ascii=False)}", tree.origin.text))
    width = min(max((len(text) for text, _ in rows), default=0), 88)
    return "\n".join(f"{text:{width}}  # {origin}" for text, origin in rows)
