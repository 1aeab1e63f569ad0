"""Entering a stage of a spec: what trains, what is frozen, which weights start as copies of others."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from ..diagnostics import Diagnostic, DiagnosticError
from ..diagnostics import codes as C
from ..ir.graph import Stage

if TYPE_CHECKING:
    from ..lower.model import CompiledModel


def begin(model: CompiledModel, name: str) -> list[str]:
    """Set `requires_grad` to what the stage trains, take its copies (`copy`, `init`), and return the names of what trains, in order.

    A tied parameter trains when one of its names is trained and none is frozen. A source of `init` that is no address of the model
    (a stage, a published checkpoint) is the caller's to load. The rule "mean" gives rows the mean of the source's rows.
    Raises DiagnosticError for an unknown stage and for copies that do not fit.
    """
    stage = find_stage(model, name)
    if model.quantization is not None:
        model.train()  # which is refused
    for target, copied in model.graph.copies.items():
        copy(model, target, copied.of)
    for target, source in stage.init.items():
        if isinstance(source, str) and addressed(model, source) and addressed(model, target):
            copy(model, target, source)
        elif isinstance(source, dict) and source.get("rule") == "mean":
            mean(model, target, source["from"])
    trained = {id(p) for address in stage.train for p in addressed(model, address).values()}
    trained -= {id(p) for address in (*stage.freeze, *model.graph.copies) for p in addressed(model, address).values()}
    for parameter in model.parameters():
        parameter.requires_grad_(id(parameter) in trained)
    return [name for name, parameter in model.named_parameters() if parameter.requires_grad]


def find_stage(model: CompiledModel, name: str) -> Stage:
    if name not in model.graph.stages:
        stages = ", ".join(model.graph.stages) or "none"
        raise DiagnosticError(Diagnostic(C.UNKNOWN_STAGE, f"{model.graph.name} has no stage {name!r}", notes=(f"stages: {stages}",)))
    return model.graph.stages[name]


def addressed(model: nn.Module, address: str) -> dict[str, nn.Parameter]:
    """Parameters under an address (`llm`, `llm.vision`, `all`) by their full names, tied ones under each of their names.

    The address starts with a component's id; its other segments occur in this order among those of the parameter's name.
    """
    parameters = dict(model.named_parameters(remove_duplicate=False))
    if address in ("all", "*"):
        return parameters
    wanted, head = address.split("."), component_length(model, address)
    return {name: p for name, p in parameters.items() if remainder(wanted, name.split("."), head) is not None}


def component_length(model: nn.Module, address: str) -> int:
    """How many segments of an address name its component: two in `visual.mlp`, a part of a block, and in `visual.mlp.fc1`."""
    ids = getattr(getattr(model, "graph", None), "components", ())
    return max((id.count(".") + 1 for id in ids if address == id or address.startswith(f"{id}.")), default=1)


def remainder(wanted: list[str], path: list[str], head: int = 1) -> list[str] | None:
    """What is left of a parameter's path without the segments of an address, of which the first `head` stand in front; None where the
    address does not mean it."""
    if path[:head] != wanted[:head]:
        return None
    rest: list[str] = []
    at = head
    for segment in path[head:]:
        if at < len(wanted) and segment == wanted[at]:
            at += 1
        else:
            rest.append(segment)
    return rest if at == len(wanted) else None


@torch.no_grad()
def copy(model: nn.Module, target: str, source: str) -> None:
    """Give every parameter under `target` the values of its counterpart under `source`: the one whose path is the same but for the
    segments of the two addresses. Raises DiagnosticError naming a parameter without a counterpart of its shape."""
    heads = {address: component_length(model, address) for address in (source, target)}
    sources = {".".join(remainder(source.split("."), n.split("."), heads[source]) or ()): p for n, p in addressed(model, source).items()}
    for name, parameter in addressed(model, target).items():
        key = ".".join(remainder(target.split("."), name.split("."), heads[target]) or ())
        found = sources.get(key)
        if found is None or found.shape != parameter.shape:
            why = f"{source} has no {key!r}" if found is None else f"it is {tuple(parameter.shape)}, its source {tuple(found.shape)}"
            raise DiagnosticError(Diagnostic(C.STAGE_INIT, f"{name} cannot start as a copy from {source}: {why}"))
        parameter.copy_(found)


@torch.no_grad()
def mean(model: nn.Module, target: str, source: str) -> None:
    """Give every row of the table at `target` the mean of the rows at `source`, as new words of a vocabulary start. Raises DiagnosticError
    where these are no two tables of one width."""
    tables = [[p for p in addressed(model, address).values() if p.dim() == 2] for address in (target, source)]
    if [len(found) for found in tables] != [1, 1] or tables[0][0].shape[1] != tables[1][0].shape[1]:
        shapes = [[tuple(p.shape) for p in found] for found in tables]
        text = f"{target} {shapes[0]} cannot start as the mean of the rows of {source} {shapes[1]}: that takes two tables of one width"
        raise DiagnosticError(Diagnostic(C.STAGE_INIT, text))
    tables[0][0].copy_(tables[1][0].mean(0).expand_as(tables[0][0]))
