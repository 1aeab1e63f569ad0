"""Where a benchmark runs: one thread of the processor, or a CUDA device."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

DEVICES = ("cpu", "cuda")


def split(arguments: list[str]) -> tuple[list[str], str]:
    """The names and the device of a command line; ends the process where a device is not there."""
    names, device = list(arguments), "cpu"
    if "--device" in names:
        at = names.index("--device")
        device = names[at + 1] if at + 1 < len(names) else ""
        del names[at : at + 2]
    if device not in DEVICES:
        sys.exit(f"--device takes {' or '.join(DEVICES)}, not {device!r}")
    if device == "cuda":
        import torch

        if not torch.cuda.is_available():
            sys.exit(f"there is no CUDA device here that torch {torch.__version__} can use: run this on a machine with one")
    return names, device


def described(device: str) -> str:
    """The device and what drives it; nothing of the processor, which every result tells of."""
    if device != "cuda":
        return ""
    import torch

    return f"{torch.cuda.get_device_name()}, CUDA {torch.version.cuda}"


def seconds(call: Callable[[], Any], device: str = "cpu") -> float:
    """How long a call takes, to the end of what it started on a device."""
    wait(device)
    start = time.perf_counter()
    call()
    wait(device)
    return time.perf_counter() - start


def wait(device: str) -> None:
    if device == "cuda":
        import torch

        torch.cuda.synchronize()


def bandwidth(device: str = "cpu") -> float:
    """GB/s of reading 0.5 GB (of a device 4 GB), which is much more than the caches hold: the best of nine. In huge pages, if there are."""
    import torch

    from vlmgraph import pages

    kind = torch.bfloat16 if device == "cuda" else torch.float32
    weights = torch.ones(65536 if device == "cuda" else 4096, 32768, dtype=kind, device=device)
    if device == "cpu":
        pages.collapse((weights.data_ptr(), weights.data_ptr() + weights.nbytes))
    best = min(seconds(weights.amax, device) for _ in range(9))
    return weights.numel() * weights.element_size() / best / 1e9
