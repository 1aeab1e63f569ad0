"""Writing models: the compiled folder, or the format the weights came in."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from ..diagnostics import Diagnostic, DiagnosticError
from ..diagnostics import codes as C
from .load import CONFIG, IDENTITY, LOCK, QUANTIZED, Origin, state_tensors
from .safetensors_io import SHARD_BYTES, save_weights, write_text

if TYPE_CHECKING:
    from ..lower.model import CompiledModel

COMPANIONS = (
    "generation_config.json", "preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json", "tokenizer.json",
    "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "tokenizer.model", "vocab.json", "merges.txt",
    "chat_template.json", "chat_template.jinja",
)  # fmt: skip
"""Files of a checkpoint folder that are neither configuration nor weights; they go along."""


def save_model(model: CompiledModel, folder: Path, format: str = "vlmgraph", max_shard_bytes: int = SHARD_BYTES) -> Path:
    """Write `format` "vlmgraph" (spec, graph, source, report, weights) or "transformers" (config.json and safetensors).

    Of a quantised model the first holds codes and scales, with quantization.json beside them and without source; the second is refused.
    The second needs a model that was loaded from that format. Each file gets its name when it is complete. Raises DiagnosticError.
    """
    if format == "transformers" and model.quantization is not None:
        text = f"{model.graph.name} is quantised, and a checkpoint of transformers holds the weights that it was made of"
        raise DiagnosticError(Diagnostic(C.CANNOT_SAVE, text, fix='save it with format="vlmgraph", or load it without quantize'))
    if format == "transformers":
        return _transformers(model, folder, max_shard_bytes)
    if format == "vlmgraph":
        return _compiled(model, folder, max_shard_bytes)
    raise DiagnosticError(Diagnostic(C.CANNOT_SAVE, f"there is no format {format!r}", notes=("formats: vlmgraph, transformers",)))


def _transformers(model: CompiledModel, folder: Path, max_shard_bytes: int) -> Path:
    origin = getattr(model, "origin", None)
    if not isinstance(origin, Origin):
        text = f"{model.graph.name} was not loaded from a transformers checkpoint, so there is no configuration to write with its weights"
        raise DiagnosticError(Diagnostic(C.CANNOT_SAVE, text, fix='save it with format="vlmgraph"'))
    try:
        tensors = origin.layout.save(dict(state_tensors(model)), origin.account.dialect, origin.account.keys)
    except KeyError as error:
        raise DiagnosticError(Diagnostic(C.CANNOT_SAVE, str(error.args[0]))) from error
    folder.mkdir(parents=True, exist_ok=True)
    save_weights(dict(sorted(tensors.items())), folder, max_shard_bytes)
    write_text(folder / CONFIG, origin.config)
    _companions(origin, folder)
    return folder


def _companions(origin: Origin, folder: Path) -> None:
    for name in COMPANIONS:
        if (origin.folder / name).is_file() and origin.folder.resolve() != folder.resolve():
            shutil.copyfile(origin.folder / name, folder / name)


def _compiled(model: CompiledModel, folder: Path, max_shard_bytes: int) -> Path:
    import json

    from .. import codegen
    from ..ir.text import print_graph
    from ..report.html import page
    from ..report.measure import report
    from .lock import lock_text

    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / LOCK, lock_text(model.spec, model.graph))
    write_text(folder / "graph.txt", print_graph(model.graph))
    measured = report(model.graph, str(model.dtype).removeprefix("torch."), processor=model.spec.data.get("processor"))
    write_text(folder / "report.json", json.dumps(measured.json(), indent=2) + "\n")
    summary = str(model.spec.data.get("model", {}).get("summary", ""))
    write_text(folder / "report.html", page(model.graph, measured, summary))
    if model.quantization is None:
        (folder / QUANTIZED).unlink(missing_ok=True)
    else:
        made = model.quantization.json(str(model.dtype).removeprefix("torch."))
        write_text(folder / QUANTIZED, json.dumps(made, indent=1) + "\n")
    if model.device.type != "meta":
        save_weights(IDENTITY.save(dict(state_tensors(model))), folder, max_shard_bytes)
    if isinstance(origin := getattr(model, "origin", None), Origin):
        _companions(origin, folder)  # the processor reads them there too
    if model.quantization is not None:  # source is of the spec's own modules
        (folder / "model.py").unlink(missing_ok=True)
        return folder
    # last: where a part has no source that stands alone, everything else is written before that is said
    write_text(folder / "model.py", codegen.source(model))
    return folder
