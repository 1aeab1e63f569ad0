"""Objectives over several named batches: the slice of the values that a loss reads, once more for every batch, on inputs of its own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from ..ir.dims import Dim, Symbol
from ..ir.graph import Node, Source
from ..ir.order import owner, sort_nodes
from ..ir.types import Type

SAMPLES = "B"
"""All batches of an objective have as many samples: they are compared row by row. Every other dim may differ."""


@dataclass
class Batches:
    """What an objective's batches add to it."""

    nodes: list[Node] = field(default_factory=list)
    inputs: dict[str, Type] = field(default_factory=dict)
    aliases: dict[str, str] = field(default_factory=dict)


def batched(
    nodes: Sequence[Node], wanted: Iterable[tuple[str, str, str]], inputs: Mapping[str, Type], shared: Iterable[str], loss: str
) -> Batches:
    """The nodes that the wanted values (batch, name, final value) depend on, those on shared inputs alone left out: `LOSS.BATCH.node`.

    Every input that is not shared becomes one of the batch, `chosen_input_ids`, with dims of its own but for the samples.
    """
    made = Batches()
    ordered, _ = sort_nodes(list(nodes))
    producer = {value: node.id for node in ordered for value, _ in node.values()}
    own = {name for name in inputs if name not in set(shared)}
    changed: set[str] = set()
    for node in ordered:
        if any(source in own or owner(source, producer) in changed for source in node.sources()):
            changed.add(node.id)
    values: dict[str, list[tuple[str, str]]] = {}
    for batch, name, final in wanted:
        values.setdefault(batch, []).append((name, final))
    for batch, listed in values.items():

        def renamed(source: str, batch: str = batch) -> str:
            if source in own:
                made.inputs[f"{batch}_{source}"] = of_batch(inputs[source], batch)
                return f"{batch}_{source}"
            return f"{loss}.{batch}.{source}" if owner(source, producer) in changed else source

        needed = {p for _, final in listed if (p := owner(final, producer)) in changed}
        for node in reversed(ordered):
            if node.id in needed:
                needed |= {p for source in node.sources() if (p := owner(source, producer)) in changed}
        for node in ordered:
            if node.id in needed:
                feeds: dict[str, Source] = {
                    port: renamed(source) if isinstance(source, str) else tuple(renamed(s) for s in source)
                    for port, source in node.inputs.items()
                }
                bounds = {
                    k: f"{v}_{batch}" if k in ("start", "stop") and isinstance(v, str) and v != SAMPLES else v
                    for k, v in node.options.items()
                }
                made.nodes.append(replace(node, id=f"{loss}.{batch}.{node.id}", inputs=feeds, options=bounds))
        for name, final in listed:
            made.aliases[f"{loss}.{batch}.{name}"] = renamed(final)
    return made


def of_batch(type_: Type, batch: str) -> Type:
    """The type of an input of a batch: `ids[B, T_chosen]`."""
    values = {s: Dim.of(Symbol(f"{s.name}_{batch}")) for dim in type_.dims for s in dim.symbols() if s.name != SAMPLES}
    owners = tuple((str(Dim.of(Symbol(dim)).substitute(values)), whose) for dim, whose in type_.owners)
    return replace(type_.substitute(values), owners=owners)
