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


def graphs_of(model: CompiledModel, name: str, sizes: Sizes, alone: Sizes | None, prefix: str = "") -> list[tuple[Planned, Sizes]]:
    """The files of a program, as the target `onnx` names them, each with the sizes it runs at. `alone` are those of texts without media:
    they have files of their own, unless the steps of other texts serve for their prompts too."""
    program = model.programs[name]
    if not model.graph.programs[name].cache:
        piece = whole(program.graph(sizes.present))
        return [(planned(model, piece, name, ("call",), (), text_symbol(piece.program.inputs)), sizes)]
    made, slots = parts(model, name, sizes, prefix)
    uses = [("prompt", made.prompt), ("step", made.step)]
    sources = [(made, slots, sizes)]
    if alone is not None and alone.present != sizes.present:
        first = pieces_of(model, name, alone, f"{prefix}text.", made.pieces)
        if made.serves(sorted(alone.present)) and {p.name for p in first.prompt} <= {p.name for p in made.step}:
            uses.append(("prompt", made.step))
        else:
            text, slots = parts(model, name, alone, f"{prefix}text.", made.pieces)
            uses += [("prompt", text.prompt), ("step", text.step)]
            sources.append((text, slots, alone))
    runs = {(phase, p.name) for phase, part in uses for p in part}
    found: dict[str, tuple[Planned, Sizes]] = {}
    for made, slots, own in sources:
        length = str(model.graph.inputs[written(program.graph(own.present))].dims[1])
        for p in {p.name: p for p in (*made.prompt, *made.step)}.values():  # one that runs in both is named by the values of the step
            when = tuple(phase for phase in ("prompt", "step") if (phase, p.name) in runs)
            if p.name not in found:
                found[p.name] = planned(model, p, name, when, slots if p.past else (), length), own
    return list(found.values())


Slots = tuple[tuple[Slot, Type], ...]


def parts(model: CompiledModel, name: str, sizes: Sizes, prefix: str, there: tuple[Piece, ...] = ()) -> tuple[Decoding, Slots]:
    """The pieces that decoding runs, and what the decoder keeps."""
    made = pieces_of(model, name, sizes, prefix, there)
    slots = cache_slots(model, made)
    if any(s.once for s, _ in slots) and len(made.pieces) < len(made.prompt) + len(made.step):
        made = pieces_of(model, name, sizes, prefix, there, merged=False)
        slots = cache_slots(model, made)
    return made, slots


def pieces_of(model: CompiledModel, name: str, sizes: Sizes, prefix: str, there: tuple[Piece, ...], merged: bool = True) -> Decoding:
    program = model.programs[name]
    prompt = program.graph(sizes.present)
    step = program.graph(stepping(model.graph, dict.fromkeys(sizes.present), prompt, written(prompt)), True)  # type: ignore[arg-type]
    return cut(model.graph, prompt, step, prefix, merged).sharing(there)


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


def planned(model: CompiledModel, piece: Piece, program: str, phases: tuple[str, ...], slots: Slots, length: str) -> Planned:
    """A piece with its inputs. In a step the mask over all tokens is as long as past and new ones."""
    chosen = fed(model.graph, program)
    entries = []
    for value, name in piece.inputs.items():
        type_ = piece.program.inputs[value]
        type_ = one_a_token(type_, length) if name in chosen else whole_mask(piece, type_, phases, length)
        entries.append(entry(model, name, type_, value not in model.graph.inputs))
    alone = len(piece.cache) == 1
    entries += [entry(model, slot.name("past_key_values", alone), type_) for slot, type_ in slots]
    roles = dict.fromkeys(model.graph.components[n.component].role or "op" for n in piece.program.nodes if n.component)
    return Planned(piece.name, program, phases, tuple(entries), tuple(sorted(roles)), length, seen(model, piece))


def entry(model: CompiledModel, name: str, type_: Type, made: bool = False) -> Entry:
    """Masks are whole numbers, but for those that say more than what is padding and that another graph `made`."""
    if type_.kind == "mask":
        return Entry(name, "bool" if made and len(type_.dims) != 2 else "int64", type_.dims)
    return Entry(name, "int64" if type_.kind in INTEGER_KINDS else str(model.dtype).removeprefix("torch."), type_.dims)


def one_a_token(type_: Type, length: str) -> Type:
    """Of values that a procedure chooses those of the new tokens, which stand in the place of ids."""
    return type_.with_dims((*type_.dims[:-1], Dim.of(Symbol(length))))


def whole_mask(piece: Piece, type_: Type, phases: tuple[str, ...], length: str) -> Type:
    if type_.kind == "mask" and len(type_.dims) == 2 and str(type_.dims[-1]) == length and (piece.past or "step" in phases):
        return type_.with_dims((type_.dims[0], Dim.of(Symbol(TOTAL))))
    return type_


def seen(model: CompiledModel, piece: Piece) -> bool:
    """Whether features go into a text in the place of tokens that stand for them."""
    calls = [n for n in piece.program.nodes if n.op == CALL]
    return any(port in n.inputs for n in calls for port in model.graph.config(n).placeholders)


def cache_slots(model: CompiledModel, made: Decoding) -> Slots:
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
