"""What a model is called with, held against the declared types before anything runs."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..diagnostics import Diagnostic, DiagnosticError
from ..diagnostics import codes as C
from ..ir.graph import CALL, Graph
from ..ir.types import INTEGER_KINDS, Type
from ..passes.slice import ProgramGraph


def prepared(inputs: Mapping[str, Any], types: Mapping[str, Type], model: str, dtype: torch.dtype, device: torch.device) -> dict[str, Any]:
    """The inputs that are given (not None), floating ones in `dtype`; numpy arrays, which a processor gives, as tensors on `device`.

    Raises DiagnosticError for an unknown name, for what is no tensor, a wrong rank, size or dtype, and for two inputs that disagree
    about a dim.
    """
    sizes: dict[str, tuple[int, str]] = {}
    ready: dict[str, Any] = {}
    for name, value in inputs.items():
        if value is None:
            continue
        if name not in types:
            raise DiagnosticError(unknown(name, types, model))
        if hasattr(value, "__array_interface__"):
            value = torch.as_tensor(value, device=device)
        if not isinstance(value, Tensor):
            text = f"{name} is a {type(value).__name__}, but is declared {types[name]}"
            raise DiagnosticError(Diagnostic(C.BAD_INPUT_DTYPE, text, fix="give a tensor: torch.as_tensor(...)"))
        check_shape(name, value, types[name], sizes)
        check_dtype(name, value, types[name])
        if value.is_floating_point() and types[name].kind != "mask" and value.dtype != dtype:
            value = value.to(dtype)
        ready[name] = value
    return ready


def unknown(name: str, types: Mapping[str, Type], model: str) -> Diagnostic:
    near = difflib.get_close_matches(name, list(types), 1)
    notes = ("inputs: " + ", ".join(f"{n}: {t}" for n, t in types.items()),)
    return Diagnostic(
        C.UNKNOWN_INPUT, f"{name!r} is not an input of {model}", notes=notes, fix=f"did you mean {near[0]!r}?" if near else None
    )


def check_shape(name: str, value: Tensor, type_: Type, sizes: dict[str, tuple[int, str]]) -> None:
    """Rank, fixed sizes and, over all inputs, one size for a symbolic dim; `sizes` remembers who gave it first."""
    shape = tuple(value.shape)
    if len(shape) != len(type_.dims):
        raise DiagnosticError(Diagnostic(C.BAD_INPUT_SHAPE, f"{name} has {len(shape)} dims {shape}, but is declared {type_}"))
    for axis, (size, dim) in enumerate(zip(shape, type_.dims)):
        wanted, other = dim.constant, ""
        if wanted is None and not dim.compound:
            wanted, other = sizes.setdefault(str(dim), (size, name))
        if wanted is not None and size != wanted:
            text = f"{name} is {size} in dim {axis}, but is declared {type_}"
            if other:
                text = f"{name} and {other} disagree about {dim}: {size} and {wanted}"
            raise DiagnosticError(Diagnostic(C.BAD_INPUT_SHAPE, text, notes=(f"shape given: {shape}",)))


def check_dtype(name: str, value: Tensor, type_: Type) -> None:
    """Ids, positions, grids and indices are integers; pixels and features are not. Masks may be anything."""
    if type_.kind == "mask" or value.is_floating_point() == (type_.kind not in INTEGER_KINDS):
        return
    wanted = "integers (torch.long)" if type_.kind in INTEGER_KINDS else "floating-point numbers"
    fix = None if type_.kind in INTEGER_KINDS else "normalise pixels as the processor does, to floats around 0"
    raise DiagnosticError(
        Diagnostic(C.BAD_INPUT_DTYPE, f"{name} holds {value.dtype}, but a value of kind {type_.kind} holds {wanted}", fix=fix)
    )


Watch = tuple[str, str, tuple[int, ...]]
"""The input of ids, the port without features, the tokens that stand for them; of a mask that marks the places itself no tokens."""


def unfed_placeholders(graph: Graph, whole: ProgramGraph, program: ProgramGraph) -> list[Watch]:
    """Ports of `whole`, the program with every input, that get nothing in `program` and have tokens that stand for them."""
    running = {n.id: n for n in program.nodes}
    found: list[Watch] = []
    for node in whole.nodes:
        if node.op != CALL:
            continue
        fed = running[node.id].inputs if node.id in running else {}
        placeholders, ids = graph.config(node).placeholders, node.inputs.get("ids")
        taken = {token for port, tokens in placeholders.items() if port in fed for token in tokens}
        for port, tokens in placeholders.items():
            free = tuple(t for t in tokens if t not in taken)
            if free and port in node.inputs and port not in fed and isinstance(ids, str) and ids in program.inputs:
                found.append((ids, port, free))
        for mark, port in graph.config(node).marks.items():
            marking = node.inputs.get(mark)
            if port in node.inputs and port not in fed and isinstance(marking, str) and marking in graph.inputs:
                found.append((marking, port, ()))
    return found


def check_placeholders(watched: list[Watch], inputs: Mapping[str, Any]) -> None:
    """Raises DiagnosticError where a token stands for an image that is not there: its own embedding was never trained."""
    mask = inputs.get("attention_mask")
    for name, port, tokens in watched:
        ids = inputs.get(name)
        if ids is None or ids.device.type != "cpu":
            continue  # reading a value of another device would wait for it
        here = torch.isin(ids, torch.tensor(tokens)) if tokens else ids.bool()
        if mask is not None and mask.shape == ids.shape:
            here = here & mask.bool()
        if bool(here.any()):
            what = "hold" if tokens else "marks"
            text = f"{name} {what} {int(here.sum())} placeholders for {port!r}, but nothing is given for it"
            raise DiagnosticError(Diagnostic(C.BAD_INPUT_VALUE, text, fix="give the image, or leave its tokens out"))
