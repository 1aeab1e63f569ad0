"""What the dims of a program's inputs can be: asked of the model's own processor, for the amounts that an engine has to take.

A dim that several inputs have is one number, so that counts which follow from others (patches from pictures, tokens from patches, pictures
from samples) stay in step. Token counts are no numbers of the example: they are what the pictures need and the text beside them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from ...diagnostics import Diagnostic, DiagnosticError
from ...diagnostics import codes as C
from ...ir.dims import Dim, DimError, Symbol
from ...ir.graph import CALL, Graph
from ...ir.types import Type
from ...lower.example import Amount, example_inputs
from ...passes.slice import slice_program
from ...processor.model import longest
from ...report.tokens import packed_lengths
from ..onnx.samples import fed
from .limits import MAX, MIN, OPT, Limits, Range

if TYPE_CHECKING:
    from ...processor import Processor

Arrays = Mapping[str, np.ndarray]


@dataclass
class Sizes:
    """Of one program. `dims` are triples by the name of a symbol; `length` names the symbols that count tokens of text, with the tokens of
    pictures that a text of this kind holds (`visual`)."""

    dims: dict[str, Range]
    present: frozenset[str]
    """The inputs that such a call has."""
    visual: dict[str, Range] = field(default_factory=dict)
    text: Range = (1, 1, 1)
    bound: dict[str, int] = field(default_factory=dict)
    """The most tokens that a component has positions for."""

    def value(self, dim: Dim, at: int, also: Mapping[str, int] | None = None) -> int:
        """The number that a dim is. Raises DiagnosticError where an input leaves it open."""
        given = {s: Dim.of(n) for s in dim.symbols() if (n := (also or {}).get(s.name, self.number(s.name, at))) is not None}
        try:
            found = dim.substitute(given).constant
        except DimError as error:
            raise open_dim(dim, f"{error}") from error
        if found is None:
            unknown = ", ".join(sorted(s.name for s in dim.symbols() if s not in given))
            raise open_dim(dim, f"nothing decides {unknown}")
        return found

    def number(self, name: str, at: int) -> int | None:
        if name in self.visual:
            return self.tokens(name, at, True)
        return self.dims[name][at] if name in self.dims else None

    def tokens(self, name: str, at: int, pictures: bool) -> int:
        """Tokens of a text with its pictures, or of the shortest that needs none."""
        if name in self.dims:
            return self.dims[name][at]  # padded to one length
        seen = self.visual[name][at] if pictures or at != MIN else 0
        return min(seen + self.text[at], self.bound.get(name, 1 << 62))


def open_dim(dim: Dim, why: str) -> DiagnosticError:
    text = f"an optimisation profile needs a number for {dim}, but {why}"
    return DiagnosticError(Diagnostic(C.CANNOT_EXPORT, text, fix="export with the limits of the pictures that the model takes"))


def sizes_of(
    graph: Graph, whole: Graph, tables: Mapping[str, Any], processor: Processor, program: str, limits: Limits, media: bool = True
) -> Sizes:
    """The sizes of `program` of `graph`; `whole` is the model's graph, `tables` its `[processor]`. What a procedure feeds to steps, a row
    for each of the text's, is in no prompt; without `media` there is only text."""
    pictures = limits.pictures
    chosen = fed(whole, program)

    def made(graph: Graph, processor: Processor, program: str, limits: Limits, at: int, pictures: Range, size: tuple[int, int]) -> Arrays:
        amount = Amount(limits.batch[at], pictures[at], size, 1, limits.count[at])
        given = example_inputs(graph, processor, program, media=media and not chosen, amount=amount)
        return {name: value for name, value in given.items() if name not in chosen}

    try:
        most = [made(graph, processor, program, limits, MAX, pictures, limits.picture[MIN])]
    except DiagnosticError:  # one picture a sample
        pictures = (1, 1, 1)
        most = [made(graph, processor, program, limits, MAX, pictures, limits.picture[MIN])]
    each = [made(graph, processor, program, limits, MIN, pictures, size) for size in limits.picture]
    alike = all(shape(e) == shape(each[MIN]) for e in each)  # then small pictures stand for all: they are quicker to make
    usual = made(graph, processor, program, limits, OPT, pictures, limits.picture[MIN if alike else OPT])
    most += [] if alike else [made(graph, processor, program, limits, MAX, pictures, size) for size in limits.picture[OPT:]]
    least = [*each, usual]
    types = slice_program(graph, program, usual).inputs
    lengths = text_lengths(types, processor)
    low, middle, high = [symbols(types, m) for m in least], symbols(types, usual), [symbols(types, m) for m in most]
    dims = {s: (min(x[s] for x in low), middle[s], max(x[s] for x in high)) for s in middle if s not in lengths}
    dims |= packed(whole, tables, limits, pictures)
    dims |= {str(whole.types()[name].dims[0]): limits.batch for name in chosen}
    found = Sizes(dims, frozenset(usual), {}, limits.text)
    for symbol, name in lengths.items():
        counts = [[placed(graph, name, m) for m in several] for several in (least, [usual], most)]
        found.visual[symbol] = (min(counts[MIN]), counts[OPT][0], max(counts[MAX]))
        if limit := most_tokens(graph, name, program):
            found.bound[symbol] = limit
            if found.visual[symbol][MAX] >= limit:
                needed = f"{found.visual[symbol][MAX]} tokens, which with a text are over the {limit} that {graph.name} has positions for"
                text = f"program {program!r}: pictures of {sizes_text(limits)}, {pictures[MAX]} a sample, become {needed}"
                raise DiagnosticError(Diagnostic(C.BAD_OPTION, text, fix="smaller limits of picture or pictures"))
    return found


def sizes_text(limits: Limits) -> str:
    return ", ".join(f"{w}x{h}" for w, h in limits.picture)


def shape(arrays: Arrays) -> dict[str, tuple[int, ...]]:
    return {name: value.shape for name, value in arrays.items()}


def symbols(types: Mapping[str, Type], arrays: Arrays) -> dict[str, int]:
    """The size of every dim that is a name by itself."""
    found: dict[str, int] = {}
    for name, type_ in types.items():
        if name in arrays and arrays[name].ndim == len(type_.dims):
            for dim, size in zip(type_.dims, arrays[name].shape):
                if dim.constant is None and not dim.compound and isinstance(only := dim.terms[0][0][0], Symbol):
                    found[only.name] = max(size, found.get(only.name, 0))
    return found


def text_lengths(types: Mapping[str, Type], processor: Processor) -> dict[str, str]:
    """Symbols that count the tokens of a text → the input of ids; not of one that is padded to a fixed length."""
    found: dict[str, str] = {}
    for name, type_ in types.items():
        encoder = processor.encoders.get(name)
        fixed = encoder is not None and encoder.config.padding == "max"
        if type_.kind == "ids" and len(type_.dims) == 2 and type_.dims[-1].constant is None and not fixed:
            found.setdefault(str(type_.dims[-1]), name)
    return found


def placed(graph: Graph, name: str, arrays: Arrays) -> int:
    """Placeholders of pictures in the longest text."""
    tokens = placeholders(graph, name)
    return int(np.isin(arrays[name], tokens).sum(axis=-1).max()) if tokens and name in arrays else 0


def placeholders(graph: Graph, name: str) -> list[int]:
    nodes = (n for n in graph.nodes if n.op == CALL and n.inputs.get("ids") == name)
    return sorted({int(t) for n in nodes for tokens in graph.config(n).placeholders.values() for t in tokens})


def most_tokens(graph: Graph, name: str, program: str) -> int | None:
    """The smallest table of positions that the tokens go through, learned or the stack's own."""
    stacks = (graph.components[c] for c in graph.programs[program].cache)
    counts = [longest(graph, name), *(getattr(c, "max_positions", None) for c in stacks)]
    return min((n for n in counts if isinstance(n, int) and n > 0), default=None)


def packed(graph: Graph, tables: Mapping[str, Any], limits: Limits, pictures: Range) -> dict[str, Range]:
    """Dims that nodes which pack pictures give: what each picture is, times how many there are."""
    each: list[dict[str, int]] = [{s.name: n for s, n in packed_lengths(graph, tables, *size).items()} for size in limits.picture]
    total = [limits.batch[at] * pictures[at] for at in (MIN, OPT, MAX)]
    return {s: (total[MIN] * low_of(each, s), total[OPT] * each[OPT][s], total[MAX] * max(e[s] for e in each)) for s in each[OPT]}


def low_of(each: Iterable[Mapping[str, int]], symbol: str) -> int:
    return min(e[symbol] for e in each)
