"""What inference says of an edge whose ends disagree: both numbers, both parties and their places."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..diagnostics import Collector, Diagnostic, Label
from ..diagnostics import codes as C
from ..ir.dims import Dim, DimError, Symbol
from ..ir.graph import CALL, Graph, Node
from ..ir.types import Type
from ..ir.unify import Conflict, Unifier


@dataclass
class Findings:
    """Findings about a graph, with what is known of its dims so far."""

    graph: Graph
    found: Collector
    unifier: Unifier

    def value(self, dim: Dim) -> Dim:
        try:
            return self.unifier.value(dim)
        except DimError:
            return dim  # reported where it arose

    def final(self, type_: Type) -> Type:
        return replace(type_, dims=tuple(self.value(d) for d in type_.dims))

    def shown(self, type_: Type) -> str:
        """A type with private symbols shortened to their last name."""
        final = self.final(type_)
        names = {s: Dim.of(Symbol(s.name.rpartition(".")[2])) for d in final.dims for s in d.symbols() if s.flexible}
        return str(final.substitute(names))

    def label(self, key: str, text: str = "") -> Label | None:
        label = self.graph.labels.get(key)
        return replace(label, text=text) if label and text else label

    def report(self, code: str, message: str, key: str, other: str = "", fix: str | None = None, notes: tuple[str, ...] = ()) -> None:
        second = self.label(other, "the other party") if other else None
        self.found.add(Diagnostic(code, message, self.label(key), (second,) if second else (), notes, fix))

    def edge_report(
        self, code: str, node: Node, port: str, value: str, message: str, notes: tuple[str, ...] = (), axis: int | None = None
    ) -> None:
        """A finding about an edge, with both of its ends: where the fields are set that `axis` follows from, else the declarations."""
        edge = self.label(f"edge:{node.id}.{port}") or self.label(f"node:{node.id}")
        producer = value.split(".hidden.")[0].split("[")[0].split(".folded")[0]
        source = next((n for n in self.graph.nodes if n.id == producer), None)
        others = [
            self.set_here(source, value, axis)
            or self.label(f"input:{producer}", f"{producer} is declared here")
            or self.label(f"node:{producer}", f"{producer} comes from here"),
            self.set_here(node, port, axis) or self.label(f"component:{node.component}", f"{node.id} is declared here"),
        ]
        self.found.add(Diagnostic(code, message, edge, tuple(o for o in others if o and o != edge), notes))

    def set_here(self, node: Node | None, name: str, axis: int | None) -> Label | None:
        """The place of a field that a dim of a node's port (or of the value `name` of it) follows from."""
        if node is None or axis is None or node.op != CALL:
            return None
        ports = self.graph.config(node).signature(node.facet)
        outputs = {node.value(port): ports.outputs.get(port) for port in node.outputs}
        type_ = ports.inputs.get(name) or outputs.get(name)
        if type_ is None or -axis > len(type_.dims):
            return None
        fields = [s.name for s in type_.dims[axis].symbols()]
        labels = [self.label(f"field:{node.component}.{f}", f"{node.component}.{f} is set here") for f in fields]
        return next((label for label in labels if label), None)

    def dim_report(self, node: Node, port: str, value: str, type_: Type, shape: Type, ported: Type, axis: int, conflict: Conflict) -> None:
        """Name the dim that disagrees and say both numbers with both parties; `ported` is the port's type in this node's symbols."""
        want, have = (self.shown(Type("tokens", (d,)))[7:-1] for d in (conflict.left, conflict.right))
        name = str(shape.dims[axis])
        if shape.kind in ("image", "video") and axis in (-1, -2):
            code, what = C.WRONG_IMAGE_SIZE, "pixels " + ("wide" if axis == -1 else "high")
        elif shape.kind in ("tokens", "embedding", "patches", "regions") and axis == -1:
            code, what = C.WRONG_WIDTH, "wide"
        elif shape.kind == "tokens" and axis == -2:
            code, what = C.WRONG_TOKEN_COUNT, "tokens long"
        else:
            code, what = C.WRONG_DIM, f"in dim {name}"
        message = f"{value} is {have} {what}, but {node.id}.{port} is {want}"
        notes = (
            f"{value}: {self.shown(type_)}",
            f"{node.id}.{port}: {self.shown(ported)}",
        )
        self.edge_report(code, node, port, value, message, notes, axis)
