"""Graph → modules: every component built on the meta device, ties made, then storage and initial values."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ..components.base import Component
from ..diagnostics import Diagnostic, DiagnosticError
from ..diagnostics import codes as C
from ..ir.graph import Graph


def build_modules(graph: Graph, root: nn.Module) -> None:
    """Put the module of every component under `root` at the component's id, on the meta device."""
    with torch.device("meta"):
        for id, config in graph.components.items():
            place(root, id, build_one(graph, id, config))
    tie_parameters(graph, root)


def build_one(graph: Graph, id: str, config: Component) -> nn.Module:
    try:
        return config.build()
    except (TypeError, ValueError, AttributeError) as error:
        # the constructor is the component author's code; the spec line is the user's place
        label = graph.labels.get(f"component:{id}")
        raise DiagnosticError(Diagnostic(C.BUILD_FAILED, f"{id} ({config.kind}) cannot be built: {error}", label)) from error


def place(root: nn.Module, id: str, module: nn.Module) -> None:
    """Add `module` at a dotted path, with empty containers on the way."""
    *parents, name = id.split(".")
    for parent in parents:
        if not hasattr(root, parent):
            root.add_module(parent, nn.Module())
        root = root.get_submodule(parent)
    root.add_module(name, module)


def tie_parameters(graph: Graph, root: nn.Module) -> None:
    """Make the left parameter of every tie the right one."""
    for left, right in graph.ties:
        source = find_parameter(root, right)
        owner_path, _, name = find_path(root, left).rpartition(".")
        target = root.get_submodule(owner_path)
        if getattr(target, name).shape != source.shape:
            text = f"{left} is {tuple(getattr(target, name).shape)}, {right} is {tuple(source.shape)}"
            raise DiagnosticError(Diagnostic(C.TIE_SHAPES, text, graph.labels.get(f"tie:{left}")))
        setattr(target, name, source)


def find_path(root: nn.Module, address: str) -> str:
    """The full name of the one parameter an address means: exact, or the segments in this order."""
    names = [name for name, _ in root.named_parameters(remove_duplicate=False)]
    if address in names:
        return address
    head, *rest = address.split(".")
    found = [n for n in names if n.split(".")[0] == head and in_order(rest, n.split(".")[1:])]
    if len(found) != 1:
        raise DiagnosticError(
            Diagnostic(C.BAD_TIE, f"{address!r} means {len(found)} parameters" + (": " + ", ".join(found[:4]) if found else ""))
        )
    return found[0]


def find_parameter(root: nn.Module, address: str) -> nn.Parameter:
    return root.get_parameter(find_path(root, address))


def in_order(wanted: list[str], segments: list[str]) -> bool:
    """Whether `wanted` occurs among `segments` in this order."""
    rest = iter(segments)
    return all(w in rest for w in wanted)


def allocate(root: nn.Module, device: str | torch.device, dtype: torch.dtype) -> None:
    """Storage on `device` and the initial values of every component's paper; buffers are rebuilt too."""
    ties = tied(root)
    root.to_empty(device=device)
    restore(root, ties)
    for module in root.modules():
        own = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
        reset: Any = getattr(module, "reset_parameters", None)
        if callable(reset):
            reset()
        elif own and not isinstance(module, (nn.ParameterDict, nn.ParameterList)):
            raise AssertionError(f"{type(module).__name__} has parameters or buffers but no reset_parameters")
    for module in root.modules():
        init: Any = getattr(module, "init_weights", None)
        if callable(init):
            init()
    for parameter in root.parameters():
        if parameter.is_floating_point():
            parameter.data = parameter.data.to(dtype)


def tied(root: nn.Module) -> list[list[str]]:
    groups: dict[int, list[str]] = {}
    for name, parameter in root.named_parameters(remove_duplicate=False):
        groups.setdefault(id(parameter), []).append(name)
    return [names for names in groups.values() if len(names) > 1]


def restore(root: nn.Module, groups: list[list[str]]) -> None:
    """`to_empty` gives every place its own storage; make tied ones one again."""
    for first, *others in groups:
        parameter = root.get_parameter(first)
        for name in others:
            owner, _, leaf = name.rpartition(".")
            setattr(root.get_submodule(owner), leaf, parameter)
