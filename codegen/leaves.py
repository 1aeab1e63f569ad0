"""Modules of torch.nn → the constructor calls that make them, with the numbers in them as leaves that may become parameters."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import nn

from .trees import literal

NAMES = {
    "in_features": "d_in", "out_features": "d_out", "in_channels": "channels_in", "out_channels": "channels_out",
    "num_embeddings": "count", "embedding_dim": "width", "normalized_shape": "width", "num_features": "channels",
    "num_channels": "channels",
}  # fmt: skip
"""What a parameter is called that torch has its own word for."""


class Unwritable(Exception):
    """A module that cannot be written as source: what it is, and why."""


@dataclass(frozen=True)
class Leaf:
    """A number in a constructor call and what it is called if it becomes a parameter."""

    value: Any
    hint: str
    owner: str = ""
    """The member it belongs to."""
    default: Any = inspect.Parameter.empty
    """Left out where it has this value."""


def is_torch(cls: type) -> bool:
    return cls.__module__.partition(".")[0] == "torch"


@cache
def signature(cls: type) -> tuple[tuple[str, Any, bool], ...]:
    """Parameters of a constructor: name, default, whether it is given by position."""
    found = []
    for p in inspect.signature(cls.__init__).parameters.values():  # type: ignore[misc]
        if p.name in ("self", "device", "dtype") or p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD):
            continue
        found.append((p.name, p.default, p.default is p.empty))
    return tuple(found)


def torch_arguments(module: nn.Module, cls: type, prefix: str) -> list[tuple[str, Leaf]]:
    """All constructor arguments of a torch.nn module of class `cls`, (keyword or "" where by position, value). Raises Unwritable."""
    found: list[tuple[str, Leaf]] = []
    for name, default, needed in signature(cls):
        if not hasattr(module, name):
            if needed:
                raise Unwritable(f"{cls.__name__} keeps no attribute for its argument {name!r}")
            continue
        value = getattr(module, name)
        if name == "bias":
            value = value is not None
        if isinstance(value, tuple) and value and all(v == value[0] for v in value) and (len(value) == 1 or name != "normalized_shape"):
            value = value[0]
        if not literal(value):
            raise Unwritable(f"{cls.__name__}.{name} is a {type(value).__name__}")
        found.append(("" if needed else name, Leaf(value, NAMES.get(name, name), prefix, default if needed else _single(default))))
    check(module, cls, found)
    return found


def _single(default: Any) -> Any:
    return default[0] if isinstance(default, tuple) and default and all(v == default[0] for v in default) else default


def check(module: nn.Module, cls: type, arguments: list[tuple[str, Leaf]]) -> None:
    """The call makes a module with the same settings and the same tensors."""
    given = tuple(leaf.value for key, leaf in arguments if not key)
    named = tuple((key, leaf.value) for key, leaf in arguments if key)
    said, tensors = twin(cls, given, named)
    own = tuple((k, tuple(v.shape)) for k, v in (*module._parameters.items(), *module._buffers.items()) if v is not None)
    if tensors != own or (cls is type(module) and said != module.extra_repr()):
        raise Unwritable(f"a {cls.__name__}({module.extra_repr()}) cannot be made again from its attributes")


@cache
def twin(cls: type, given: tuple[Any, ...], named: tuple[tuple[str, Any], ...]) -> tuple[str, tuple[Any, ...]]:
    """Settings and tensors of the module that a call makes."""
    # without first weights, whose rules for the meta device load torch's compiler
    bare = type(cls.__name__, (cls,), {"reset_parameters": lambda self: None})
    with torch.device("meta"):
        made = bare(*given, **dict(named))
    found = (*made._parameters.items(), *made._buffers.items())
    return made.extra_repr(), tuple((k, tuple(v.shape)) for k, v in found if v is not None)
