"""`vlmgraph compile specs/cogvlm.toml` as a whole process with all its outputs, beside importing torch and transformers' LLaVA."""

from __future__ import annotations

import tempfile

from .common import PYTHON, VLMGRAPH, interleaved, write


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        result = interleaved(
            {
                "vlmgraph compile specs/cogvlm.toml": [*VLMGRAPH, "compile", "specs/cogvlm.toml", "-o", f"{folder}/cogvlm"],
                "import torch and transformers' Llava class": [
                    PYTHON, "-c", "import torch; from transformers import LlavaForConditionalGeneration",
                ],
                "import torch": [PYTHON, "-c", "import torch"],
            }
        )  # fmt: skip
    own = next(iter(result.values()))["seconds"]
    rows = [[n, f"{r['seconds']:.2f}", f"{r['seconds'] / own:.2f}", f"{r['peak_mb']:.0f}"] for n, r in result.items()]
    write("compile", "Compiling a spec to a folder, whole process", result, ["process", "seconds", "times ours", "peak MB"], rows)


if __name__ == "__main__":
    main()
