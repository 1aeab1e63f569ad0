"""Names of values → the values: aliases, list ports of blocks, ports that nothing feeds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from ..diagnostics import Diagnostic
from ..diagnostics import codes as C
from ..ir.graph import Node, Source
from .wiring import Wiring


@dataclass
class Names:
    """What the wiring calls values by; `absent` are names without a value, which optional ports do without."""

    wiring: Wiring
    absent: set[str]

    def final(self, name: str) -> str:
        return final(name, self.wiring.aliases)

    def values(self, name: str) -> list[str]:
        """The value behind a name, or the values of a block's list port."""
        value = self.final(name)
        if value in self.wiring.bundles:
            return [v for inner in self.wiring.bundles[value] for v in self.values(inner)]
        return [] if value in self.absent else [value]

    def source(self, source: Source) -> Source | None:
        """A source by the names of its values; None where nothing is left of it."""
        if isinstance(source, str):
            return next(iter(self.values(source)), None)
        return tuple(v for name in source for v in self.values(name)) or None

    def node(self, node: Node) -> Node:
        """The node reading values by their own names, and nothing that is absent."""
        inputs: dict[str, Source] = {}
        for port, source in node.inputs.items():
            self.check(node, port, source)
            value = self.source(source)
            if value is not None:
                inputs[port] = value
        return replace(node, inputs=inputs)

    def check(self, node: Node, port: str, source: Source) -> None:
        if not isinstance(source, str) or self.final(source) not in self.wiring.bundles:
            return
        count = len(self.values(source))
        text = f"{node.id}.{port} takes one value, {source} is a list of {count}"
        label = self.wiring.labels.get(f"edge:{node.id}.{port}") or self.wiring.labels.get(f"node:{node.id}")
        self.wiring.found.add(Diagnostic(C.NOT_A_LIST_PORT, text, label))


def final(name: str, aliases: Mapping[str, str]) -> str:
    """The end of a chain of aliases."""
    seen: set[str] = set()
    while name in aliases and name not in seen:
        seen.add(name)
        name = aliases[name]
    return name


def read_names(wiring: Wiring, nodes: list[Node]) -> set[str]:
    """The final names that the nodes read, list ports of blocks opened."""
    waiting = [final(source, wiring.aliases) for node in nodes for source in node.sources()]
    found: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += [final(inner, wiring.aliases) for inner in wiring.bundles.get(name, ())]
    return found
