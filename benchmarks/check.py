"""`vlmgraph check specs/cogvlm.toml` as a whole process, beside importing transformers and starting Python."""

from __future__ import annotations

from .common import PYTHON, VLMGRAPH, interleaved, write

COMMANDS = {
    "vlmgraph check specs/cogvlm.toml": [*VLMGRAPH, "check", "specs/cogvlm.toml"],
    'python -c "import transformers"': [PYTHON, "-c", "import transformers"],
    'python -c "import torch"': [PYTHON, "-c", "import torch"],
    'python -c "pass"': [PYTHON, "-c", "pass"],
}


def main() -> None:
    result = interleaved(COMMANDS)
    own = next(iter(result.values()))["seconds"]
    rows = [[f"`{n}`", f"{r['seconds']:.3f}", f"{r['seconds'] / own:.2f}", f"{r['peak_mb']:.0f}"] for n, r in result.items()]
    write("check", "Checking a spec, whole process", result, ["process", "seconds", "times ours", "peak MB"], rows)


if __name__ == "__main__":
    main()
