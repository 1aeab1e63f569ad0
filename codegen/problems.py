"""What keeps a model from being written as source, as a diagnostic that names the component."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vlmgraph.diagnostics import Diagnostic, DiagnosticError
from vlmgraph.diagnostics import codes as C

from .abstract import Unsupported
from .leaves import Unwritable
from .printer import Unprintable
from .source import Foreign, NoSource
from .trees import NotLiteral
from .worlds import TooManyInputs

if TYPE_CHECKING:
    from vlmgraph.lower.model import CompiledModel

PROBLEMS = (Foreign, NoSource, Unwritable, Unprintable, Unsupported, TooManyInputs, NotLiteral)
PLACE = "model.py may import torch and the standard library alone"


def diagnosed(error: Exception, model: CompiledModel) -> DiagnosticError:
    """The finding for one of `PROBLEMS`, at the component whose class it is about."""
    module = error.module if isinstance(error, Foreign) else ""
    id = component(model, module, getattr(error, "path", ""))
    label = model.graph.labels.get(f"component:{id}")
    who = f"{id} ({model.graph.components[id].kind})" if id else model.graph.name
    text = f"{who} has no source that stands alone: {told(error)}"
    fix = "write the part with torch and the standard library, or leave model.py out: all other files are written"
    return DiagnosticError(Diagnostic(C.CANNOT_WRITE_SOURCE, text, label, notes=(PLACE,), fix=fix))


def told(error: Exception) -> str:
    if isinstance(error, NoSource):
        return f"the source of {error} cannot be read"
    if isinstance(error, Unprintable):
        return f"its source has a construct that is not written out: {error}"
    return str(error)


def component(model: CompiledModel, module: str, path: str) -> str:
    """The id of the component at a path, or of the first one with a class of a source module."""
    for id in model.graph.components:
        if path and (path == id or path.startswith(f"{id}.")):
            return id
    for id in model.graph.components:
        part = model.get_submodule(id)
        if module and any(type(m).__module__ == module for m in part.modules()):
            return id
    return ""
