"""Memory in huge pages, on Linux: what is read from one end to the other is read faster, as few addresses have to be looked up.

A kernel whose transparent huge pages are at `madvise`, the default of most, gives them only where they are asked for. Elsewhere, and with
VLMGRAPH_HUGE_PAGES=0 in the environment, nothing is done.
"""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path

Range = tuple[int, int]
"""First address, and the one behind the last."""
SETTINGS = Path("/sys/kernel/mm/transparent_hugepage")
MAPS = Path("/proc/self/maps")
PIECE = 16
"""Huge pages that one call collapses."""
HUGEPAGE, COLLAPSE = 14, 25
"""MADV_HUGEPAGE, for pages to come, and MADV_COLLAPSE (Linux 6.1), for those that are there."""


def size() -> int:
    """Bytes of a huge page; 0 where there are none."""
    return 0 if os.environ.get("VLMGRAPH_HUGE_PAGES") == "0" else supported()


@cache
def supported() -> int:
    try:
        if "[never]" in (SETTINGS / "enabled").read_text() or madvise() is None:
            return 0
        return int((SETTINGS / "hpage_pmd_size").read_text())
    except (OSError, ValueError):
        return 0


@cache
def madvise() -> Callable[[int, int, int], int] | None:
    try:
        found = ctypes.CDLL(None).madvise
    except (OSError, AttributeError, TypeError):
        return None
    found.argtypes, found.restype = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int], ctypes.c_int
    return found  # type: ignore[no-any-return]


def fresh(count: int) -> mmap.mmap:
    """So many bytes that were never written: what an allocator gives may stand in small pages already."""
    return mmap.mmap(-1, count, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)


def ask(where: Range) -> None:
    """For huge pages where memory is written for the first time from now on."""
    give(where, HUGEPAGE)


def collapse(where: Range) -> None:
    """Put what stands in memory into huge pages, at the same addresses. Piece by piece: the first page that cannot be moved ends a call."""
    give(where, HUGEPAGE)
    if page := size():
        step = PIECE * page
        for first in range(-(-where[0] // page) * page, where[1], step):
            give((first, min(first + step, where[1])), COLLAPSE)


def give(where: Range, advice: int) -> None:
    """To all whole huge pages of a range. What the kernel refuses stays as it is: nothing but speed hangs on it."""
    page = size()
    call = madvise() if page else None
    if call is None:
        return
    first, last = -(-where[0] // page) * page, where[1] // page * page
    if first < last:
        call(first, last - first, advice)


@contextmanager
def collapsing() -> Iterator[None]:
    """What is allocated meanwhile, in this process and not of files, is put into huge pages at the end.

    What an allocator had free in its heap is used again and looks like nothing new: the heap is put into huge pages whole.
    """
    before, _ = anonymous() if size() else ([], [])
    yield
    if size():
        now, heap = anonymous()
        for where in (*beyond(now, before), *heap):
            collapse(where)


def anonymous() -> tuple[list[Range], list[Range]]:
    """The ranges of this process that it alone reads and writes and that are of no file, in order: those that were mapped, and the heap."""
    try:
        lines = [line.split() for line in MAPS.read_text().splitlines()]
    except OSError:
        return [], []
    own = [(line[0].split("-"), line[5:]) for line in lines if line[1] == "rw-p"]
    mapped, heap = ([(int(a, 16), int(b, 16)) for (a, b), name in own if name == of] for of in ([], ["[heap]"]))
    return mapped, heap


def beyond(now: Sequence[Range], before: Sequence[Range]) -> list[Range]:
    """The parts of `now` that are not in `before`; both in order."""
    found = []
    for first, last in now:
        for held_first, held_last in before:
            if held_last <= first or held_first >= last:
                continue
            if first < held_first:
                found.append((first, held_first))
            first = max(first, held_last)
        if first < last:
            found.append((first, last))
    return found
