"""`[blocks.Z]` as the filling of a slot: the block's table becomes a layer, and the layer's inner graph is wired and typed like a spec."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from ..diagnostics import Collector, Diagnostic
from ..diagnostics import codes as C
from ..ir.dims import Dim, DimError
from ..ir.graph import CALL, Graph
from ..ir.types import Type, parse_type
from ..spec import Spec, read_spec
from .blocks import block_fields, edges_of, fill, part, unknown_block

Path = tuple[str | int, ...]

FILLED = {"block": "block.graph", "mlp": "mlp.graph"}
"""Slots that take a block, and the layer that it becomes there."""
SLOTS = (*FILLED, "attention", "cross", "norm", "position")


def with_fillings(spec: Spec, found: Collector, fields: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """The fields of a component with layers in the place of `type = "blocks.Z"`. What does not fit its slot is reported, and left alone."""
    return {name: _filled(spec, found, name, value, (*path, name)) for name, value in fields.items()}


def _filled(spec: Spec, found: Collector, name: str, value: Any, path: Path) -> Any:
    if isinstance(value, list):
        return [_filled(spec, found, name, item, (*path, i)) for i, item in enumerate(value)]
    kind = value.get("type") if isinstance(value, Mapping) else value if name in SLOTS else None
    if isinstance(kind, str) and kind.startswith("blocks."):
        own = {k: v for k, v in value.items() if k != "type"} if isinstance(value, Mapping) else {}
        return _layer(spec, found, name, kind.removeprefix("blocks."), own, path) or value
    if isinstance(value, Mapping):
        return {k: _filled(spec, found, k, v, (*path, k)) for k, v in value.items()}
    return value


def _layer(spec: Spec, found: Collector, slot: str, name: str, own: Mapping[str, Any], path: Path) -> dict[str, Any] | None:
    at = spec.label((*path, "type"), "used here") or spec.label(path, "used here")
    blocks = {k: t for k, t in part(spec.data, "blocks").items() if isinstance(t, Mapping)}
    if name not in blocks:
        unknown_block(spec, found, name, blocks, at)
        return None
    if slot not in FILLED:
        text = f"a block fills the slots {' and '.join(FILLED)}, not {slot!r}"
        fix = (
            f'write a layer of the family {slot}.*, or insert the block: insert = [{{ name = ..., block = {{ type = "blocks.{name}" }} }}]'
        )
        found.add(Diagnostic(C.INVALID_FIELD, text, at, fix=fix))
        return None
    block = blocks[name]
    fields = block_fields(spec, found, name, block, own, path)
    inner = {key: fill(block[key], fields) for key in ("inputs", "outputs", "components", "nodes") if key in block}
    edges = [fill(text, fields) for listed in (block.get("edges"), part(block, "graph").get("edges")) for _, text in edges_of(listed, ())]
    further = {other: blocks[other] for other in sorted(_named(inner.get("components", {}), blocks) - {name})}
    return {"type": FILLED[slot], "name": name, **inner, "edges": edges, **({"blocks": further} if further else {})}


def _named(components: Mapping[str, Any], blocks: Mapping[str, Any]) -> set[str]:
    """The blocks that these components are made of, and those inside them."""
    wanted, seen = list(_texts(components)), set[str]()
    while wanted:
        name = wanted.pop().removeprefix("blocks.")
        if name in blocks and name not in seen:
            seen.add(name)
            wanted += _texts(part(blocks[name], "components"))
    return seen


def _texts(value: Any) -> Iterator[str]:
    """Every text that may name a block."""
    if isinstance(value, str) and value.startswith("blocks."):
        yield value
    for child in value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ():
        yield from _texts(child)


def filling_graph(layer: Any) -> Graph:
    """The typed inner graph of a layer made of a block, at the width of the stack that it stands in. Raises ValueError with what is wrong.

    Its first input is the stream and its output replaces it; a second one is the media of the insertion, `NAME_mask` beside it their mask.
    """
    types = filling_inputs(layer)
    stream = next(iter(types.values()))
    output, edges = _output(layer)
    spec = read_spec(
        {
            "vlmgraph": 1,
            "inputs": {port: str(type_) for port, type_ in types.items()},
            "outputs": {output: str(replace(stream, optional=False))},
            "components": dict(layer.components),
            "nodes": dict(layer.nodes),
            "blocks": dict(layer.blocks),
            "graph": {"edges": edges},
        }
    )
    from ..passes.carry import Carry
    from ..passes.infer import Infer
    from .build import elaborate

    found = Collector(list(spec.diagnostics))
    graph = elaborate(spec, found)
    if graph is not None and not found.failed:
        graph = Infer().run(Carry().run(graph, found), found)
    errors = [d for d in found.found if d.severity == "error"]
    if errors or graph is None:
        first = errors[0]
        raise ValueError(f"[blocks.{layer.name}] does not fit here: {first.message}" + (f"; {first.fix}" if first.fix else ""))
    folded = next((node for node in graph.nodes if node.op != CALL), None)
    if folded is not None:
        raise ValueError(f"[blocks.{layer.name}] has the step {folded.op} ({folded.id}): a block in a slot is made of components alone")
    return graph


def filling_inputs(layer: Any) -> dict[str, Type]:
    """The inputs of the block, of the stack's width and of the media's. Raises ValueError for others than a filling is given."""
    types: dict[str, Type] = {}
    for port, text in layer.inputs.items():
        try:
            types[port] = parse_type(text)
        except DimError as error:
            raise ValueError(f"[blocks.{layer.name}] {port}: {error}") from None
    name, widths = f"[blocks.{layer.name}]", (layer.width, layer.d_media)
    for i, (port, type_) in enumerate(list(types.items())):
        media = list(types)[1] if len(types) > 1 else ""
        if i == 2 and port == f"{media}_mask" and type_.kind == "mask":
            continue
        if i > 1 or type_.kind != "tokens" or len(type_.dims) != 3 or type_.list:
            given = "tokens[B, N, width], then media tokens[B, M, width] and their mask"
            raise ValueError(f"{name} takes {port}: {type_}, but a block in a slot is given {given}")
        width, own = widths[i], type_.dims[-1].constant
        if width is not None and own is not None and own != width:
            raise ValueError(f"{name} takes {port}: {type_}, but the {'media are' if i else 'stack is'} {width} wide")
        if width is not None:
            types[port] = type_.with_dims((*type_.dims[:-1], Dim.of(width)))
    if not types:
        raise ValueError(f"{name} has no inputs: a block in a slot takes the stream, tokens[B, N, width]")
    return types


def _output(layer: Any) -> tuple[str, list[str]]:
    """The name of the block's one output in its graph, and the edges."""
    outputs = layer.outputs or ["out"]
    if len(outputs) != 1:
        raise ValueError(f"[blocks.{layer.name}] has {len(outputs)} outputs, but one of them replaces the stream")
    name = next(iter(outputs))
    value = outputs[name] if isinstance(outputs, Mapping) else name if name in layer.components or name in layer.nodes else None
    edges = list(layer.edges)
    return (name, edges) if value is None else ("returned", [*edges, f"{value} -> returned"])


__all__ = ["filling_graph", "with_fillings"]
