"""`vlmgraph check specs/cogvlm.toml` as a whole process, beside importing transformers and starting Python."""

from __future__ import annotations

from .common import PYTHON, VLMGRAPH, Table, interleaved

COMMANDS = {
    "vlmgraph check specs/cogvlm.toml": [*VLMGRAPH, "check", "specs/cogvlm.toml"],
    'python -c "import transformers"': [PYTHON, "-c", "import transformers"],
    'python -c "import torch"': [PYTHON, "-c", "import torch"],
    'python -c "import pydantic; pydantic.BaseModel"': [PYTHON, "-c", "import pydantic; pydantic.BaseModel"],
    'python -c "pass"': [PYTHON, "-c", "pass"],
}


def measure() -> Table:
    result = interleaved(COMMANDS)
    own = result["vlmgraph check specs/cogvlm.toml"]
    rows = [
        [f"`{n}`", f"{r['seconds']:.3f}", f"{r['cpu_seconds']:.3f}", f"{r['seconds'] / own['seconds']:.2f}", f"{r['peak_mb']:.0f}"]
        for n, r in result.items()
    ]
    goals = {
        "checking takes at most 0.3 s": own["seconds"] <= 0.3,
        "less than half of importing transformers": own["seconds"] < 0.5 * result['python -c "import transformers"']["seconds"],
    }
    header = ["process", "seconds", "of processor", "times ours", "peak MB"]
    return Table("check", "Checking a spec, whole process", header, rows, result, goals)
