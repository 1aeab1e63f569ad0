"""Modules traced into ONNX: block by block where a piece repeats some, else whole. Weights stay references, so that nothing reads them."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import onnx_ir as ir
import onnxscript.optimizer
import torch
from torch import Tensor, nn

from .instance import BLOCK, MODULE, block, place, tidy
from .library import read_once
from .operators import plain_attention, translations
from .repeat import Alone, Form, Tracing
from .resident import outlines
from .weights import referenced, turned

Axes = Sequence[dict[int, Any]]


class NotUniform(Exception):
    """Blocks that cannot be captured by themselves."""


def trace(
    flat: nn.Module,
    given: tuple[Tensor, ...],
    axes: Axes,
    names: tuple[list[str], list[str]],
    opset: int,
    together: Sequence[Sequence[tuple[int, int]]] = (),
) -> tuple[ir.Model, Any, str]:
    """`flat` with these inputs as a graph, and the program torch made of it. `axes` of inputs are open; `names` are of inputs and outputs.

    `together` are pairs (input, axis) that have one size, which the trace is told before it would find out layer by layer. Where repeated
    blocks cannot be captured by themselves the whole is traced at once; what that raises is raised. The third value says why some layers
    were captured one by one, "" where none were.
    """
    with outlines(flat):
        model, program, why = traced(flat, given, axes, names, opset, together)
    referenced(model.graph, flat)
    turned(model.graph)
    return model, program, why


def traced(
    flat: nn.Module,
    given: tuple[Tensor, ...],
    axes: Axes,
    names: tuple[list[str], list[str]],
    opset: int,
    together: Sequence[Sequence[tuple[int, int]]],
) -> tuple[ir.Model, Any, str]:
    tracing = Tracing(flat)
    why = ""
    if tracing.blocks:
        hook = flat.register_forward_pre_hook(lambda module, values: equal(values, together))
        try:
            return *by_blocks(flat, tracing, given, axes, names, opset), counted(tracing.inline)
        except Exception as error:  # whatever torch says of a block it says again of the whole, with its place
            why = counted(dict.fromkeys(tracing.blocks, said(error)))
        finally:
            hook.remove()
    model, program = exported(flat, given, axes, names, opset)
    optimized(model, MODULE, names)
    return model, program, why


def said(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return next((line.strip()[:300] for line in str(error).splitlines() if line.strip()), type(error).__name__)


def counted(blocks: dict[str, str]) -> str:
    """The first of some blocks, how many more there are, and what is said of it; "" of none."""
    first = next(iter(blocks), None)
    return "" if first is None else f"{first.removeprefix(MODULE)} and {len(blocks) - 1} more: {blocks[first]}"


def equal(values: tuple[Tensor, ...], together: Sequence[Sequence[tuple[int, int]]]) -> None:
    for (first, along), *others in together:
        for i, axis in others:
            torch._check(values[i].shape[axis] == values[first].shape[along])


def by_blocks(
    flat: nn.Module, tracing: Tracing, given: tuple[Tensor, ...], axes: Axes, names: tuple[list[str], list[str]], opset: int
) -> tuple[ir.Model, Any]:
    with tracing.entered():
        model, program = exported(flat, given, axes, names, opset)
    optimized(model, MODULE, names)
    graphs = {key: alone(form, opset) for key, form in tracing.forms.items()}
    place(model.graph, {call.name: graphs[call.key] for call in tracing.calls.values() if call.key is not None})
    tidy(model)
    program.vlmgraph_calls = tracing.calls  # what `vlmgraph_export::block` finds by name
    return model, program


def alone(form: Form, opset: int) -> ir.Graph:
    """A form captured by itself. Raises NotUniform where a dim that is open in the piece becomes a number in the block."""
    given = tuple(torch.zeros(sizes, dtype=kind) for sizes, kind in zip(form.given, form.dtypes))
    axes = [{axis: torch.export.Dim.AUTO for axis, size in enumerate(shape) if not isinstance(size, int)} for shape in form.shapes]
    names = [f"in_{i}" for i in range(len(given))], [f"out_{i}" for i in range(form.call.count)]
    model, _ = exported(Alone(form.call), given, axes, names, opset)
    for value, open_ in zip(model.graph.inputs, axes):
        assert value.shape is not None
        if any(isinstance(value.shape[axis], int) for axis in open_):
            raise NotUniform(f"{form.call.path} takes {value.shape} alone")
    optimized(model, BLOCK, names)
    return model.graph


def exported(module: nn.Module, given: tuple[Tensor, ...], axes: Axes, names: tuple[list[str], list[str]], opset: int) -> Any:
    with quiet(), plain_attention(), read_once(), torch.no_grad():
        made = torch.onnx.export(
            module, given, dynamo=True, dynamic_shapes=(tuple(axes),), input_names=names[0], output_names=names[1], opset_version=opset,
            custom_translation_table=translations() | {torch.ops.vlmgraph_export.block.default: block}, optimize=False, verbose=False,
        )  # fmt: skip
    assert made is not None
    return made.model, made.exported_program


def optimized(model: ir.Model, prefix: str, names: tuple[list[str], list[str]]) -> None:
    """Constants are folded, but for what is made of weights: their values are nobody's business here."""
    with quiet():
        held = {v: v.const_value for name, v in model.graph.initializers.items() if name.startswith(prefix)}
        for value in held:
            value.const_value = None
        onnxscript.optimizer.optimize_ir(model)
        for value, name in zip((*model.graph.inputs, *model.graph.outputs), (*names[0], *names[1]), strict=True):
            value.name = name  # an input that is given back had that of the output
        for value, const in held.items():
            value.const_value = const


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """The exporter tells its progress on stdout and warns of what the checks here find."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            logging.disable(before)
