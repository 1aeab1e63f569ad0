"""The typed component graph: values, nodes, programs. Immutable; passes return new graphs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from ..diagnostics import Label
from .types import Type

if TYPE_CHECKING:
    from ..components.base import Component
    from ..components.inference import Procedure

Source = str | tuple[str, ...]
"""What feeds a port: a value name, or an ordered tuple of them for a list port."""

COMPANIONS = ("mask", "modality", "positions", "spans", "grid")

OPS = CALL, SLICE, FOLD, UNFOLD, JOIN = "call", "slice", "fold", "unfold", "join"


@dataclass(frozen=True)
class Node:
    """One use of a component, or one structural step.

    `op` is `call` for components; `slice` (options `axis`, `start`, `stop`, `index`), `fold` (leading `count` dims into one),
    `unfold` (back, by the shape of port `like`) and `join` (token dims into one) have no component.
    The default output's value is named like the node, others `node.port`.
    """

    id: str
    op: str = CALL
    component: str = ""
    facet: str = ""
    inputs: Mapping[str, Source] = field(default_factory=dict)
    outputs: Mapping[str, Type] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)

    def value(self, port: str = "") -> str:
        """The name of the value at an output port."""
        return self.id if not port or port == next(iter(self.outputs), "out") else f"{self.id}.{port}"

    def sources(self) -> Iterator[str]:
        """Every value this node reads."""
        for source in self.inputs.values():
            yield from (source,) if isinstance(source, str) else source

    def values(self) -> Iterator[tuple[str, Type]]:
        for port, type_ in self.outputs.items():
            yield self.value(port), type_


@dataclass(frozen=True)
class Program:
    """A declared entry point: what it gives, where it is cut, what it keeps between steps."""

    outputs: tuple[str, ...]
    inputs: tuple[str, ...] | None = None
    without: tuple[str, ...] = ()
    cache: tuple[str, ...] = ()
    carry: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Objective:
    """A loss in its own namespace: nodes of its own, and ports of the graph that it feeds otherwise in its slice.

    One over several named batches has the graph's nodes once more for each of them, and `inputs` of its own that feed those.
    """

    loss: str
    nodes: tuple[Node, ...]
    rebind: Mapping[tuple[str, str], Source] = field(default_factory=dict)
    when: str = ""
    inputs: Mapping[str, Type] = field(default_factory=dict)


@dataclass(frozen=True)
class Stage:
    train: tuple[str, ...]
    freeze: tuple[str, ...] = ()
    objectives: Mapping[str, float] = field(default_factory=dict)
    init: Mapping[str, Any] = field(default_factory=dict)
    after: str = ""


@dataclass(frozen=True)
class Copy:
    """A component with the fields of another, whose parameters are copies: never changed (`ema` None), or a moving average
    updated before or after the step."""

    of: str
    ema: float | None = None
    when: str = "after"


@dataclass(frozen=True)
class Entry:
    """An input of a block in one use of it: what it is declared as, and the values that feed it."""

    name: str
    block: str
    type: Type
    values: tuple[str, ...]


@dataclass(frozen=True)
class Graph:
    """Nodes stand in topological order. `aliases` names values (`logits` → `head`); declared outputs are among them."""

    name: str
    inputs: Mapping[str, Type]
    components: Mapping[str, Component]
    nodes: tuple[Node, ...]
    aliases: Mapping[str, str] = field(default_factory=dict)
    outputs: Mapping[str, Type] = field(default_factory=dict)
    programs: Mapping[str, Program] = field(default_factory=dict)
    objectives: Mapping[str, Objective] = field(default_factory=dict)
    stages: Mapping[str, Stage] = field(default_factory=dict)
    procedures: Mapping[str, Procedure] = field(default_factory=dict)
    """Host loops over programs, `[inference]`."""
    copies: Mapping[str, Copy] = field(default_factory=dict)
    """Component id → whose frozen or momentum copy it is."""
    ties: tuple[tuple[str, str], ...] = ()
    tokens: Mapping[str, int] = field(default_factory=dict)
    expect: Mapping[str, Any] = field(default_factory=dict)
    """The spec's `[expect]`: published counts to hold the derived ones against."""
    companions: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Value name → kind of companion → value name."""
    wired: tuple[Node, ...] = field(default=(), compare=False, repr=False)
    """The nodes as the spec wires them, before companions are fed and dims folded: what a slice with other feeds is typed from."""
    entries: tuple[Entry, ...] = field(default=(), compare=False, repr=False)
    """Declared types inside the graph: the inputs of uses of blocks."""
    labels: Mapping[str, Label] = field(default_factory=dict, compare=False, repr=False)
    """Places for diagnostics: `component:X`, `node:X`, `edge:X.port`, `input:X`, `field:X.name`, `program:P` ..."""

    def node(self, id: str) -> Node:
        return self.by_id[id]

    @property
    def by_id(self) -> dict[str, Node]:
        return {node.id: node for node in self.nodes}

    def types(self) -> dict[str, Type]:
        """The type of every value, aliases included."""
        found = dict(self.inputs)
        for node in self.nodes:
            found.update(node.values())
        found.update({alias: found[value] for alias, value in self.aliases.items() if value in found})
        return found

    def producers(self) -> dict[str, Node]:
        return {value: node for node in self.nodes for value, _ in node.values()}

    def resolve(self, name: str) -> str:
        """The value behind an alias (an alias of an alias, too)."""
        seen = set()
        while name in self.aliases and name not in seen:
            seen.add(name)
            name = self.aliases[name]
        return name

    def config(self, node: Node) -> Component:
        return self.components[node.component]

    def with_nodes(self, nodes: list[Node]) -> Graph:
        return replace(self, nodes=tuple(nodes))
