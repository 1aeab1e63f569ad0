"""What a diagram of a graph shows, before it is drawn: boxes by role, values with their types, and the edges between."""

from __future__ import annotations

from dataclasses import dataclass

from ..ir.graph import COMPANIONS, Graph, Node
from .numbers import short

STRUCTURAL = "step"


@dataclass(frozen=True)
class Item:
    """A box: an input, a node, an output or a loss. `role` decides its colour."""

    id: str
    title: str
    subtitle: str
    role: str


@dataclass(frozen=True)
class Link:
    """A value on its way into a port. `soft` ones carry a mask, positions or the like, or belong to an objective."""

    source: str
    target: str
    value: str
    type: str
    port: str = ""
    soft: bool = False


@dataclass(frozen=True)
class Diagram:
    title: str
    items: tuple[Item, ...]
    links: tuple[Link, ...]

    def roles(self) -> list[str]:
        return list(dict.fromkeys(item.role for item in self.items))


def diagram(graph: Graph, objectives: bool = True) -> Diagram:
    """The diagram of a whole graph. Inputs that nothing reads are left out, so are companions that a pass wired."""
    types = graph.types()
    items: dict[str, Item] = {}
    links: list[Link] = []
    home: dict[str, str] = {name: f"in:{name}" for name in graph.inputs}
    carried = {value for kinds in graph.companions.values() for value in kinds.values()}

    def connect(node: Node, target: str, soft: bool) -> None:
        first = next(iter(node.inputs), "")
        several = sum(1 for _ in node.sources()) > 1
        for port, source in node.inputs.items():
            companion = port.split("_")[-1] in COMPANIONS
            for value in (source,) if isinstance(source, str) else source:
                value = graph.resolve(value)
                if value not in home or (companion and value in carried and port != first):
                    continue
                label = port if several and not (companion and port == first) else ""
                links.append(Link(home[value], target, value, str(types.get(value, "")), label, soft or companion))

    for node in graph.nodes:
        for value, _ in node.values():
            home[value] = f"node:{node.id}"
    for node in graph.nodes:
        items[f"node:{node.id}"] = _box(graph, node)
        connect(node, f"node:{node.id}", False)
    if objectives:
        for name, objective in graph.objectives.items():
            for node in objective.nodes:
                for value, type_ in node.values():
                    home[value] = f"loss:{name}.{node.id}"
                    types[value] = type_
            for node in objective.nodes:
                target = f"loss:{name}.{node.id}"
                kind = graph.components[node.component].kind if node.component in graph.components else node.op
                items[target] = Item(target, node.id.removeprefix(f"{name}."), kind, "loss")
                connect(node, target, True)
    for name, type_ in graph.outputs.items():
        value = graph.resolve(name)
        if value in home:
            items[f"out:{name}"] = Item(f"out:{name}", name, "", "output")
            links.append(Link(home[value], f"out:{name}", value, str(types.get(value, type_))))
    read = {link.source for link in links}
    inputs = [Item(f"in:{n}", n, "", "input") for n in graph.inputs if f"in:{n}" in read]
    return Diagram(graph.name, (*inputs, *items.values()), tuple(links))


def _box(graph: Graph, node: Node) -> Item:
    if not node.component:
        what = ", ".join(f"{key} {value}" for key, value in node.options.items())
        return Item(f"node:{node.id}", node.op, what, STRUCTURAL)
    config = graph.config(node)
    title = node.id if node.id == node.component else f"{node.id} = {node.component}"
    if node.facet:
        title += f".{node.facet}"
    total = config.total()
    kind = config.kind + (f" · {short(total)}" if total else "")
    return Item(f"node:{node.id}", title, kind, config.role or STRUCTURAL)
