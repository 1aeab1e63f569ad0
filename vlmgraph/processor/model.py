"""The processor of one model: the spec's `[processor]` tables, the token counts of its graph, and what its folder says.

Where no tokenizer is found, text is encoded as bytes (`tokenizer.ByteVocabulary`), with the warning VG0711. A token that the tables name
and neither `[tokens]` nor a tokenizer knows then gets the highest id that is free, so that every model runs, with or without files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..ir.dims import Dim, Symbol
from ..ir.graph import CALL, Graph
from . import problems
from .core import Processor, build_processor
from .problems import problem
from .published import overlaid
from .tokenizer import files, token_ids

if TYPE_CHECKING:
    from ..diagnostics.core import Span
    from ..spec import Spec

TEXT_TYPES = ("processor.text", "processor.chat")


def model_processor(spec: Spec, graph: Graph, folder: str | Path | None = None) -> Processor:
    """The processor of a compiled model; `folder` is where it was loaded from: tokenizer, configuration, chat template.

    Raises DiagnosticError with every fault of the tables or the files.
    """
    tables = spec.data.get("processor") or {}
    if not any(isinstance(t, Mapping) and t.get("type") for t in tables.values()):
        fix = "write [processor.INPUT] tables: see a bundled spec, for example llava-1.5"
        raise problem(problems.CONFIG, f"{graph.name} says nothing of how pictures and texts become its inputs", fix)
    place = Path(folder) if folder is not None else None
    if place is not None:
        tables = overlaid(tables, place)
    tables = {name: _bounded(table, longest(graph, name)) for name, table in tables.items()}
    vocabulary = {name: size for name in graph.inputs if (size := vocabulary_size(graph, name)) is not None}
    tokens = known_tokens(tables, graph.tokens, vocabulary, place)

    def locate(path: tuple[str, ...]) -> Span | None:
        label = spec.label(("processor", *path))
        return label.span if label else None

    made = build_processor(
        tables, tokens, token_counts(graph), inputs=graph.inputs, outputs=graph.outputs, nodes=graph.types(),
        vocab=vocabulary, folder=place, locate=locate,
    )  # fmt: skip
    if place is not None:
        from .jinja import find_template

        made.template = find_template(place)
    return made


def vocabulary_size(graph: Graph, name: str) -> int | None:
    """Ids that an input may hold: the smallest of the embeddings that read it."""
    sizes = []
    for node in graph.nodes:
        if node.op == CALL and name in node.sources():
            config = graph.config(node)
            vocab = getattr(config, "vocab", None)
            if isinstance(vocab, int):
                sizes.append(vocab + (getattr(config, "added", None) or 0))
    return min(sizes, default=None)


def longest(graph: Graph, name: str) -> int | None:
    """Tokens that an input of ids may have: the smallest table of learned positions that a value of its length goes through."""
    type_, types = graph.inputs.get(name), graph.types()
    if type_ is None or type_.kind != "ids":
        return None
    found = []
    for node in graph.nodes:
        config = graph.components.get(node.component) if node.op == CALL else None
        count = getattr(config, "max_positions", None)
        # a stack says where its positions come from; what has no such slot holds a table of its own
        if count is None or (hasattr(config, "position") and getattr(config.position, "kind", "") != "position.learned"):
            continue
        if any(type_.dims[-1] in types[source].dims for source in node.sources() if source in types):
            found.append(count)
    return min(found, default=None)


def _bounded(table: Any, most: int | None) -> Any:
    if most is None or not isinstance(table, Mapping) or table.get("type") not in TEXT_TYPES:
        return table
    given = table.get("max_length", most)
    return {**table, "max_length": min(given, most) if isinstance(given, int) else given}


def token_counts(graph: Graph) -> Callable[[str, Mapping[str, np.ndarray]], int | Sequence[int]]:
    """How many tokens a value of the graph has for each picture, from its type: fixed, or by the grid that owns its packed dim."""
    types = graph.types()
    owners = {dim: owner for type_ in graph.inputs.values() for dim, owner in type_.owners}

    def counts(node: str, inputs: Mapping[str, np.ndarray]) -> int | Sequence[int]:
        type_ = types.get(graph.resolve(node), types.get(node))
        length = type_.dims[-2] if type_ is not None and len(type_.dims) > 1 else None
        if length is None:
            raise problem(problems.NAME, f"{graph.name} has no tokens called `{node}`", "place the token count of a node of the graph")
        length = length.substitute(known_sizes(graph, inputs))
        if length.constant is not None:
            return length.constant
        packed = next((s for s in length.symbols() if owners.get(s.name) in inputs), None)
        if packed is None and len(length.symbols()) == 1:
            [symbol] = length.symbols()
            derived = _derived(graph, symbol, inputs)
            if derived is not None:
                return [_value(length, symbol, int(n)) for n in derived]
        if packed is None or len(length.symbols()) > 1:
            raise problem(problems.CALL, f"`{node}` has {length} tokens, which no input decides", "place a node whose length is known")
        return [_value(length, packed, int(n)) for n in inputs[owners[packed.name]].prod(axis=1)]

    return counts


def known_sizes(graph: Graph, inputs: Mapping[str, np.ndarray]) -> dict[Symbol, Dim]:
    """The sizes that the pictures at hand give the dims of their input, but for how many there are and what a grid owns."""
    known: dict[Symbol, Dim] = {}
    for name, type_ in graph.inputs.items():
        if name not in inputs or type_.kind not in ("image", "mask") or len(type_.dims) != inputs[name].ndim:
            continue
        for dim, size in list(zip(type_.dims, inputs[name].shape))[1:]:
            if dim.plain and dim.constant is None and len(dim.symbols()) == 1:
                known[next(iter(dim.symbols()))] = Dim.of(size)
    return known


def _derived(graph: Graph, symbol: Symbol, inputs: Mapping[str, np.ndarray]) -> Sequence[int] | None:
    """What a node that packs items says of the length of each."""
    for node in graph.nodes:
        if node.op != CALL or not any(symbol in dim.symbols() for type_ in node.outputs.values() for dim in type_.dims[:1]):
            continue
        ports = {port: inputs[source] for port, source in node.inputs.items() if isinstance(source, str) and source in inputs}
        lengths = graph.config(node).lengths(ports)
        if lengths is not None:
            return lengths
    return None


def _value(length: Dim, symbol: Symbol, n: int) -> int:
    value = length.substitute({symbol: Dim.of(n)}).constant
    assert value is not None
    return value


def known_tokens(
    tables: Mapping[str, Any], declared: Mapping[str, int], vocabulary: Mapping[str, int], folder: Path | None
) -> dict[str, int]:
    """`[tokens]`, and ids for what the tables name beyond them: from the tokenizer of the entry, else the highest ids that are free."""
    tokens = dict(declared)
    for name, table in tables.items():
        if not isinstance(table, Mapping) or table.get("type") not in TEXT_TYPES:
            continue
        missing = [t for t in dict.fromkeys(_named(table)) if t not in tokens]
        if not missing:
            continue
        found = files(folder, str(table.get("tokenizer", "")))
        if found is not None:
            tokens |= token_ids(found, missing)
        elif folder is not None and name in vocabulary:
            taken = set(tokens.values())
            free = (i for i in range(vocabulary[name] - 1, 0, -1) if i not in taken)
            tokens |= dict(zip(missing, free))
    return tokens


def _named(table: Mapping[str, Any]) -> Iterator[str]:
    """The tokens an entry names."""
    place = table.get("place")
    for token, what in place.items() if isinstance(place, Mapping) else ():
        yield token
        if isinstance(what, Mapping):
            yield from (end for key in ("row_end", "end", "fill") if isinstance(end := what.get(key), str))
    for key in ("bos", "eos", "pad", "wrap", "stop", "once", "silent"):
        value = table.get(key)
        yield from (t for t in (value if isinstance(value, list) else [value]) if isinstance(t, str))
