"""Orders in which samples are drawn: what `batching` names in the `data` of a stage."""

from __future__ import annotations

from collections.abc import Sequence

import torch


def group_by_modality(lengths: Sequence[int], batch: int, processes: int = 1, generator: torch.Generator | None = None) -> list[int]:
    """The order of samples in which batches are of one modality and of similar lengths (LLaVA-1.5, arXiv 2310.03744, section 3.3).

    lengths: of samples with images; of those without, the negative. Every run of batch x processes indices is of one kind, the longest
    first, dealt so that each process gets about as much; runs stand in random order, what fills none comes last.
    """
    if not all(lengths):
        raise ValueError("a sample of length 0 is of no modality")
    run = batch * processes
    full: list[list[int]] = []
    rest: list[int] = []
    for kind in (1, -1):
        own = [i for i, length in enumerate(lengths) if length * kind > 0]
        own = [own[j] for j in torch.randperm(len(own), generator=generator).tolist()]
        whole = len(own) - len(own) % run
        full += [own[start : start + run] for start in range(0, whole, run)]
        rest += own[whole:]
    order = [full[j] for j in torch.randperm(len(full), generator=generator).tolist()]
    return [i for some in order for i in dealt(some, lengths, processes)] + rest


def dealt(run: Sequence[int], lengths: Sequence[int], processes: int) -> list[int]:
    """The run as equal shares, one process after another: the longest sample left goes to whoever has least and room."""
    shares: list[list[int]] = [[] for _ in range(processes)]
    loads = [0] * processes
    for i in sorted(run, key=lambda i: -abs(lengths[i])):
        open_ = [p for p in range(processes) if len(shares[p]) < len(run) // processes]
        least = min(open_, key=lambda p: loads[p])
        shares[least].append(i)
        loads[least] += abs(lengths[i])
    return [i for share in shares for i in share]
