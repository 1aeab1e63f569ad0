"""The names of a graph's dims: those of the spec, by the sizes that they had in the calls."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...diagnostics import Diagnostic, DiagnosticError
from ...diagnostics import codes as C
from .samples import Run

TOTAL = "total"
"""Past and new tokens: the length of caches that leave, and of the mask that says which tokens are real."""
Axis = tuple[str | None, tuple[int, ...]]
"""A name, None for what never changes, and the size in every call."""


class Axes:
    """Of a piece: the axes of its inputs and of its outputs. One name has one size in every call."""

    def __init__(self, run: Run) -> None:
        self.run = run
        types = list(run.piece.program.inputs.values())
        made = {v: t for n in run.piece.program.nodes for v, t in n.values()}
        results = [made.get(v) for v in run.piece.outputs]
        self.known: dict[str, tuple[int, ...]] = {}
        self.batch = next((str(t.dims[0]) for t in types if t.dims and t.dims[0].constant is None), "B")
        masks = {i for i, t in enumerate(types) if t.kind == "mask"}
        order = sorted(range(len(run.names)), key=lambda i: i in masks)  # a mask goes by what it masks
        named = {i: self.named([given[i] for given, _ in run.calls], types[i] if i < len(types) else None, i - len(types)) for i in order}
        self.inputs = [named[i] for i in range(len(run.names))]
        self.outputs = [
            self.named([out[i] for _, out in run.calls], results[i] if i < len(results) else None, i - len(results), leaving=True)
            for i in range(len(run.gives))
        ]

    @property
    def together(self) -> list[list[tuple[int, int]]]:
        """Axes of caches that enter, as (input, axis), by the name that they share: of all layers they are one size."""
        found: dict[str, list[tuple[int, int]]] = {}
        for i, one in enumerate(self.inputs[len(self.run.piece.inputs) :], len(self.run.piece.inputs)):
            for axis, (name, _) in enumerate(one):
                if name is not None:
                    found.setdefault(name, []).append((i, axis))
        return list(found.values())

    def named(self, values: Sequence[Any], type_: Any, slot: int, leaving: bool = False) -> list[Axis]:
        found: list[Axis] = []
        for axis in range(values[0].dim()):
            sizes = tuple(int(v.shape[axis]) for v in values)
            found.append((self.name(self.declared(type_, slot, axis, leaving), sizes, type_), sizes))
        return found

    def declared(self, type_: Any, slot: int, axis: int, leaving: bool) -> str | None:
        if type_ is not None:
            return str(type_.dims[axis]) if axis < len(type_.dims) and type_.dims[axis].constant is None else None
        kind = self.run.slots[slot]
        length = "media" if not kind.grows else TOTAL if leaving else "past"  # of encoder and media
        return self.batch if axis == 0 else length if axis in kind.axes else None

    def name(self, declared: str | None, sizes: tuple[int, ...], type_: Any) -> str | None:
        """The declared name where it has this size in every call; else that of what is as long, or of past and new tokens."""
        if declared is None and len(set(sizes)) == 1:
            return None
        wanted = [] if declared is None else [declared]
        wanted += [TOTAL] if type_ is not None and type_.kind == "mask" else []
        wanted += [name for name, size in self.known.items() if size == sizes]
        wanted += [f"{declared or 'size'}_{number}" for number in range(2, 20)]
        name = next(name for name in wanted if self.known.get(name, sizes) == sizes)
        self.known[name] = sizes
        return name


def open_axes(axes: Axes) -> list[dict[int, Any]]:
    """For every input the axes that tracing leaves open."""
    from torch.export import Dim

    return [{a: Dim.AUTO for a, (name, _) in enumerate(one) if name is not None} for one in axes.inputs]


def name_dims(model: Any, axes: Axes) -> None:
    """Name the axes of the graph's inputs and outputs. Raises DiagnosticError for one that became a number."""
    import onnx_ir as ir

    frozen = []
    for value, one, leaving in (
        *((v, a, False) for v, a in zip(model.graph.inputs, axes.inputs)),
        *((v, a, True) for v, a in zip(model.graph.outputs, axes.outputs)),
    ):
        shape = list(value.shape or ())
        for axis, size in enumerate(shape):
            name, sizes = one[axis]
            if name is None:
                shape[axis] = sizes[0]
            elif not isinstance(size, int):
                shape[axis] = ir.SymbolicDim(name)
            elif not (axes.run.piece.last and leaving and set(sizes) == {1}):
                frozen.append((value.name, axis, name, size))
        value.shape = ir.Shape(shape)
    if frozen:
        value, axis, name, size = frozen[0]
        text = f"{axes.run.piece.name}: {value} has {size} in dim {axis}, but is declared {name} there: the graph would take no other size"
        notes = tuple(f"also {v} dim {a}: {n} became {s}" for v, a, n, s in frozen[1:6])
        raise DiagnosticError(Diagnostic(C.CANNOT_EXPORT, text, notes=notes, fix="a component turns this size into a number"))
