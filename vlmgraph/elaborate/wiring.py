"""Edges → nodes and their inputs. Types are not looked at here; only which names and ports exist."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from ..diagnostics import Diagnostic, Label
from ..diagnostics import codes as C
from ..ir.graph import CALL, Node, Source
from ..spec.edges import Chain, EdgeError, Endpoint, Group, parse_edge
from .endpoints import Block, Broken, Draft, Ends, Scope, narrow


@dataclass
class Wiring(Ends):
    """Collects nodes and connections of one spec."""

    # ---- nodes

    def add_node(
        self, id: str, component: str, facet: str = "", options: Mapping[str, Any] | None = None, label: Label | None = None
    ) -> None:
        config = self.configs.build(component)
        if config is None:
            self.broken.add(id)
            return
        self.drafts[id] = Draft(id, component, facet, config.signature(facet), dict(options or {}), label=label)
        if label:
            self.labels[f"node:{id}"] = label

    # ---- edges

    def edge(self, text: Any, label: Label | None, scope: Scope) -> None:
        """Read one edge and connect it. Problems are collected, never raised."""
        if not isinstance(text, str):
            self.found.add(Diagnostic(C.BAD_EDGE, f"an edge is a string, not {type(text).__name__}", label))
            return
        try:
            chain = parse_edge(text)
        except EdgeError as error:
            self.found.add(Diagnostic(C.BAD_EDGE, str(error), narrow(label, error.offset, error.offset + 1)))
            return
        self.connect(chain, label, scope)

    def connect(self, chain: Chain, label: Label | None, scope: Scope) -> None:
        if len(chain.links) < 2:
            self.found.add(Diagnostic(C.BAD_EDGE, "an edge needs two ends: `a -> b`", label))
            return
        made: dict[int, str] = {}  # inline ops are one node each, though they are met as an end and as a start
        lost: set[int] = set()
        for i, (left, right) in enumerate(zip(chain.links, chain.links[1:], strict=False)):
            lefts = left.items if isinstance(left, Group) else (left,)
            rights = right.items if isinstance(right, Group) else (right,)
            sources: list[str] = []
            for end in lefts:
                try:
                    if id(end) in lost:
                        raise Broken
                    sources += self.sources(end, label, scope, made.get(id(end)), first=i == 0)
                except Broken:
                    sources.append(self.UNKNOWN)
            for end in rights:
                try:
                    node, port = self.destination(end, label, scope, made)
                except Broken:
                    lost.add(id(end))
                    continue
                self.feed(node, port, sources, narrow(label, chain_start(left), end.end), scope, grouped=len(sources) > 1)

    def feed(self, node: str, port: str, sources: list[str], label: Label | None, scope: Scope, grouped: bool) -> None:
        draft = self.drafts.get(node)
        if draft is None:  # a declared output, or a port of a block
            self.name(node, sources, label)
            return
        type_ = draft.ports.inputs[port]
        if grouped and not type_.list and port not in draft.inputs and not scope.objective and self.maps(draft.component):
            each = f"{node}.{port}.each"
            self.bundles[each], sources = tuple(sources), [each]
        elif grouped and not type_.list:
            text, note = f"{node}.{port} takes one value, {len(sources)} are given", f"{node}.{port} is {type_}"
            maps = 'a component maps over a list with `per = "level"`, in each of its levels with own parameters'
            self.found.add(Diagnostic(C.NOT_A_LIST_PORT, text, label, notes=(note, maps)))
            draft.inputs.setdefault(port, self.UNKNOWN)
            return
        if type_.list and node == scope.loss and self.batches.get(scope.objective):
            sources = self.on_every_batch(scope.objective, sources)
        source: Source = tuple(sources) if type_.list else sources[0]
        own = node == scope.loss or node.startswith(scope.loss + ".")
        if scope.objective and not own:
            self.rebind.setdefault(scope.objective, {})[node, port] = source
            self.note(f"edge:{scope.objective}:{node}.{port}", label)
            return
        if port in draft.inputs:
            if type_.list:
                draft.inputs[port] = (*draft.inputs[port], *source)
                return
            self.double(node, port, label)
            return
        draft.inputs[port] = source
        self.note(f"edge:{node}.{port}", label)

    def maps(self, component: str) -> bool:
        """Whether a component takes every value of a list by itself: an op does, another one where its table says `per = "level"`."""
        table = self.configs.tables.get(component, ({}, ()))[0]
        return self.configs.built[component].role == "op" or table.get("per") == "level"

    def name(self, alias: str, sources: list[str], label: Label | None) -> None:
        """Give a value the name of a declared output or of a block's port; a block's list port names several."""
        many = alias in self.lists
        if len(sources) > 1 and not many:
            self.found.add(Diagnostic(C.NOT_A_LIST_PORT, f"{alias} takes one value, {len(sources)} are given", label))
        elif many:
            self.bundles[alias] = (*self.bundles.get(alias, ()), *sources)
        elif alias in self.aliases:
            self.double(alias, "", label)
        else:
            self.aliases[alias] = sources[0]
        self.note(f"edge:{alias}", label)

    def double(self, node: str, port: str, label: Label | None) -> None:
        name = f"{node}.{port}" if port else node
        first = self.labels.get(f"edge:{name}")
        other = (replace(first, text="fed here first"),) if first else ()
        self.found.add(
            Diagnostic(
                C.TWO_EDGES, f"two edges lead into {name}", label and replace(label, text="and again here"), other, fix="remove one of them"
            )
        )

    # ---- the result

    def nodes(self) -> list[Node]:
        """All nodes, aliases not yet resolved, in order of appearance."""
        made = []
        for draft in (*self.drafts.values(), *self.scores.values()):
            config = self.configs.built.get(draft.component)
            lazy = set(config.requested) - draft.requested if config is not None else set()
            outputs = {port: type_ for port, type_ in draft.ports.outputs.items() if port not in lazy}
            hidden = outputs.get("hidden", next(iter(outputs.values()), None))
            outputs |= {f"hidden.{i}": hidden for i in sorted(draft.taps) if hidden is not None}
            made.append(Node(draft.id, CALL, draft.component, draft.facet, draft.inputs, outputs, draft.options))
        return [*made, *self.slices.values()]


def chain_start(link: Endpoint | Group) -> int:
    return link.items[0].start if isinstance(link, Group) else link.start


__all__ = ["Block", "Broken", "Scope", "Wiring"]
