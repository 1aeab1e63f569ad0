"""manifest.json: what is in a folder of graphs, and how well each of them agrees with eager."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ...ir.graph import Graph
from .capture import Captured
from .pieces import WRITTEN, Decoding, Piece
from .samples import seen
from .verify import Row
from .widen import ENOUGH

if TYPE_CHECKING:
    from ...lower.model import CompiledModel

FORMAT = 1
PADDING = {"input_ids": "attention_mask", "decoder_input_ids": "decoder_attention_mask"}
"""The mask that grows with ids."""
IMAGES = ("image", "video", "patches", "map", "grid")


def manifest(
    model: CompiledModel, graphs: dict[str, Any], programs: dict[str, Piece | Decoding], refused: dict[str, str], opset: int
) -> dict[str, Any]:
    """Plain values, ready to be written."""
    return {
        "format": FORMAT,
        "model": model.graph.name,
        "dtype": str(model.dtype).removeprefix("torch."),
        "opset": opset,
        "dims": roles(model.graph),
        "tokens": dict(model.graph.tokens),
        "processor": "spec.lock.toml",
        "graphs": graphs,
        "programs": {name: steps(made, model.graph) for name, made in programs.items()},
        "refused": refused,
    }


def described(found: Captured, rows: list[Row]) -> dict[str, Any]:
    """Inputs and outputs with their dims, dtypes and the values they are; caches apart; the errors measured, `rows`, and the sizes they
    were measured at: three of each dim beside 0 and 1, or the reason for `fewer`; which blocks were captured `layer_by_layer`."""
    run = found.run
    values = [*run.piece.inputs, *(None for s in run.slots if run.piece.past)]
    inputs = [shown(v) | ({"value": name} if name else {"cache": True}) for v, name in zip(found.model.graph.inputs, values)]
    results = [*run.piece.outputs, *(None for _ in run.slots)]
    outputs = [shown(v) | ({"value": name} if name else {"cache": True}) for v, name in zip(found.model.graph.outputs, results)]
    slots = [{"past": run.slot_name(s, "past_key_values"), "present": run.slot_name(s, "present"), "grows": s.grows} for s in run.slots]
    return {
        "file": f"{found.name}.onnx",
        "inputs": inputs,
        "outputs": outputs,
        **({"cache": slots, "takes_past": run.piece.past, "logits": "last position"} if run.piece.cache else {}),
        "sizes": (sizes := sizes_of(rows)),
        "fewer": {dim: why for dim, taken in sizes.items() if len({*taken} - {0, 1}) < ENOUGH and (why := reason(dim, run.fewer))},
        "errors": [r.json() for r in rows],
        **({"layer_by_layer": found.layers} if found.layers else {}),
    }


def reason(dim: str, fewer: Mapping[str, str]) -> str:
    """Why a dim has less than three sizes: its own reason, or that it follows from dims which have."""
    if dim in fewer or dim.isidentifier():
        return fewer.get(dim, "")
    names = dict.fromkeys(re.findall(r"[A-Za-z_]\w*", dim))
    return f"it follows from {', '.join(names)}, of which the sizes that ran give no other" + "".join(
        f"; {name}: {fewer[name]}" for name in names if name in fewer
    )


def sizes_of(rows: list[Row]) -> dict[str, list[int]]:
    """The sizes of every dim that the errors were measured at."""
    found: dict[str, set[int]] = {}
    for row in rows:
        for dim, size in row.sizes.items():
            found.setdefault(dim, set()).add(size)
    return {dim: sorted(several) for dim, several in found.items()}


def shown(value: Any) -> dict[str, Any]:
    dims = [d if isinstance(d, int) else str(d.value) for d in value.shape or ()]
    return {"name": value.name, "dtype": str(value.dtype.name).lower(), "dims": dims}


def steps(made: Piece | Decoding, graph: Graph) -> dict[str, Any]:
    """The graphs that a program runs, in order, with the values they read and give.

    Of one that decodes: those of the prompt and of a step, and of a `text` without media where a step cannot begin it; the ids that are
    `written`; the mask of their padding, which grows with them; masks that say what each token has `seen`, of which a step takes that of
    the last token. All other values stay, or are carried under their own names.
    """
    if isinstance(made, Piece):
        return {"graphs": [used(made)], "outputs": {name: value for value, name in made.outputs.items()}}
    ids = next(name for name in WRITTEN if name in graph.inputs)
    reads = {v for p in made.step for v in p.inputs if v in graph.inputs}
    return {
        **phases(made),
        **({"text": phases(made.text)} if made.text else {}),
        "logits": next((v for p in made.step for v, name in p.outputs.items() if name == "logits"), None),
        "outputs": {name: value for value, name in made.step[-1].outputs.items()},
        "written": ids,
        "padding": PADDING[ids] if PADDING[ids] in graph.inputs else None,
        "seen": [name for name in sorted(reads) if graph.inputs[name].kind == "mask" and seen(graph.inputs[name], graph.inputs[ids])],
    }


def phases(made: Decoding) -> dict[str, Any]:
    return {"prompt": [used(p) for p in made.prompt], "step": [used(p) for p in made.step]}


def used(piece: Piece) -> dict[str, Any]:
    """Name of an input of the file → the value that enters; name of an output → the value it is."""
    return {
        "graph": piece.name,
        "reads": {name: v for v, name in piece.inputs.items()},
        "gives": {name: v for v, name in piece.outputs.items()},
    }


def roles(graph: Graph) -> dict[str, str]:
    """What the named dims of the inputs are."""
    found: dict[str, str] = {}

    def said(dim: Any, role: str) -> None:
        if dim.constant is None:
            found.setdefault(str(dim), role)

    for type_ in graph.inputs.values():
        if type_.kind == "ids" and type_.dims:
            said(type_.dims[0], "batch")
            for dim in type_.dims[1:]:
                said(dim, "sequence")
    for type_ in graph.inputs.values():
        if type_.kind in IMAGES:
            height = 2 if type_.kind in ("image", "video") else 0
            lead = type_.dims[: len(type_.dims) - 3] if height else type_.dims[:1]
            for dim in type_.dims[len(type_.dims) - height :] if height else ():
                said(dim, "image size")
            for dim in lead:
                said(dim, "patches" if type_.kind == "patches" else "image count")
    for type_ in graph.inputs.values():
        for dim in type_.dims:
            said(dim, "size")
    return found | {"past": "past tokens", "total": "past and new tokens", "media": "tokens of media"}
