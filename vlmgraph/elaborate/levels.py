"""A list into a port for one value: an op, or a component with `per = "level"`, maps over it."""

from __future__ import annotations

from dataclasses import replace

from ..diagnostics import Diagnostic
from ..diagnostics import codes as C
from ..ir.graph import CALL, Node, Source
from ..ir.types import Type
from .names import Names
from .wiring import Wiring


def map_levels(wiring: Wiring, nodes: list[Node], names: Names) -> list[Node]:
    """The nodes with those that map over a list once for each of its values: `enter.0`, `enter.1`, ..., each with parameters of its own.

    What such a node gives is a list again, for the next node that maps and for list ports.
    """
    done: list[Node] = []
    waiting, changed = list(nodes), True
    while changed:
        changed, rest = False, []
        for node in waiting:
            lists = lists_of(wiring, node, names)
            if not lists:
                rest.append(node)
            elif count := one_count(wiring, node, lists):
                done += spread(wiring, node, lists, count)
                changed = True
            else:
                done.append(replace(node, inputs={port: s for port, s in node.inputs.items() if port not in lists}))
        waiting = rest
    kept = {node.component for node in (*waiting, *done)}
    mapped = {node.component.rpartition(".")[0] for node in done if node.op == CALL}
    for component in mapped - kept:
        wiring.configs.built.pop(component, None)
    order = {node.id: i for i, node in enumerate(nodes)}
    return sorted((*waiting, *done), key=lambda node: order.get(node.id, order.get(wiring.origins.get(node.id, ""), 0)))


def lists_of(wiring: Wiring, node: Node, names: Names) -> dict[str, list[str]]:
    """The ports for one value that a list of several leads into, where the node maps."""
    if node.op == CALL and not wiring.maps(node.component):
        return {}
    ports = wiring.configs.built[node.component].signature(node.facet).inputs if node.op == CALL else {}
    found = {}
    for port, source in node.inputs.items():
        single = isinstance(source, str) and not (port in ports and ports[port].list)
        if single and names.final(str(source)) in wiring.bundles:
            found[port] = names.values(str(source))
    return found


def one_count(wiring: Wiring, node: Node, lists: dict[str, list[str]]) -> int:
    """How many values the lists have; 0 after reporting that they disagree."""
    counts = {port: len(values) for port, values in lists.items()}
    if len(set(counts.values())) == 1:
        return next(iter(counts.values()))
    text = f"{node.id} maps over lists of different lengths: " + ", ".join(f"{port} has {count}" for port, count in counts.items())
    wiring.found.add(Diagnostic(C.NOT_A_LIST_PORT, text, wiring.labels.get(f"node:{node.id}")))
    return 0


def spread(wiring: Wiring, node: Node, lists: dict[str, list[str]], count: int) -> list[Node]:
    """The node for every value, and its outputs as lists."""
    made: list[Node] = []
    for i in range(count):
        inputs: dict[str, Source] = {port: lists[port][i] if port in lists else source for port, source in node.inputs.items()}
        if node.op == CALL:
            id, component = f"{node.id}.{i}", f"{node.component}.{i}"
            wiring.configs.built[component] = wiring.configs.built[node.component]
        else:
            id, component = f"{lists['x'][i]}{node.id[len(str(node.inputs['x'])) :]}", ""
        made.append(replace(node, id=id, component=component, inputs=inputs))
        wiring.origins[id] = node.id
        for key in (f"node:{node.id}", *(f"edge:{node.id}.{port}" for port in inputs)):
            wiring.note(key.replace(node.id, id, 1), wiring.labels.get(key))
    outputs: dict[str, Type] = dict(node.outputs)
    for port in outputs:
        wiring.bundles[node.value(port)] = tuple(level.value(port) for level in made)
    return made


def lists_at_the_end(wiring: Wiring, names: Names) -> None:
    """Outputs of the graph that turn out to be lists."""
    for name in wiring.declared:
        value = names.final(name)
        if value in wiring.bundles:
            text = f"output {name} is one value, {value} is a list of {len(names.values(value))}"
            at = wiring.labels.get(f"edge:{name}")
            wiring.found.add(Diagnostic(C.NOT_A_LIST_PORT, text, at, fix="join them before: op.add, op.concat"))
            wiring.aliases[name] = wiring.UNKNOWN
