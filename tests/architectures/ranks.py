"""What a process of a distributed test runs; importable by name, as spawned processes need it."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

from vlmgraph.nn.losses import Contrastive


def contrastive(rank: int, world: int, folder: str) -> None:
    """The loss of this process's share of a batch with the negatives of all, and its gradients, into `folder`/rank.pt."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world, timeout=timedelta(seconds=60))
    try:
        given = torch.load(Path(folder) / "batch.pt")
        image, text = (x.chunk(world)[rank].clone().requires_grad_() for x in (given["image"], given["text"]))
        scale = given["scale"].clone().requires_grad_()
        loss = Contrastive(gather=True)(image, text, scale)
        loss.backward()
        torch.save({"loss": loss.detach(), "image": image.grad, "text": text.grad, "scale": scale.grad}, Path(folder) / f"{rank}.pt")
    finally:
        dist.destroy_process_group()
