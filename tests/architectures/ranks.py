"""What a process of a distributed test runs; importable by name, as spawned processes need it."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn

from vlmgraph.nn.losses import Contrastive, Sigmoid


def contrastive(rank: int, world: int, folder: str) -> None:
    share(Contrastive(gather=True), rank, world, folder)


def sigmoid(rank: int, world: int, folder: str) -> None:
    share(Sigmoid(gather=True), rank, world, folder)


def share(loss: nn.Module, rank: int, world: int, folder: str) -> None:
    """The loss of this process's share of a batch with the negatives of all, and its gradients, into `folder`/rank.pt."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world, timeout=timedelta(seconds=60))
    try:
        given = torch.load(Path(folder) / "batch.pt")
        own = {k: (x.chunk(world)[rank] if x.dim() else x).clone().requires_grad_() for k, x in given.items()}
        value = loss(**own)
        value.backward()
        torch.save({"loss": value.detach(), **{k: x.grad for k, x in own.items()}}, Path(folder) / f"{rank}.pt")
    finally:
        dist.destroy_process_group()
