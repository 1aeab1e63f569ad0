"""Numbers for people: `17.64 B`, `1.2 GB`, `3.4 TFLOP`."""

from __future__ import annotations

_SCALES = ((10**15, "P"), (10**12, "T"), (10**9, "G"), (10**6, "M"), (10**3, "k"))


def short(count: float, giga: str = "B") -> str:
    """`17_639_685_376` → `17.64 B`; below a thousand the number itself."""
    for size, letter in _SCALES:
        if abs(count) >= size:
            return f"{count / size:.2f} {giga if letter == 'G' else letter}"
    return f"{count:g}" if isinstance(count, float) else str(count)


def size(count: int) -> str:
    """Bytes in decimal units."""
    for power, unit in ((10**12, "TB"), (10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if count >= power:
            return f"{count / power:.2f} {unit}"
    return f"{count} B"


def operations(count: int) -> str:
    """Floating-point operations."""
    text = short(count, "G")
    return f"{text}FLOP" if text[-1].isalpha() else f"{text} FLOP"
