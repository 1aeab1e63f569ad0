"""What a diagram of a graph shows, before it is drawn: boxes by role, values with their types, and the edges between."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..ir.graph import COMPANIONS, SLICE, Graph, Node
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
    """The diagram of a whole graph. What no edge reaches is left out, so is what travels with tokens."""
    types = graph.types()
    items: dict[str, Item] = {}
    links: list[Link] = []
    home: dict[str, str] = {name: f"in:{name}" for name in graph.inputs}

    def travels(node: Node, port: str, value: str, first: str) -> bool:
        """Whether the value comes along with the tokens of another port, so that their line stands for both."""
        owner, _, kind = port.rpartition("_")
        source = node.inputs.get(owner or first)
        return isinstance(source, str) and port != first and graph.companions.get(graph.resolve(source), {}).get(kind) == value

    def connect(node: Node, target: str, soft: bool) -> None:
        entering: list[Link] = []
        ports = graph.config(node).signature(node.facet).inputs if node.component in graph.components else node.inputs
        first = next(iter(ports), "")
        for port, source in node.inputs.items():
            companion = port.split("_")[-1] in COMPANIONS
            for value in (source,) if isinstance(source, str) else source:
                value = graph.resolve(value)
                if value not in home or travels(node, port, value, first):
                    continue
                entering.append(Link(home[value], target, value, str(types.get(value, "")), port, soft or companion))
        if len(entering) == 1:
            entering = [replace(entering[0], port="")]
        links.extend(entering)

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
            for (id, port), source in objective.rebind.items():
                for value in (source,) if isinstance(source, str) else source:
                    value = graph.resolve(value)
                    link = Link(home.get(value, ""), f"node:{id}", value, str(types.get(value, "")), port, True)
                    # what one objective feeds otherwise may close a circle with what all the others use
                    if link.source and f"node:{id}" in items and not leads(links, link.target, link.source):
                        links.append(link)
    for name, type_ in graph.outputs.items():
        value = graph.resolve(name)
        if value in home:
            items[f"out:{name}"] = Item(f"out:{name}", name, "", "output")
            links.append(Link(home[value], f"out:{name}", value, str(types.get(value, type_))))
    joined = {end for link in links for end in (link.source, link.target)}
    inputs = [Item(f"in:{n}", n, "", "input") for n in graph.inputs]
    return Diagram(graph.name, tuple(item for item in (*inputs, *items.values()) if item.id in joined), tuple(links))


def leads(links: list[Link], start: str, end: str) -> bool:
    """Whether there is a way from one item to another."""
    reached, left = {start}, [start]
    while left:
        here = left.pop()
        following = {link.target for link in links if link.source == here} - reached
        reached |= following
        left.extend(following)
    return end in reached


def _step(node: Node) -> str:
    """A slice as in the spec, `[1:]` or `[0]`; what else a step is told by name."""
    options = dict(node.options)
    if node.op == SLICE:
        start, stop = ("" if options.get(end) is None else str(options[end]) for end in ("start", "stop"))
        return f"[{options['index']}]" if options.get("index") is not None else f"[{start}:{stop}]"
    return ", ".join(f"{key} {value}" for key, value in options.items())


def _box(graph: Graph, node: Node) -> Item:
    if not node.component:
        return Item(f"node:{node.id}", node.op, _step(node), STRUCTURAL)
    config = graph.config(node)
    title = node.id if node.id == node.component else f"{node.id} = {node.component}"
    if node.facet:
        title += f".{node.facet}"
    total = config.total()
    kind = config.kind + (f" · {short(total)}" if total else "")
    return Item(f"node:{node.id}", title, kind, config.role or STRUCTURAL)
