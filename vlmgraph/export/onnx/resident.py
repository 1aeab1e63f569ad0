"""Weights that are in memory only while somebody needs them: a block while it runs, and none at all while a graph is captured."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from ...ir.graph import CALL
from ...lower.fast.blocks import regions
from ...lower.model import CompiledModel
from ...lower.program import module_path
from ...weights.stream import SOURCE

Place = tuple[nn.Module, str]
"""A module and the name of one of its parameters."""


def streamed(model: nn.Module) -> bool:
    """Whether parameters have no storage but say where their numbers are."""
    return any(p.is_meta and hasattr(p, SOURCE) for p in model.parameters())


class Streaming(CompiledModel):
    """A model that runs on the processor, though its weights are elsewhere."""

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")


@contextlib.contextmanager
def resident(model: CompiledModel) -> Iterator[None]:
    """Run a streamed model: a repeated block has its weights while it runs, and so has what else a component holds."""
    if not streamed(model):
        yield
        return
    blocks = dict(regions(model))
    inside = {id(part): block for block in blocks.values() for part in block.modules()}
    called = [n for p in model.programs.values() for n in p.graph().nodes if n.op == CALL]
    roots = {path: model.get_submodule(path) for path in dict.fromkeys(module_path(n) for n in called)}
    handles: list[Any] = []
    kind = type(model)
    model.__class__ = Streaming
    try:
        for root in (*roots.values(), *blocks.values()):
            mine = [(part, name) for part in root.modules() for name in part._parameters if inside.get(id(part), root) is root]
            unit = Unit(mine)
            handles.append(root.register_forward_pre_hook(unit.enter))
            handles.append(root.register_forward_hook(unit.leave, always_call=True))
        yield
    finally:
        model.__class__ = kind
        for handle in handles:
            handle.remove()


@contextlib.contextmanager
def present(module: nn.Module) -> Iterator[None]:
    """The weights of a module, for somebody who runs it past its hooks."""
    unit = Unit([(part, name) for part in module.modules() for name in part._parameters])
    unit.enter()
    try:
        yield
    finally:
        unit.leave()


class Unit:
    """Parameters that come and go together."""

    def __init__(self, places: list[Place]) -> None:
        self.places, self.depth = places, 0
        self.kept: list[tuple[Place, nn.Parameter]] = []

    def enter(self, *_: Any) -> None:
        self.depth += 1
        if self.depth > 1:
            return
        read: dict[int, nn.Parameter] = {}
        for owner, name in self.places:
            old = owner._parameters[name]
            if old is None or not old.is_meta:
                continue
            if id(old) not in read:
                read[id(old)] = nn.Parameter(getattr(old, SOURCE)(), old.requires_grad)
            owner._parameters[name] = read[id(old)]
            self.kept.append(((owner, name), old))

    def leave(self, *_: Any) -> None:
        self.depth -= 1
        if not self.depth:
            for (owner, name), old in self.kept:
                owner._parameters[name] = old
            self.kept = []


@contextlib.contextmanager
def outlines(module: nn.Module) -> Iterator[None]:
    """Parameters without storage as such of the processor's, whose memory nobody touches: what is traced computes nothing."""
    kept: list[tuple[Place, nn.Parameter]] = []
    made: dict[int, nn.Parameter] = {}
    for owner in module.modules():
        for name, old in owner._parameters.items():
            if old is not None and old.is_meta:
                if id(old) not in made:
                    made[id(old)] = nn.Parameter(torch.empty(old.shape, dtype=old.dtype), old.requires_grad)
                owner._parameters[name] = made[id(old)]
                kept.append(((owner, name), old))
    try:
        yield
    finally:
        for (owner, name), old in kept:
            owner._parameters[name] = old
