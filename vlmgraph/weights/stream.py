"""Models whose weights stay in their files: parameters without storage that are read one by one, when somebody asks for their numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ..diagnostics import Collector, Diagnostic, DiagnosticError
from ..diagnostics import codes as C
from .import_config import import_config
from .layouts import read_layout
from .load import CONFIG, IDENTITY, LOCK, Origin, _rebuild_buffers, prevailing, state_tensors, tied_names
from .rules import Account, Layout
from .safetensors_io import LazyTensor, open_weights

if TYPE_CHECKING:
    from ..lower.model import CompiledModel

SOURCE = "vlmgraph_source"
"""The attribute of a parameter without storage: a function that reads its numbers."""


@dataclass(frozen=True)
class Outline:
    """A tensor of a file without its numbers."""

    tensor: LazyTensor

    @property
    def file(self) -> str:
        return self.tensor.file

    @property
    def shape(self) -> tuple[int, ...]:
        return self.tensor.shape

    def load(self) -> Tensor:
        return torch.empty(self.shape, dtype=self.tensor.dtype, device="meta")

    read = load


@dataclass(frozen=True)
class Copied(Outline):
    """A tensor of a file in memory of its own: pages that are mapped would stay."""

    def load(self) -> Tensor:
        return self.tensor.read()

    read = load


class Unread(TorchFunctionMode):
    """Tensors without numbers count as equal; `Streamed.read` compares those that have to be."""

    def __torch_function__(self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
        return True if function is torch.equal else function(*args, **(kwargs or {}))


class Streamed:
    """The tensors of a model by name, read from a checkpoint with all that its layout renames and moves.

    Raises DiagnosticError, when it is made, for what does not account for every key and every tensor; the numbers are not looked at.
    """

    def __init__(self, tensors: Mapping[str, LazyTensor], layout: Layout, names: Mapping[str, Tensor], dtype: torch.dtype) -> None:
        self.tensors, self.dtype = tensors, dtype
        self.shapes = {name: tuple(t.shape) for name, t in names.items()}
        self.ties = {name: group for group in tied_names(names) for name in group}
        found = Collector()
        with Unread():
            _, self.account = layout.load({k: Outline(t) for k, t in tensors.items()}, self.shapes, found, list(self.ties.values()))
        found.stop()
        self.layout = replace(layout, dialects=(layout.dialect(self.account.dialect),))

    def has(self, name: str) -> bool:
        return any(other in self.account.sources for other in self.ties.get(name, [name]))

    def read(self, name: str) -> Tensor:
        """Raises DiagnosticError where a tensor has several sources that differ."""
        every = [other for other in self.ties.get(name, [name]) if other in self.account.sources]
        keys = dict.fromkeys(key for other in every for key in self.account.sources[other])
        shapes = {t: self.shapes[t] for t, sources in self.account.sources.items() if not keys.keys().isdisjoint(sources)}
        found = Collector()
        state, _ = self.layout.load({key: Copied(self.tensors[key]) for key in keys}, shapes, found, [every] if len(every) > 1 else [])
        found.stop()
        value = state[every[0]]
        return value.to(self.dtype) if value.is_floating_point() else value


def stream_model(path: str | Path, dtype: Any = None) -> CompiledModel:
    """A model of a compiled folder or a checkpoint folder, on the meta device: every parameter says where its numbers are.

    Raises DiagnosticError as `load_model` does, and for a folder that holds no weights.
    """
    from ..api import compile

    folder = Path(path)
    kind = getattr(torch, dtype) if isinstance(dtype, str) else dtype
    if (folder / LOCK).is_file():
        tensors = open_weights(folder)
        model, layout = compile(folder / LOCK, device="meta", dtype=kind or prevailing(tensors)), IDENTITY
    elif (folder / CONFIG).is_file():
        imported, tensors = import_config(folder / CONFIG), open_weights(folder)
        layout = read_layout(imported.layout, imported.values)
        model = compile(imported.spec, device="meta", dtype=kind or prevailing(tensors))
    else:
        text = f"{folder} is no model: it has neither {LOCK} (a compiled folder) nor {CONFIG} (a checkpoint)"
        raise DiagnosticError(Diagnostic(C.NO_CHECKPOINT, text, fix="give the folder that holds these files"))
    names = dict(state_tensors(model))
    streamed = Streamed(tensors, layout, names, kind or prevailing(tensors))
    attach(model, streamed)
    if (folder / CONFIG).is_file() and not (folder / LOCK).is_file():
        account: Account = streamed.account
        model.origin = Origin(folder, layout, account, (folder / CONFIG).read_text(encoding="utf-8"))  # type: ignore[assignment]
    return model


def attach(model: nn.Module, streamed: Streamed) -> None:
    """Say of every parameter of a meta model where its numbers are; buffers are small and filled."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    _rebuild_buffers(model)
    for name, parameter in parameters.items():
        owner, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(owner), leaf, parameter)
        setattr(parameter, SOURCE, partial(streamed.read, name))
    for name, buffer in state_tensors(model):
        if name not in parameters:
            owner, _, leaf = name.rpartition(".")
            value = streamed.read(name) if streamed.has(name) else buffer
            setattr(model.get_submodule(owner), leaf, value.to(streamed.dtype) if value.is_floating_point() else value)
