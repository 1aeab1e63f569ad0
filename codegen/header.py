"""The docstring of a generated file: what it is, from where, how to load weights, how to write it again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vlmgraph.lower.model import CompiledModel


def papers(value: object) -> list[str]:
    return [v for v in (value if isinstance(value, list) else [value]) if isinstance(v, str) and v]


def module_doc(model: CompiledModel, left_out: Sequence[str], unused: Sequence[str]) -> str:
    spec = model.spec
    told = spec.data.get("model", {})
    about = told if isinstance(told, dict) else {}
    lines = [f"{model.graph.name}, written by vlmgraph as plain PyTorch."]
    if about.get("summary") or papers(about.get("paper")):
        lines += [""]
    if about.get("summary"):
        lines += [str(about["summary"])]
    if papers(about.get("paper")):
        lines += ["Source: " + ", ".join(f"arXiv {p}" if p[:4].isdigit() else p for p in papers(about.get("paper"))) + "."]
    lines += [
        "",
        "Parameters hold nothing until weights are loaded:",
        "",
        "    from safetensors.torch import load_file",
        "",
        "    model = Model().eval()",
        '    model.load_state_dict(load_file("model.safetensors"))',
        "",
        "Written again, to the byte, by: vlmgraph compile spec.lock.toml",
        "",
        "Shapes stand behind what they describe: [B, T, 4096] is B samples of T tokens. A letter is the same size wherever it stands.",
    ]
    lines += legend(model)
    if left_out:
        lines += ["", *left_out]
    if unused:
        lines += ["", *unused]
    return "\n".join(lines)


WORDS = {
    "B": "samples", "T": "text tokens, placeholders of images among them", "N": "images", "C": "texts", "M": "media of a sample",
    "F": "frames of a video", "P": "patches of all images", "Q": "patches of all videos", "S": "tokens of the decoder",
}  # fmt: skip


def legend(model: CompiledModel) -> list[str]:
    """The inputs with their declared types."""
    return ["", "Inputs:"] + [f"    {name}: {type_!s}" for name, type_ in model.graph.inputs.items()]
