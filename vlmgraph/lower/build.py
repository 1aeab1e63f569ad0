"""Graph → modules: every component built on the meta device, ties made, then storage and initial values."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ..components.base import Component
from ..diagnostics import Diagnostic, DiagnosticError
from ..diagnostics import codes as C
from ..ir.graph import Graph


class Unfilled(TorchFunctionMode):
    """First values are not drawn where there is no storage for them: for its meta tensors torch would import its decompositions,
    which takes as long as torch itself. `allocate` draws them."""

    FILLS = frozenset(
        {getattr(nn.init, name) for name in dir(nn.init) if name.endswith("_") and not name.startswith("_")}
        | {Tensor.uniform_, Tensor.normal_, Tensor.zero_, Tensor.fill_}
    )

    def __torch_function__(self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
        given = kwargs or {}
        if function in self.FILLS:
            target = args[0] if args else given.get("tensor")
            if isinstance(target, Tensor) and target.is_meta:
                return target
        return function(*args, **given)


def build_modules(graph: Graph, root: nn.Module) -> None:
    """Put the module of every component under `root` at the component's id, on the meta device."""
    with torch.device("meta"), Unfilled():
        for id, config in graph.components.items():
            place(root, id, build_one(graph, id, config))
    tie_parameters(graph, root)


def build_one(graph: Graph, id: str, config: Component) -> nn.Module:
    """A component's module. Raises DiagnosticError at the component's place in the spec, whatever its author's code raises."""
    label = graph.labels.get(f"component:{id}")
    try:
        module = config.build()
    except Exception as error:
        text = f"{id} ({config.kind}) cannot be built: {type(error).__name__}: {error}"
        raise DiagnosticError(Diagnostic(C.BUILD_FAILED, text, label)) from error
    for path, part in module.named_modules():
        if has_own(part) and not callable(getattr(part, "reset_parameters", None)):
            text = f"{id} ({config.kind}) would hold uninitialised memory: {type(part).__name__} has no reset_parameters"
            fix = "give the module a reset_parameters() that fills its own parameters and buffers"
            raise DiagnosticError(Diagnostic(C.BUILD_FAILED, text, label, notes=(f"at {path or 'its root'}",), fix=fix))
    return module


def has_own(module: nn.Module) -> bool:
    """Whether a module holds parameters or buffers that nobody but itself can fill."""
    if isinstance(module, (nn.ParameterDict, nn.ParameterList)):
        return False  # their owner fills them
    return bool([*module.parameters(recurse=False), *module.buffers(recurse=False)])


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
        reset: Any = getattr(module, "reset_parameters", None)
        if callable(reset):
            reset()
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
