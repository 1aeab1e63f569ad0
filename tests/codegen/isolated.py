"""Run with `python -I`: executes generated files where vlmgraph cannot be imported. Prints one line of JSON a model."""

from __future__ import annotations

import json
import sys
from pathlib import Path


class Blocker:
    """Imports of anything but torch (and what torch itself needs) fail."""

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("vlmgraph", "vlmgraph_abstractor"):
            raise ImportError(f"{name} is out of reach here")
        return None


sys.meta_path.insert(0, Blocker())

import torch  # noqa: E402


def executed(path: Path) -> dict:
    namespace: dict = {"__name__": "generated"}
    exec(compile(path.read_text(encoding="utf-8"), str(path), "exec"), namespace)
    return namespace


def compared(folder: Path) -> list[str]:
    """What differs between the file's model and what is recorded beside it."""
    saved = torch.load(folder / "saved.pt", weights_only=True)
    state, found = saved["state"], []
    with torch.device("meta") if saved["meta"] else torch.device("cpu"):
        model = executed(folder / "model.py")["Model"]().eval()
    own = model.state_dict()
    if list(own) != list(state):
        found.append(f"keys: {[(a, b) for a, b in zip(own, state) if a != b][:3]}, {len(own)} and {len(state)}")
    found += [f"{k}: {tuple(own[k].shape)}" for k in own if k in state and tuple(own[k].shape) != tuple(state[k].shape)]
    if saved["meta"] or found:
        return found
    model.load_state_dict(state, strict=True)
    with torch.no_grad():
        for number, (program, inputs, wanted) in enumerate(saved["calls"]):
            got = getattr(model, program)(**inputs)
            if list(got) != list(wanted):
                found.append(f"call {number} of {program} gives {list(got)}, not {list(wanted)}")
            found += [f"call {number} of {program}: {k} differs" for k in wanted if k in got and not torch.equal(got[k], wanted[k])]
    return found


if __name__ == "__main__":
    for given in sys.argv[1:]:
        try:
            result = compared(Path(given))
        except Exception as error:
            result = [f"{type(error).__name__}: {error}"]
        assert "vlmgraph" not in sys.modules
        print(json.dumps(result))
