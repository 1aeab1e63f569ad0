"""The graphs that the ONNX export writes, with their inputs and dims: known from the declaration, without weights and without ONNX."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ...diagnostics import Diagnostic, DiagnosticError
from ...diagnostics import codes as C
from ...ir.dims import Dim, Symbol
from ...ir.graph import CALL
from ...ir.types import INTEGER_KINDS, Type
from ..onnx.flat import Slot, held, slots_of
from ..onnx.pieces import Decoding, Piece, cut, whole, written
from ..onnx.samples import fed, lowered, stepping
from .limits import OPT
from .sizes import Sizes

if TYPE_CHECKING:
    from ...lower.model import CompiledModel

PAST, TOTAL = "past", "total"


@dataclass(frozen=True)
class Entry:
    """One input of a file."""

    name: str
    dtype: str
    dims: tuple[Dim, ...]

    def json(self) -> dict[str, Any]:
        return {"name": self.name, "dtype": self.dtype, "dims": [d.constant if d.constant is not None else str(d) for d in self.dims]}


@dataclass(frozen=True)
class Planned:
    """One file: its inputs, and the phases in which it runs: `call`, or `prompt` and `step` of a program that decodes."""

    name: str
    program: str
    phases: tuple[str, ...]
    inputs: tuple[Entry, ...]
    roles: tuple[str, ...]
    length: str = ""
    """The symbol of the tokens that decoding appends to."""
    pictures: bool = False
    """Whether features are put into the text, which then has a token for each; other texts may be without."""


def graphs_of(model: CompiledModel, name: str, sizes: Sizes, prefix: str = "") -> list[Planned]:
    """The files of a program, as the target `onnx` names them."""
    program = model.programs[name]
    prompt = program.graph(sizes.present)
    if not model.graph.programs[name].cache:
        return [planned(model, whole(prompt), name, ("call",), (), text_symbol(prompt.inputs), sizes.masks)]
    ids = written(prompt)
    step = program.graph(stepping(model.graph, dict.fromkeys(sizes.present), prompt, ids), True)  # type: ignore[arg-type]
    made = cut(model.graph, prompt, step, prefix)
    slots = cache_slots(model, made)
    if any(s.once for s, _ in slots) and len(made.pieces) < len(made.prompt) + len(made.step):
        made = cut(model.graph, prompt, step, prefix, merged=False)
        slots = cache_slots(model, made)
    length = str(model.graph.inputs[ids].dims[1])
    names = [{p.name for p in part} for part in (made.prompt, made.step)]
    return [
        planned(
            model, p, name, tuple(w for w, n in zip(("prompt", "step"), names) if p.name in n), slots if p.past else (), length, sizes.masks
        )
        for p in {p.name: p for p in (*made.prompt, *made.step)}.values()  # one that runs in both is named by the values of the step
    ]


def drawn(model: CompiledModel, name: str, sizes: Sizes) -> frozenset[str]:
    """Inputs that a program draws where they are left out: in its graph they are inputs. None where it cannot run without storage."""
    import torch

    from ..onnx.drawn import Draws, as_inputs

    program = model.programs[name]
    types = program.graph(sizes.present).inputs
    left_out = {k: t for k, t in program.graph().inputs.items() if k not in types}
    if not left_out:
        return frozenset()
    try:
        shapes = {k: [sizes.value(d, OPT) for d in t.dims] for k, t in types.items()}
        with torch.no_grad(), Draws() as draws:
            program.run({k: torch.zeros(shapes[k], dtype=kind(model, t), device="meta") for k, t in types.items()})
    except Exception:  # it looks at values: then they are not drawn either, or the export says so
        return frozenset()
    return frozenset(as_inputs(draws.made, left_out))


def text_symbol(types: Mapping[str, Type]) -> str:
    return next((str(t.dims[-1]) for t in types.values() if t.kind == "ids" and t.dims and t.dims[-1].constant is None), "")


def planned(
    model: CompiledModel,
    piece: Piece,
    program: str,
    phases: tuple[str, ...],
    slots: tuple[tuple[Slot, Type], ...],
    length: str,
    masks: Mapping[str, str],
) -> Planned:
    """A piece with its inputs. In a step the mask over all tokens is as long as past and new ones."""
    chosen = fed(model.graph, program)
    types = {name: one_a_token(type_, length) if name in chosen else type_ for name, type_ in typed(piece)}
    entries = [entry(model, name, whole_mask(piece, type_, phases, length)) for name, type_ in types.items()]
    given = {piece.inputs[value]: dtype for value, dtype in masks.items() if value in piece.inputs}
    entries = [replace(e, dtype=given.get(e.name, e.dtype)) for e in entries]
    alone = len(piece.cache) == 1
    entries += [entry(model, slot.name("past_key_values", alone), type_) for slot, type_ in slots]
    roles = dict.fromkeys(model.graph.components[n.component].role or "op" for n in piece.program.nodes if n.component)
    return Planned(piece.name, program, phases, tuple(entries), tuple(sorted(roles)), length, seen(model, piece))


def typed(piece: Piece) -> Iterator[tuple[str, Type]]:
    for value, name in piece.inputs.items():
        yield name, piece.program.inputs[value]


def entry(model: CompiledModel, name: str, type_: Type) -> Entry:
    dtype = "bool" if type_.kind == "mask" else "int64" if type_.kind in INTEGER_KINDS else str(model.dtype).removeprefix("torch.")
    return Entry(name, dtype, type_.dims)


def one_a_token(type_: Type, length: str) -> Type:
    """Of values that a procedure chooses those of the new tokens, which stand in the place of ids."""
    return type_.with_dims((*type_.dims[:-1], Dim.of(Symbol(length))))


def whole_mask(piece: Piece, type_: Type, phases: tuple[str, ...], length: str) -> Type:
    if type_.kind == "mask" and len(type_.dims) == 2 and str(type_.dims[-1]) == length and (piece.past or phases == ("step",)):
        return type_.with_dims((type_.dims[0], Dim.of(Symbol(TOTAL))))
    return type_


def seen(model: CompiledModel, piece: Piece) -> bool:
    """Whether features go into a text in the place of tokens that stand for them."""
    calls = [n for n in piece.program.nodes if n.op == CALL]
    return any(port in n.inputs for n in calls for port in model.graph.config(n).placeholders)


def cache_slots(model: CompiledModel, made: Decoding) -> tuple[tuple[Slot, Type], ...]:
    """What a decoder keeps, with its dims: it runs once without storage at sizes that are all different, and each size names its dim.

    Raises DiagnosticError where it cannot run so, because what it does depends on values.
    """
    import torch

    from ...nn.cache import KVCache

    piece = next(p for p in made.prompt if p.cache)
    piece = next((p for p in made.step if p.name == piece.name), piece)
    symbols = sorted({s for t in piece.program.inputs.values() for d in t.dims for s in d.symbols()}, key=str)
    numbers = {s: Dim.of(4 * prime) for s, prime in zip(symbols, primes())}
    shapes = {v: [number(d, numbers) for d in t.dims] for v, t in piece.program.inputs.items()}
    values = [torch.zeros(shapes[v], dtype=kind(model, piece.program.inputs[v]), device="meta") for v in piece.inputs]
    caches = {c: KVCache() for c in piece.cache}
    try:
        with torch.no_grad():
            lowered(model, replace(piece, last=False))(*values, *caches.values())
    except Exception as error:
        text = f"the cache of {piece.name} cannot be told without running it: {str(error).splitlines()[0][:200]}"
        raise DiagnosticError(Diagnostic(C.CANNOT_EXPORT, text, fix="leave this program out with --program")) from error
    named = {n.constant: Dim.of(s) for s, n in numbers.items()}
    named |= {number(d, numbers): d for t in piece.program.inputs.values() for d in t.dims if d.constant is None}
    found = []
    for slot in slots_of(caches):
        dims = [named.get(size, Dim.of(size)) for size in held(caches, slot).shape]
        if slot.grows:
            dims[2] = Dim.of(Symbol(PAST))
        found.append((slot, Type("tokens", tuple(dims))))
    return tuple(found)


def number(dim: Dim, numbers: Mapping[Symbol, Dim]) -> int:
    found = dim.substitute(numbers).constant
    assert found is not None
    return found


def kind(model: CompiledModel, type_: Type) -> Any:
    import torch

    return torch.bool if type_.kind == "mask" else torch.int64 if type_.kind in INTEGER_KINDS else model.dtype


def primes() -> Iterator[int]:
    """From 211 on: sizes that no width or number of heads has."""
    n = 211
    while True:
        if all(n % d for d in range(2, 80)):
            yield n
        n += 1
