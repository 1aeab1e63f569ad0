"""Which canvas of tiles a picture goes on, and what of the canvas it fills (LLaVA-NeXT's any resolution). Plain numbers, no tensors."""

from __future__ import annotations

from collections.abc import Sequence


def best_canvas(height: int, width: int, canvases: Sequence[Sequence[int]]) -> tuple[int, int]:
    """The (height, width) that shows most of the picture's own pixels; of equal ones that with the least area left over, then the first."""
    best, most, least = (0, 0), -1, 0
    for tall, wide in canvases:
        scale = min(wide / width, tall / height)
        shown = min(int(width * scale) * int(height * scale), width * height)
        if shown > most or (shown == most and tall * wide - shown < least):
            best, most, least = (tall, wide), shown, tall * wide - shown
    return best


def margins(height: int, width: int, rows: int, columns: int) -> tuple[int, int]:
    """Rows above and below, and columns at both sides, of a map of rows x columns that a picture in the middle leaves empty."""
    if width / height > columns / rows:
        return (rows - int(round(height * (columns / width), 7))) // 2, 0
    return 0, (columns - int(round(width * (rows / height), 7))) // 2
