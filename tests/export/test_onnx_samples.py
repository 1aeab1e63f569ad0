"""What programs are proved with: three sizes of every dim, what they draw as an input; components whose lengths follow from values."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim

import vlmgraph
from vlmgraph.export.onnx import export
from vlmgraph.export.onnx.widen import widened
from vlmgraph.ir.types import parse_type
from vlmgraph.nn.any_resolution import AnyResolution
from vlmgraph.nn.connectors import LearnedQueries
from vlmgraph.nn.splice import fill
from vlmgraph.nn.tiled_views import TiledViews

DRAWS = {
    "vlmgraph": 1,
    "inputs": {"x": "tokens[B, N, 8]", "length": "index[B]?"},
    "components": {"part": {"type": "connector.linear", "out": 8}, "prefix": {"type": "op.prefix_mask"}},
    "graph": {"edges": ["x -> [part, prefix]", "part -> y", "length -> prefix.length", "prefix -> first"]},
    "outputs": {"y": "tokens[B, N, 8]", "first": "mask[B, N]"},
    "programs": {"forward": {"outputs": ["y", "first"]}},
}


def test_what_is_drawn_is_an_input(tmp_path: Path) -> None:
    report = export(vlmgraph.compile(DRAWS), tmp_path)
    graph = json.loads((tmp_path / "manifest.json").read_text())["graphs"]["forward"]
    assert [i["name"] for i in graph["inputs"]] == ["x", "length"]
    assert all(r.error < 1e-6 for r in report.rows) and {r.output for r in report.rows} == {"y", "first"}


def test_three_sizes_of_what_a_program_takes() -> None:
    """B in any size; N in two, the other being refused: then the reason is kept."""
    types = {"x": parse_type("tokens[B, N, 8]"), "ids": parse_type("ids[B, N]")}

    def taken(values: dict[str, Tensor]) -> dict[str, Tensor]:
        assert values["x"].shape[:2] == values["ids"].shape
        if values["x"].shape[1] not in (5, 4):
            raise ValueError("only 4 or 5")
        return values

    more, fewer = widened([{"x": torch.randn(2, 5, 8), "ids": torch.ones(2, 5, dtype=torch.long)}], types, taken)
    assert len({v["x"].shape[0] for v in more} | {2}) >= 3
    assert list(fewer) == ["N"] and "only 4 or 5" in fewer["N"]


def agrees(module: nn.Module, shapes: Any, *calls: tuple[Tensor, ...]) -> None:
    """Traced with the first call and equal to eager in all."""
    program = torch.export.export(module, calls[0], dynamic_shapes=shapes).module()
    for call in calls:
        torch.testing.assert_close(program(*call), module(*call), rtol=0, atol=0)


def sized(*sizes: tuple[int, int]) -> Tensor:
    return torch.tensor(sizes)


def test_views_at_any_resolution() -> None:
    views = AnyResolution([(28, 28), (14, 42), (42, 14)], 14, 2, 8)
    calls = [
        (torch.randn(len(s), 5, 4, 8), s) for s in (sized((20, 50), (30, 31)), sized((60, 20), (28, 28), (9, 100)), sized((5, 5), (14, 42)))
    ]
    agrees(views, ({0: Dim.AUTO}, {0: Dim.AUTO}), *calls)


def test_tiled_views() -> None:
    """Images without tiles are padding."""
    calls = [(torch.randn(count, 4, 8), s) for count, s in ((3 + 5, sized((2, 1), (2, 2))), (2 + 7, sized((1, 1), (0, 0), (2, 3))))]
    agrees(TiledViews(2, 8), ({0: Dim.AUTO}, {0: Dim.AUTO}), *calls)


def test_queries_by_the_number_of_tokens() -> None:
    queries = LearnedQueries(8, 6, counts=[(16, 8), (4, 3)])
    agrees(queries, ({0: Dim.AUTO, 1: Dim.AUTO},), (torch.randn(3, 16, 6),), (torch.randn(2, 4, 6),))


class Filled(nn.Module):
    """Rows of which some are left out, in the place of tokens."""

    def forward(self, text: Tensor, here: Tensor, rows: Tensor, keep: Tensor) -> Tensor:
        return fill(text, here, rows[keep], "rows")


def test_rows_whose_number_is_a_value() -> None:
    def call(width: int, kept: list[bool]) -> tuple[Tensor, ...]:
        here = torch.zeros(2, width, dtype=torch.bool)
        here.view(-1)[: sum(kept)] = True
        return torch.randn(2, width, 4), here, torch.randn(len(kept), 4), torch.tensor(kept)

    shapes = ({1: Dim.AUTO}, {1: Dim.AUTO}, {0: Dim.AUTO}, {0: Dim.AUTO})
    agrees(Filled(), shapes, call(5, [True, False, True]), call(7, [True, True]), call(4, [False, False]))
