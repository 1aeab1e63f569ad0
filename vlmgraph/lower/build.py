"""Graph → modules: every component built on the meta device, ties made, then storage and initial values."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ..components.base import Component
from ..diagnostics import Diagnostic, DiagnosticError, Label
from ..diagnostics import codes as C
from ..ir.graph import Graph
from .device import usable


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
    """Make the left parameter of every tie the right one; of a tie of parts each on the left its counterpart on the right."""
    for left, right in graph.ties:
        for name, other in tie_pairs(root, left, right, graph.labels.get(f"tie:{left}")):
            owner_path, _, leaf = name.rpartition(".")
            source, target = root.get_parameter(other), root.get_submodule(owner_path)
            if getattr(target, leaf).shape != source.shape:
                text = f"{name} is {tuple(getattr(target, leaf).shape)}, {other} is {tuple(source.shape)}"
                raise DiagnosticError(Diagnostic(C.TIE_SHAPES, text, graph.labels.get(f"tie:{left}")))
            setattr(target, leaf, source)


def tie_pairs(root: nn.Module, left: str, right: str, label: Label | None = None) -> list[tuple[str, str]]:
    """Full names of the parameters a tie joins. Where both addresses mean several (`decoder.mlp = encoder.mlp`), those belong together
    whose names are the same but for the segments of the addresses. Raises DiagnosticError for an address that means none and for
    parts that differ."""
    found = {address: meant(root, address) for address in (left, right)}
    for address, names in found.items():
        if not names:
            raise DiagnosticError(Diagnostic(C.BAD_TIE, f"{address!r} means no parameter", label))
    if len(found[left]) == len(found[right]) == 1:
        return [(next(iter(found[left].values())), next(iter(found[right].values())))]
    odd = sorted(found[left].keys() ^ found[right].keys())
    if odd:
        have, lack = (left, right) if odd[0] in found[left] else (right, left)
        text = f"{have} = {len(found[have])} parameters and {lack} = {len(found[lack])} are no counterparts: {lack} has no {odd[0]!r}"
        raise DiagnosticError(Diagnostic(C.BAD_TIE, text, label))
    return [(name, found[right][rest]) for rest, name in found[left].items()]


def meant(root: nn.Module, address: str) -> dict[str, str]:
    """Full names of the parameters an address means, an exact name or segments in this order, by what is left of them without it."""
    names = [name for name, _ in root.named_parameters(remove_duplicate=False)]
    if address in names:
        return {"": address}
    head, *rest = address.split(".")
    found = ((name, remainder(rest, name.split(".")[1:])) for name in names if name.split(".")[0] == head)
    return {".".join(left): name for name, left in found if left is not None}


def remainder(wanted: list[str], segments: list[str]) -> list[str] | None:
    """The segments without `wanted`, which must occur among them in this order, else None."""
    rest, at = [], 0
    for segment in segments:
        if at < len(wanted) and segment == wanted[at]:
            at += 1
        else:
            rest.append(segment)
    return rest if at == len(wanted) else None


def allocate(root: nn.Module, device: str | torch.device, dtype: torch.dtype) -> None:
    """Storage on `device` and the initial values of every component's paper; buffers are rebuilt too. Raises DiagnosticError where the
    device is not there."""
    usable(device)
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
