"""Visual tokens: how many a picture becomes, symbolically and for pictures of given sizes."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any

from ..ir.dims import Dim, Symbol
from ..ir.graph import CALL, Graph

TEXT_PORTS = frozenset({"text", "ids", "mask", "modality", "positions", "grid", "spans", "labels", "owner"})


def visual_dims(graph: Graph, spliced: bool = False) -> dict[str, Dim]:
    """Tokens of one image at each port that takes visual features (splices and media ports), or after the vision towers; `spliced`: those
    of all images that go into the text."""
    types = graph.types()
    words = {type_.dims[-1] for type_ in graph.inputs.values() if type_.kind == "ids"}
    found: dict[str, Dim] = {}
    for node in graph.nodes:
        if node.op != CALL:
            continue
        splice = graph.config(node).kind == "op.splice"
        for port, source in node.inputs.items():
            if not ((splice and port not in TEXT_PORTS and not port.endswith("_mask")) or (port == "media" and not spliced)):
                continue
            for value in (source,) if isinstance(source, str) else source:
                type_ = types.get(graph.resolve(value), types.get(value))
                if type_ is not None and type_.kind in ("tokens", "patches", "embedding") and len(type_.dims) >= 2:
                    if port == "media" and type_.dims[-2] in words:
                        continue  # a decoder reads its encoder
                    found[f"{node.id}.{port}"] = prod(type_.dims[:-1], start=Dim.of(1)) if spliced else type_.dims[-2]
    if not found and not spliced:
        for node in graph.nodes:
            if node.op == CALL and graph.config(node).kind.startswith("vision."):
                out = next(iter(node.outputs.values()), None)
                if out is not None and out.kind == "tokens":
                    found[node.id] = out.dims[-2]
    return found


def patch_count(processor: Mapping[str, Any], width: int, height: int) -> int | None:
    """Patches of a picture at its own resolution by the spec's native-resolution processor; None where it has none.

    Raises DiagnosticError for a picture that the processor does not take.
    """
    grid = picture_grid(processor, width, height)
    return None if grid is None else grid[0] * grid[1]


def picture_grid(processor: Mapping[str, Any], width: int, height: int) -> tuple[int, int] | None:
    """Rows and columns of those patches."""
    kinds = ("processor.native", "processor.patches", "processor.padded")
    table = next((t for t in processor.values() if isinstance(t, Mapping) and t.get("type") in kinds), None)
    if table is None:
        return None
    from ..processor.config import Native, Padded, Patches
    from ..processor.native import smart_size
    from ..processor.padded import padded_size
    from ..processor.patches import patch_grid

    fields = {k: v for k, v in table.items() if k != "type"}
    if table["type"] == "processor.patches":
        return patch_grid(height, width, Patches(**fields))
    if table["type"] == "processor.padded":
        padded = Padded(**fields)
        tall, wide = padded_size(height, width, padded)
        return tall // padded.patch, wide // padded.patch
    config = Native(**fields)
    tall, wide = smart_size(height, width, config)
    return tall // config.patch, wide // config.patch


def picture_sides(graph: Graph, processor: Mapping[str, Any], width: int, height: int) -> dict[str, int]:
    """Rows and columns of pixels of a picture, by the symbols of the input that keeps its aspect ratio or is a square of some size."""
    found: dict[str, int] = {}
    for name, table in processor.items():
        if isinstance(table, Mapping) and table.get("type") == "processor.corner" and name in graph.inputs:
            found |= {s.name: table.get("size", 980) for dim in graph.inputs[name].dims[-2:] for s in dim.symbols()}
        if isinstance(table, Mapping) and table.get("type") == "processor.padded" and name in graph.inputs:
            from ..processor.config import Padded
            from ..processor.padded import padded_size

            sides = padded_size(height, width, Padded(**{k: v for k, v in table.items() if k != "type"}))
            found |= {s.name: n for dim, n in zip(graph.inputs[name].dims[-2:], sides) for s in dim.symbols()}
        if isinstance(table, Mapping) and table.get("type") == "processor.aspect" and name in graph.inputs:
            from ..processor.aspect import kept
            from ..processor.aspect_config import Aspect

            sides = kept(height, width, Aspect(**{k: v for k, v in table.items() if k != "type"}))
            found |= {s.name: n for dim, n in zip(graph.inputs[name].dims[-2:], sides) for s in dim.symbols()}
    return found


def packed_lengths(graph: Graph, processor: Mapping[str, Any], width: int, height: int) -> dict[Symbol, int]:
    """Tokens that nodes which pack items make of one picture, by the dim they give."""
    given: dict[str, Any] = {"sizes": [(height, width)], "entries": [entries(graph, processor, width, height)]}
    if grid := picture_grid(processor, width, height):
        merge = next((t.get("merge", 2) for t in processor.values() if isinstance(t, Mapping) and t.get("type") == "processor.native"), 1)
        given |= {"grid": [(1, *grid)], "merges": [merge]}
    for table in processor.values():
        if isinstance(table, Mapping) and table.get("type") == "processor.padded_tiles":
            given["tiles"] = [tile_grid(table, width, height)]
    found: dict[Symbol, int] = {}
    for node in graph.nodes:
        lengths = graph.config(node).lengths(given) if node.op == CALL else None
        for type_ in node.outputs.values() if lengths else ():
            found |= {symbol: int(lengths[0]) for symbol in type_.dims[0].symbols() if symbol.flexible and lengths}
    return found


def tile_grid(table: Mapping[str, Any], width: int, height: int) -> tuple[int, int]:
    """Columns and rows of tiles of a picture that is shown whole besides."""
    from ..processor.padded_tiles import best_grid
    from ..processor.padded_tiles_config import PaddedTiles

    config = PaddedTiles(**{k: v for k, v in table.items() if k != "type"})
    wide, tall = best_grid(width, height, config.grids())
    return wide // config.size, tall // config.size


def row_ends(processor: Mapping[str, Any], width: int, height: int) -> int:
    """Tokens of a picture that stand behind its rows of patches."""
    places = [p for t in processor.values() if isinstance(t, Mapping) and isinstance(t.get("place"), Mapping) for p in t["place"].values()]
    grid = picture_grid(processor, width, height)
    return grid[0] if grid and any(isinstance(p, Mapping) and p.get("row_end") is not None for p in places) else 0


def entries(graph: Graph, processor: Mapping[str, Any], width: int, height: int) -> int:
    """How many entries of its input a picture becomes: its tiles and the whole of it, where the processor cuts it; else 1."""
    kinds = ("processor.tiles", "processor.split", "processor.aspect")
    name = next((n for n, t in processor.items() if isinstance(t, Mapping) and t.get("type") in kinds), None)
    if name is None or name not in graph.inputs:
        return 1
    from ..processor import split, tiles
    from ..processor.config import Tiles
    from ..processor.split_config import Split

    table = processor[name]
    if table["type"] == "processor.aspect":
        return 5 if table.get("quarters") else 1
    fields = {"size": graph.inputs[name].dims[-1].constant, **{k: v for k, v in table.items() if k != "type"}}
    if table["type"] == "processor.split":
        cut = Split(**fields)
        rows, columns = split.tile_grid(height, width, cut) if cut.cut else (1, 1)
        return rows * columns + (rows * columns > 1)
    config = Tiles(**fields)
    columns, rows = tiles.tile_grid(height, width, config)
    return rows * columns + (rows * columns > 1 and config.thumbnail == "last")
