"""`vlmgraph compile specs/cogvlm.toml` as a whole process with all its outputs, beside importing torch and transformers' LLaVA."""

from __future__ import annotations

import tempfile

from .common import PYTHON, VLMGRAPH, Table, interleaved

PEER = "import torch; from transformers import LlavaForConditionalGeneration"


def measure(runs: int = 5) -> Table:
    with tempfile.TemporaryDirectory() as folder:
        result = interleaved(
            {
                "vlmgraph compile specs/cogvlm.toml": [*VLMGRAPH, "compile", "specs/cogvlm.toml", "-o", f"{folder}/cogvlm"],
                f'python -c "{PEER}"': [PYTHON, "-c", PEER],
                'python -c "import torch"': [PYTHON, "-c", "import torch"],
            },
            runs,
        )
    own, peer = result["vlmgraph compile specs/cogvlm.toml"], result[f'python -c "{PEER}"']
    rows = [
        [f"`{n}`", f"{r['seconds']:.2f}", f"{r['cpu_seconds']:.2f}", f"{r['seconds'] / own['seconds']:.2f}", f"{r['peak_mb']:.0f}"]
        for n, r in result.items()
    ]
    goals = {"less time than importing torch and transformers' LLaVA class": own["seconds"] < peer["seconds"]}
    header = ["process", "seconds", "of processor", "times ours", "peak MB"]
    return Table("compile", "Compiling a spec to a folder, whole process", header, rows, result, goals, runs=runs)
