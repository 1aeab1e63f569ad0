"""A diagram as one SVG: boxes coloured by role, every value written with its type, light and dark."""

from __future__ import annotations

from collections import Counter
from html import escape

from .diagram import Diagram, Item, Link
from .layout import Box, Layout, Point, layout

# role → (fill, line) in light, (fill, line) in dark
COLOURS: dict[str, tuple[tuple[str, str], tuple[str, str]]] = {
    "input": (("#f3f4f6", "#6b7280"), ("#262b33", "#9aa4b2")),
    "encoder": (("#dbeafe", "#2563eb"), ("#14284a", "#6ea8fe")),
    "connector": (("#fef3c7", "#b45309"), ("#3b2a0a", "#e0a83e")),
    "decoder": (("#dcfce7", "#15803d"), ("#0f3320", "#5cc98a")),
    "head": (("#f3e8ff", "#7e22ce"), ("#2f1a47", "#bd8cf2")),
    "loss": (("#ffe4e6", "#be123c"), ("#43131f", "#f08a9d")),
    "op": (("#ffffff", "#6b7280"), ("#1b2028", "#9aa4b2")),
    "step": (("#ffffff", "#9ca3af"), ("#1b2028", "#7d8794")),
    "output": (("#f3f4f6", "#111827"), ("#262b33", "#e5e7eb")),
}
TITLE, NOTE, PILL, PORT = 7.9, 6.65, 6.35, 6.05
"""Widths of one monospaced character at the four text sizes (13, 11, 10.5 and 10 px)."""


def svg(diagram: Diagram) -> str:
    """The whole drawing as text. Needs no font, script or file from elsewhere."""
    entering: dict[str, list[Link]] = {}
    for link in diagram.links:
        entering.setdefault(link.target, []).append(link)
    boxes = {item.id: _box(item, entering.get(item.id, [])) for item in diagram.items}
    labels: dict[tuple[str, str], Box] = {}
    for link in diagram.links:
        if link.type:
            labels.setdefault((link.source, link.value), Box(f"\1{link.source}\1{link.value}", len(link.type) * PILL + 10, 16))
    # every value is one stem from its producer to its type, and one branch from there to each reader
    edges = [(source, labels[source, value].id) for source, value in labels]
    for link in diagram.links:
        label = labels.get((link.source, link.value))
        edges.append((label.id if label else link.source, link.target))
    placed = layout([*boxes.values(), *labels.values()], edges, rank_gap=20)

    body: list[str] = []
    starts = _leaving(edges, placed, boxes)
    hard = {(link.source, link.value) for link in diagram.links if not link.soft}
    for number, (key, label) in enumerate(labels.items()):
        top = _shift(placed.centre[label.id], -8)
        body.append(_path([starts[number], *placed.bends[number], top], key not in hard, arrow=False))
    stops = _entering(diagram, entering, placed, boxes, len(labels))
    readers = Counter((link.source, link.value) for link in diagram.links)
    for number, link in enumerate(diagram.links):
        label = labels.get((link.source, link.value))
        edge = number + len(labels)
        start = starts[edge]
        if label:
            x, y = placed.centre[label.id]
            towards = placed.bends[edge][0][0] if placed.bends[edge] else stops[number][0]
            start = (_within(towards, x, label.width) if readers[link.source, link.value] == 1 else x, y + 8)
        body.append(_path([start, *placed.bends[edge], stops[number]], link.soft, arrow=True))
    types = {(link.source, link.value): link.type for link in diagram.links}
    for key, label in labels.items():
        x, y = placed.centre[label.id]
        body.append(f'<text class="type" x="{x:.1f}" y="{y + 3.5:.1f}">{escape(types[key])}</text>')
    for item in diagram.items:
        body.append(_draw(item, boxes[item.id], placed.centre[item.id]))
    for number, link in enumerate(diagram.links):
        if link.port:
            x, y = stops[number]
            body.append(f'<text class="port" x="{x:.1f}" y="{y + 11:.1f}">{escape(link.port)}</text>')
    size = f'width="{placed.width:.0f}" height="{placed.height:.0f}" viewBox="0 0 {placed.width:.0f} {placed.height:.0f}"'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" class="vlmgraph" aria-label="{escape(diagram.title)}">\n'
        f"<title>{escape(diagram.title)}</title>\n<style>{_style(diagram.roles())}</style>\n"
        '<defs><marker id="vg-arrow" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0 0.6 L8 4 L0 7.4 z" class="tip"/></marker></defs>\n' + "\n".join(body) + "\n</svg>\n"
    )


def _box(item: Item, entering: list[Link]) -> Box:
    ports = [_slot(link) for link in entering if link.port]
    width = max(len(item.title) * TITLE, len(item.subtitle) * NOTE, sum(ports)) + 24
    return Box(item.id, max(width, 64), (42 if item.subtitle else 28) + (12 if ports else 0))


def _slot(link: Link) -> float:
    return max(len(link.port) * PORT, 8) + 12


def _leaving(edges: list[tuple[str, str]], placed: Layout, boxes: dict[str, Box]) -> list[Point]:
    """Where each edge starts: spread over the lower side of its box, in the order of where they go."""
    by_box: dict[str, list[int]] = {}
    for number, (source, _) in enumerate(edges):
        by_box.setdefault(source, []).append(number)
    starts: list[Point] = [(0.0, 0.0)] * len(edges)
    for id, numbers in by_box.items():
        x, y = placed.centre[id]
        if id not in boxes:
            continue
        towards = {n: placed.bends[n][0][0] if placed.bends[n] else placed.centre[edges[n][1]][0] for n in numbers}
        if len(numbers) == 1:
            starts[numbers[0]] = (_within(towards[numbers[0]], x, boxes[id].width), y + boxes[id].height / 2)
            continue
        numbers.sort(key=towards.__getitem__)
        for at, number in enumerate(numbers):
            starts[number] = (x + ((at + 0.5) / len(numbers) - 0.5) * (boxes[id].width - 28), y + boxes[id].height / 2)
    return starts


def _entering(diagram: Diagram, entering: dict[str, list[Link]], placed: Layout, boxes: dict[str, Box], stems: int) -> list[Point]:
    """Where each link ends: every port has a slot on the upper side as wide as its name, in the order of where they come from."""
    numbers = {id(link): number for number, link in enumerate(diagram.links)}
    stops: list[Point] = [(0.0, 0.0)] * len(diagram.links)

    def origin(link: Link) -> float:
        bends = placed.bends[stems + numbers[id(link)]]
        return bends[-1][0] if bends else placed.centre.get(f"\1{link.source}\1{link.value}", placed.centre[link.source])[0]

    for target, links in entering.items():
        x, y = placed.centre[target]
        if len(links) == 1:
            stops[numbers[id(links[0])]] = (_within(origin(links[0]), x, boxes[target].width), y - boxes[target].height / 2)
            continue
        ordered = sorted(links, key=origin)
        room = boxes[target].width - 24
        slack = max(room - sum(_slot(link) for link in ordered), 0.0) / len(ordered)
        at = x - room / 2
        for link in ordered:
            width = _slot(link) + slack
            stops[numbers[id(link)]] = (at + width / 2, y - boxes[target].height / 2)
            at += width
    return stops


def _within(x: float, centre: float, width: float) -> float:
    """`x`, or the nearest place on a side of that width: a line that can go straight down does."""
    room = max(width / 2 - 16, 0.0)
    return min(max(x, centre - room), centre + room)


def _shift(point: Point, dy: float) -> Point:
    return point[0], point[1] + dy


def _path(points: list[Point], soft: bool, arrow: bool) -> str:
    """A smooth line whose tangents are vertical at every bend."""
    x, y = points[0]
    d = f"M{x:.1f} {y:.1f}"
    for nx, ny in points[1:]:
        if abs(nx - x) < 0.5:
            d += f" L{nx:.1f} {ny:.1f}"
        else:
            half = (y + ny) / 2
            d += f" C{x:.1f} {half:.1f} {nx:.1f} {half:.1f} {nx:.1f} {ny:.1f}"
        x, y = nx, ny
    marker = ' marker-end="url(#vg-arrow)"' if arrow else ""
    return f'<path class="{"edge soft" if soft else "edge"}" d="{d}"{marker}/>'


def _draw(item: Item, box: Box, centre: Point) -> str:
    x, y = centre
    radius = box.height / 2 if item.role in ("input", "output") else 6
    rect = (
        f'<rect class="box {item.role}" x="{x - box.width / 2:.1f}" y="{y - box.height / 2:.1f}" '
        f'width="{box.width:.1f}" height="{box.height:.1f}" rx="{radius:.0f}"/>'
    )
    low = y + box.height / 2
    if not item.subtitle:
        return f'{rect}<text class="title" x="{x:.1f}" y="{low - 9.5:.1f}">{escape(item.title)}</text>'
    return (
        f'{rect}<text class="title" x="{x:.1f}" y="{low - 23:.1f}">{escape(item.title)}</text>'
        f'<text class="note" x="{x:.1f}" y="{low - 8:.1f}">{escape(item.subtitle)}</text>'
    )


def _style(roles: list[str]) -> str:
    def paint(dark: int) -> str:
        ink, dim, edge, paper = (("#1b1f24", "#57606a", "#6e7781", "#ffffff"), ("#e6edf3", "#9aa4b2", "#8b949e", "#0d1117"))[dark]
        rules = "".join(
            f".vlmgraph .{role}{{fill:{fill};stroke:{line}}}" for role in roles for fill, line in [COLOURS.get(role, COLOURS["op"])[dark]]
        )
        return (
            f".vlmgraph{{background:{paper}}}.vlmgraph .title{{fill:{ink}}}.vlmgraph .note,.vlmgraph .port{{fill:{dim}}}"
            f".vlmgraph .type{{fill:{dim};stroke:{paper}}}.vlmgraph .edge{{stroke:{edge}}}.vlmgraph .tip{{fill:{edge}}}{rules}"
        )

    return (
        ".vlmgraph text{font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,'DejaVu Sans Mono',monospace;text-anchor:middle}"
        ".vlmgraph .title{font-size:13px;font-weight:600}.vlmgraph .note{font-size:11px}.vlmgraph .type{font-size:10.5px;"
        "paint-order:stroke;stroke-width:3px}.vlmgraph .port{font-size:10px}.vlmgraph .box{stroke-width:1.4}"
        ".vlmgraph .edge{fill:none;stroke-width:1.3}.vlmgraph .soft{stroke-dasharray:4 3}"
        f"{paint(0)}@media (prefers-color-scheme:dark){{{paint(1)}}}"
    )
