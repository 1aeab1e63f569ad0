"""The drawing's geometry on random graphs: nothing overlaps, everything flows down, straight chains are straight."""

from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlmgraph.report.layout import BEND_GAP, Box, layout


@st.composite
def graphs(draw: st.DrawFn) -> tuple[list[Box], list[tuple[str, str]]]:
    n = draw(st.integers(1, 14))
    boxes = [Box(str(i), draw(st.integers(20, 200)), draw(st.integers(10, 60))) for i in range(n)]
    pairs = list(combinations(range(n), 2))
    chosen = draw(st.lists(st.sampled_from(pairs), unique=True, max_size=25)) if pairs else []
    return boxes, [(str(a), str(b)) for a, b in chosen]


@settings(max_examples=150, deadline=None)
@given(graphs())
def test_boxes_stay_apart_and_edges_flow_down(graph: tuple[list[Box], list[tuple[str, str]]]) -> None:
    boxes, edges = graph
    placed = layout(boxes, edges)
    assert set(placed.centre) == {box.id for box in boxes}
    for a, b in combinations(boxes, 2):
        (ax, ay), (bx, by) = placed.centre[a.id], placed.centre[b.id]
        apart = abs(ax - bx) >= (a.width + b.width) / 2 + 10 or abs(ay - by) >= (a.height + b.height) / 2
        assert apart, (a, b)
    size = {box.id: box for box in boxes}
    for (source, target), bends in zip(edges, placed.bends):
        ys = [
            placed.centre[source][1] + size[source].height / 2,
            *(y for _, y in bends),
            placed.centre[target][1] - size[target].height / 2,
        ]
        assert all(low <= high + 1e-6 for low, high in zip(ys, ys[1:]))
        for x, y in bends:
            for box in boxes:
                cx, cy = placed.centre[box.id]
                inside = abs(x - cx) < box.width / 2 + BEND_GAP / 2 - 1e-6 and abs(y - cy) < box.height / 2 - 1e-6
                assert not inside, f"edge {source} -> {target} runs through box {box.id}"
    for box in boxes:
        x, y = placed.centre[box.id]
        assert box.width / 2 <= x <= placed.width - box.width / 2 and box.height / 2 <= y <= placed.height - box.height / 2


def test_a_chain_is_one_column() -> None:
    boxes = [Box(c, 40 + 30 * i, 20) for i, c in enumerate("abcd")]
    placed = layout(boxes, [("a", "b"), ("b", "c"), ("c", "d")])
    assert len({round(x, 3) for x, _ in placed.centre.values()}) == 1


def test_a_long_edge_is_straight_between_its_ends() -> None:
    boxes = [Box(c, 60, 20) for c in "abcdz"]
    placed = layout(boxes, [("a", "b"), ("b", "c"), ("c", "d"), ("d", "z"), ("a", "z")])
    xs = {round(x, 2) for x, _ in placed.bends[4]}
    assert len(xs) == 1 and len(placed.bends[4]) == 6


def test_crossings_are_removed() -> None:
    boxes = [Box(c, 40, 20) for c in "abxy"]
    placed = layout(boxes, [("a", "y"), ("b", "x")])
    order = lambda *ids: sorted(ids, key=lambda i: placed.centre[i][0])  # noqa: E731
    assert [{"a": "y", "b": "x"}[i] for i in order("a", "b")] == order("x", "y")


def test_a_cycle_is_refused() -> None:
    with pytest.raises(ValueError, match="cycle"):
        layout([Box("a", 1, 1), Box("b", 1, 1)], [("a", "b"), ("b", "a")])
