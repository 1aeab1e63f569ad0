"""Drawings of the bundled specs, measured in the SVG itself: nothing overlaps, no text leaves its box, no line runs through one."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import combinations
from pathlib import Path
from xml.etree import ElementTree

import pytest

import vlmgraph
from vlmgraph.report import diagram, svg
from vlmgraph.report.svg import NOTE, PILL, PORT, TITLE

ROOT = Path(__file__).parents[2]
SPECS = sorted(path.stem for path in ROOT.glob("specs/*.toml"))
NS = "{http://www.w3.org/2000/svg}"
WIDTH = {"title": TITLE, "note": NOTE, "type": PILL, "port": PORT}
HEIGHT = {"title": 13.0, "note": 11.0, "type": 11.0, "port": 10.0}


@dataclass(frozen=True)
class Area:
    left: float
    top: float
    right: float
    bottom: float
    what: str = ""

    def overlaps(self, other: Area, slack: float = 0.0) -> bool:
        return (
            min(self.right, other.right) - max(self.left, other.left) > slack
            and min(self.bottom, other.bottom) - max(self.top, other.top) > slack
        )

    def holds(self, other: Area) -> bool:
        return self.left <= other.left and other.right <= self.right and self.top <= other.top and other.bottom <= self.bottom


@cache
def drawing(name: str) -> ElementTree.Element:
    return ElementTree.fromstring(svg(diagram(vlmgraph.elaborate(name))))


def boxes(root: ElementTree.Element) -> list[Area]:
    found = []
    for rect in root.iter(f"{NS}rect"):
        x, y, w, h = (float(rect.get(k, "nan")) for k in ("x", "y", "width", "height"))
        found.append(Area(x, y, x + w, y + h, rect.get("class", "")))
    return found


def texts(root: ElementTree.Element, *kinds: str) -> list[Area]:
    """Their areas: monospaced, centred, the baseline at y."""
    found = []
    for text in root.iter(f"{NS}text"):
        kind = text.get("class", "")
        if kind in kinds:
            x, y, width = float(text.get("x", "nan")), float(text.get("y", "nan")), len(text.text or "") * WIDTH[kind]
            found.append(Area(x - width / 2, y - 0.75 * HEIGHT[kind], x + width / 2, y + 0.2 * HEIGHT[kind], text.text or ""))
    return found


def lines(root: ElementTree.Element) -> Iterator[list[tuple[float, float]]]:
    """Points along every edge."""
    for path in root.iter(f"{NS}path"):
        if not (path.get("class") or "").startswith("edge"):
            continue
        points: list[tuple[float, float]] = []
        for letter, numbers in re.findall(r"([MLC])([^MLC]*)", path.get("d", "")):
            values = [float(n) for n in numbers.split()]
            if letter == "C":
                (x0, y0), (x1, y1, x2, y2, x3, y3) = points[-1], values
                for step in range(1, 25):
                    t = step / 24
                    a, b, c, d = (1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t * t * (1 - t), t**3
                    points.append((a * x0 + b * x1 + c * x2 + d * x3, a * y0 + b * y1 + c * y2 + d * y3))
            elif letter == "L":
                (x0, y0), (x1, y1) = points[-1], values
                points += [(x0 + (x1 - x0) * s / 24, y0 + (y1 - y0) * s / 24) for s in range(1, 25)]
            else:
                points.append((values[0], values[1]))
        yield points


@pytest.mark.parametrize("name", SPECS)
class TestDrawings:
    def test_nothing_overlaps(self, name: str) -> None:
        placed = [*boxes(drawing(name)), *texts(drawing(name), "type")]
        assert len(placed) > 10
        assert [(a, b) for a, b in combinations(placed, 2) if a.overlaps(b)] == []

    def test_texts_stay_in_their_boxes(self, name: str) -> None:
        root = drawing(name)
        inside = texts(root, "title", "note", "port")
        homes = {text: [box for box in boxes(root) if box.holds(text)] for text in inside}
        assert [text for text, home in homes.items() if len(home) != 1] == []
        assert [(a, b) for a, b in combinations(inside, 2) if a.overlaps(b, 0.5)] == []

    def test_no_line_runs_through_a_box_or_a_type(self, name: str) -> None:
        root = drawing(name)
        solid = [Area(a.left + 1, a.top + 1, a.right - 1, a.bottom - 1, a.what) for a in (*boxes(root), *texts(root, "type"))]
        through = [
            (area, points[0], points[-1])
            for points in lines(root)
            for area in solid
            if any(area.left < x < area.right and area.top < y < area.bottom for x, y in points)
        ]
        assert through == []

    def test_lines_end_at_boxes(self, name: str) -> None:
        """Every arrow points at the upper side of a box, every stem leaves the lower side of one."""
        root = drawing(name)
        ends = [points[-1] for points, path in zip(lines(root), self.paths(root)) if path.get("marker-end")]
        stems = [points[0] for points, path in zip(lines(root), self.paths(root)) if not path.get("marker-end")]
        for (x, y), side in [*((p, "top") for p in ends), *((p, "bottom") for p in stems)]:
            assert any(b.left <= x <= b.right and abs(getattr(b, side) - y) < 0.2 for b in boxes(root)), (x, y, side)

    def paths(self, root: ElementTree.Element) -> list[ElementTree.Element]:
        return [p for p in root.iter(f"{NS}path") if (p.get("class") or "").startswith("edge")]

    def test_all_is_in_the_picture(self, name: str) -> None:
        root = drawing(name)
        _, _, width, height = map(float, root.get("viewBox", "").split())
        page = Area(0, 0, width, height)
        assert all(page.holds(a) for a in (*boxes(root), *texts(root, "type", "title", "note", "port")))
        assert all(0 <= x <= width and 0 <= y <= height for points in lines(root) for x, y in points)

    def test_every_node_that_does_something_is_drawn(self, name: str) -> None:
        graph = vlmgraph.elaborate(name)
        drawn = {item.id for item in diagram(graph).items}
        read = {graph.resolve(s) for n in graph.nodes for s in n.sources()} | {graph.resolve(o) for o in graph.outputs}
        assert {f"node:{n.id}" for n in graph.nodes if n.inputs and any(v in read for v, _ in n.values())} <= drawn


def test_what_travels_with_tokens_is_not_drawn_and_what_does_not_is() -> None:
    links = {(link.source, link.target, link.port) for link in diagram(vlmgraph.elaborate("cogvlm")).links}
    assert ("node:splice", "node:llm", "x") in links
    assert not any(target == "node:llm" and port in ("mask", "modality") for _, target, port in links)
    assert ("node:positions", "node:llm", "positions") in links, "the splice does not carry these"
    assert ("in:attention_mask", "node:splice", "mask") in links


def test_a_component_that_no_edge_reaches_is_not_drawn() -> None:
    """BLIP-2 uses its reader through nodes alone, so that the node of its own name stands unconnected."""
    items = {item.id for item in diagram(vlmgraph.elaborate("blip-2")).items}
    assert "node:qformer" not in items and {"node:alone", "node:both", "node:write", "node:prefix"} <= items


def test_slices_are_written_as_in_the_spec() -> None:
    notes = {item.subtitle for name in ("cogvlm", "blip-2") for item in diagram(vlmgraph.elaborate(name)).items if item.title == "slice"}
    assert notes == {"[1:]", "[0]"}
