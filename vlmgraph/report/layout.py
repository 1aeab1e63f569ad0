"""A layered drawing of a directed acyclic graph: ranks, few crossings, straight long edges.

The steps are Sugiyama's (1981): ranks by longest path, chains of bends for edges that span ranks, barycentre sweeps against crossings,
and coordinates by least squares under a minimum distance, solved exactly for one rank at a time.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from math import inf

Point = tuple[float, float]


@dataclass(frozen=True)
class Box:
    """Something to place: `width` x `height`; a pair of boxes on one rank keeps `GAP` between them."""

    id: str
    width: float
    height: float


@dataclass
class Layout:
    """Centres of boxes, the bends of each edge (by its index, two for every rank it passes), and the size of the whole."""

    centre: dict[str, Point] = field(default_factory=dict)
    bends: list[list[Point]] = field(default_factory=list)
    width: float = 0.0
    height: float = 0.0


GAP = 26.0
BEND_GAP = 14.0
MARGIN = 16.0
FAR, LANE = 120.0, 6.0
SWEEPS = 24


def layout(boxes: Sequence[Box], edges: Sequence[tuple[str, str]], rank_gap: float = 30.0) -> Layout:
    """Place boxes from top to bottom. `edges` are pairs of ids and must have no cycle."""
    size = {box.id: box for box in boxes}
    rank = _ranks([box.id for box in boxes], edges)
    layers: list[list[str]] = [[] for _ in range(max(rank.values(), default=-1) + 1)]
    for box in boxes:
        layers[rank[box.id]].append(box.id)

    links: list[tuple[str, str]] = []
    chains: list[list[str]] = []
    for number, (source, target) in enumerate(edges):
        chain = [source]
        for level in range(rank[source] + 1, rank[target]):
            bend = f"\0{number}.{level}"
            size[bend] = Box(bend, 1.0, 0.0)
            layers[level].append(bend)
            chain.append(bend)
        chain.append(target)
        chains.append(chain)
        links.extend(zip(chain, chain[1:]))

    above: dict[str, list[str]] = {id: [] for id in size}
    below: dict[str, list[str]] = {id: [] for id in size}
    for source, target in dict.fromkeys(links):
        below[source].append(target)
        above[target].append(source)

    layers = _order(layers, above, below)
    x = _columns(layers, above, below, size)
    _straighten(layers, chains, x, size)
    placed = Layout()
    half: dict[str, float] = {}
    y = MARGIN
    gap = rank_gap
    for layer in layers:
        tall = max((size[id].height for id in layer), default=0.0)
        for id in layer:
            placed.centre[id] = (x[id], y + tall / 2)
            half[id] = tall / 2
        # lines that run far to the side lie on one another in a low gap
        far = sum(abs(x[id] - x[t]) > FAR for id in layer for t in below[id])
        gap = rank_gap + min(LANE * max(far - 1, 0), 4 * LANE)
        y += tall + gap
    left = min((x[id] - size[id].width / 2 for id in x), default=0.0) - MARGIN
    placed.centre = {id: (cx - left, cy) for id, (cx, cy) in placed.centre.items()}
    for chain in chains:
        passed = [(placed.centre[id], half[id]) for id in chain[1:-1]]
        placed.bends.append([(cx, cy + side) for (cx, cy), h in passed for side in (-h, h)])
    placed.width = max((placed.centre[id][0] + size[id].width / 2 for id in x), default=0.0) + MARGIN
    placed.height = y - gap + MARGIN
    placed.centre = {id: point for id, point in placed.centre.items() if not id.startswith("\0")}
    return placed


def _ranks(ids: Iterable[str], edges: Sequence[tuple[str, str]]) -> dict[str, int]:
    """Longest path from above; what has nothing above it stands right over its first reader."""
    ids = list(ids)
    above: dict[str, list[str]] = {id: [] for id in ids}
    below: dict[str, list[str]] = {id: [] for id in ids}
    waiting = dict.fromkeys(ids, 0)
    for source, target in edges:
        above[target].append(source)
        below[source].append(target)
        waiting[target] += 1
    rank = dict.fromkeys(ids, 0)
    ready = [id for id in ids if not waiting[id]]
    roots = set(ready)
    done = 0
    while ready:
        source = ready.pop()
        done += 1
        for target in below[source]:
            rank[target] = max(rank[target], rank[source] + 1)
            waiting[target] -= 1
            if not waiting[target]:
                ready.append(target)
    if done != len(ids):
        raise ValueError("the graph to draw has a cycle")
    # a root's only reader may itself be fed by one reader only (its label): pull the pair down together
    for id in sorted(ids, key=lambda i: -rank[i]):
        if below[id] and roots.issuperset(above[id]):
            rank[id] = min(rank[t] for t in below[id]) - 1
    return rank


def _order(layers: list[list[str]], above: dict[str, list[str]], below: dict[str, list[str]]) -> list[list[str]]:
    best, fewest = [list(layer) for layer in layers], _crossings(layers, below)
    current = [list(layer) for layer in layers]
    for sweep in range(SWEEPS):
        if not fewest:
            break
        down = sweep % 2 == 0
        order = range(1, len(current)) if down else range(len(current) - 2, -1, -1)
        for level in order:
            fixed = {id: at for at, id in enumerate(current[level - 1 if down else level + 1])}
            near = above if down else below
            seat = {id: float(at) for at, id in enumerate(current[level])}
            for id in current[level]:
                known = [fixed[n] for n in near[id] if n in fixed]
                if known:
                    seat[id] = sum(known) / len(known)
            current[level].sort(key=seat.__getitem__)
        crossings = _crossings(current, below)
        if crossings < fewest:
            best, fewest = [list(layer) for layer in current], crossings
    return best


def _crossings(layers: list[list[str]], below: dict[str, list[str]]) -> int:
    total = 0
    for upper, lower in zip(layers, layers[1:]):
        seat = {id: at for at, id in enumerate(lower)}
        ends = [seat[t] for s in upper for t in sorted((t for t in below[s] if t in seat), key=seat.__getitem__)]
        total += _inversions(ends)
    return total


def _inversions(values: list[int]) -> int:
    from bisect import bisect_right, insort

    seen: list[int] = []
    count = 0
    for value in values:
        count += len(seen) - bisect_right(seen, value)
        insort(seen, value)
    return count


def _columns(layers: list[list[str]], above: dict[str, list[str]], below: dict[str, list[str]], size: dict[str, Box]) -> dict[str, float]:
    """Horizontal centres. What follows one another without branching strives for one column."""
    x: dict[str, float] = {}
    for layer in layers:
        at = 0.0
        for id in layer:
            at += size[id].width / 2
            x[id] = at
            at += size[id].width / 2 + GAP
        middle = (x[layer[0]] + x[layer[-1]]) / 2 if layer else 0.0
        for id in layer:
            x[id] -= middle
    column: dict[str, list[str]] = {}
    for layer in layers:
        for id in layer:
            up = above[id]
            column[id] = column[up[0]] if len(up) == 1 and len(below[up[0]]) == 1 else []
            column[id].append(id)
    around = {id: [n for m in chain for n in above[m] + below[m] if column[n] is not chain] for id, chain in column.items()}
    for sweep in range(2 * SWEEPS):
        down = sweep % 2 == 0
        last = sweep >= 2 * SWEEPS - 6
        for level in range(len(layers)) if down else range(len(layers) - 1, -1, -1):
            layer = layers[level]
            wanted, weight = [], []
            for id in layer:
                own, near = column[id], around[id]
                mean = sum(x[n] for n in own) / len(own)
                if near and not last:
                    mean = 0.6 * mean + 0.4 * sum(x[n] for n in near) / len(near)
                wanted.append(mean)
                weight.append(6.0 if id.startswith("\0") else float(len(own)))
            apart = [_distance(size[a], size[b]) for a, b in zip(layer, layer[1:])]
            x.update(zip(layer, _spread(wanted, weight, apart)))
    return x


def _straighten(layers: list[list[str]], chains: list[list[str]], x: dict[str, float], size: dict[str, Box]) -> None:
    """Give the bends of an edge one column for as many ranks as the space between their neighbours allows."""
    beside: dict[str, tuple[str | None, str | None]] = {}
    for layer in layers:
        for left, id, right in zip([None, *layer], layer, [*layer[1:], None]):
            beside[id] = (left, right)

    def space(id: str) -> tuple[float, float]:
        left, right = beside[id]
        low = -inf if left is None else x[left] + _distance(size[left], size[id])
        high = inf if right is None else x[right] - _distance(size[id], size[right])
        return low, high

    for chain in chains:
        run: list[str] = []
        low, high = -inf, inf
        for id in chain[1:]:
            here = space(id) if id.startswith("\0") else (inf, -inf)  # the edge's end closes the last run
            if max(low, here[0]) > min(high, here[1]):
                middle = sum(x[n] for n in run) / max(len(run), 1)
                x.update(dict.fromkeys(run, min(max(middle, low), high)))
                run, low, high = [], -inf, inf
            run.append(id)
            low, high = max(low, here[0]), min(high, here[1])


def _distance(left: Box, right: Box) -> float:
    bend = left.id.startswith("\0") or right.id.startswith("\0")
    return (left.width + right.width) / 2 + (BEND_GAP if bend else GAP)


def _spread(wanted: list[float], weight: list[float], apart: list[float]) -> list[float]:
    """The places nearest to `wanted` (weighted least squares) that keep the order and the distances: pool adjacent violators."""
    offset = [0.0]
    for distance in apart:
        offset.append(offset[-1] + distance)
    pools: list[tuple[float, float, int]] = []  # mean, weight, how many
    for value, shift, w in zip(wanted, offset, weight):
        mean, total, count = value - shift, w, 1
        while pools and pools[-1][0] > mean:
            other, more, number = pools.pop()
            mean = (mean * total + other * more) / (total + more)
            total, count = total + more, count + number
        pools.append((mean, total, count))
    flat = [mean for mean, _, count in pools for _ in range(count)]
    return [value + shift for value, shift in zip(flat, offset)]
