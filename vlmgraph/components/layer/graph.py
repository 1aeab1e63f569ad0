"""block.graph and mlp.graph: an inner graph of a spec, `[blocks.Z]`, in a slot of a stack."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

from pydantic import Field, model_validator

from ...ir.dims import Dim
from ..base import Layer, load_symbol

if TYPE_CHECKING:
    from ...ir.graph import Graph


class GraphBlock(Layer, name="block.graph"):
    """What `type = "blocks.NAME"` in a slot becomes: the block's own table, its fields filled in.

    The first input is the stream, and the output replaces it: nothing is added around it. A second input is the media. Without
    media that it needs the block is left out. Parameters stand under the names of the inner components.
    """

    name: str = Field(description="name of the block")
    inputs: dict[str, str] = Field(description="types of the stream, of media and of their mask")
    outputs: list[str] | dict[str, str] = Field(default_factory=list, description="the one output")
    components: dict[str, Any] = Field(default_factory=dict, description="components by name")
    nodes: dict[str, Any] = Field(default_factory=dict, description="further uses of components")
    edges: list[str] = Field(description="edges of the inner graph")
    blocks: dict[str, Any] = Field(default_factory=dict, description="blocks that components are uses of")
    width: int | None = Field(None, ge=1, description="width of the tokens; the stack's")
    d_media: int | None = Field(None, ge=1, description="width of the media; inferred")
    module = "vlmgraph.nn.steps:Steps"

    @model_validator(mode="after")
    def _holds(self) -> GraphBlock:
        if self.width is not None and not self.open:
            _ = self.graph
        return self

    @property
    def open(self) -> bool:
        """Whether the width of the media is that of whatever is fed, and not known yet."""
        types = list(load_symbol("vlmgraph.elaborate.filling:filling_inputs")(self).values())
        return len(types) > 1 and types[1].dims[-1].constant is None

    @cached_property
    def graph(self) -> Graph:
        """The inner graph, typed. Raises ValueError."""
        return load_symbol("vlmgraph.elaborate.filling:filling_graph")(self)  # type: ignore[no-any-return]

    def parameters(self) -> dict[str, int]:
        if self.open:
            return dict.fromkeys(self.components, 0)  # before the media are known there are names alone
        configs = self.graph.components
        return {f"{id}.{part}".rstrip("."): count for id, config in configs.items() for part, count in config.parameters().items()}

    def flops(self, dims: Mapping[str, Dim]) -> Dim:
        """Of one sample: N tokens, K media."""
        if self.open:
            return Dim()
        types = list(self.graph.inputs.values())
        values = {s: Dim.of(1) for s in types[0].dims[0].symbols()} | dict.fromkeys(types[0].dims[1].symbols(), dims["N"])
        if len(types) > 1:
            if "K" not in dims and not types[1].optional:
                return Dim()
            values |= {s: dims.get("K", Dim()) for s in types[1].dims[1].symbols()}
        node_dims, known, cost = load_symbol("vlmgraph.report.cost:node_dims"), self.graph.types(), Dim()
        for node in self.graph.nodes:
            cost = cost + self.graph.config(node).flops(node_dims(self.graph, node, known))
        return cost.substitute(values)

    def build(self) -> Any:
        if self.open:
            raise ValueError(f"[blocks.{self.name}]: the width of the media follows from no edge: write a number in their type")
        graph, steps = self.graph, []
        for node in graph.nodes:
            config = graph.config(node)
            ports = config.signature(node.facet)
            needed = [port for port, type_ in ports.inputs.items() if not type_.optional]
            options: dict[str, Any] = dict(node.options)
            if taps := tuple(int(port.partition(".")[2]) for port in node.outputs if port.startswith("hidden.")):
                options["taps"] = taps
            inputs = {port: source if isinstance(source, str) else list(source) for port, source in node.inputs.items()}
            steps.append((node.id, [*node.component.split("."), *filter(None, [node.facet])], inputs, needed, options))
        parts = {id: config.build() for id, config in graph.components.items()}
        needs_media = any(not type_.optional for type_ in list(graph.inputs.values())[1:2])
        return load_symbol(self.module)(parts, steps, list(self.inputs), graph.resolve(next(iter(graph.outputs))), needs_media)


class GraphMLP(GraphBlock, name="mlp.graph"):
    """A `[blocks.Z]` graph in the place of an MLP."""
