"""Rows that outlive a batch."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .losses import AllGather


class MemoryBank(nn.Module):
    """The last `rows` vectors that went in, first in, first out (MoCo, arXiv 1911.05722, section 3.1).

    x [B, width] → [rows, width] as they stood before this batch. What training gives enters in `after_step`, so that a loss reads the bank
    without its own batch; the places go round. At first the rows are random directions.
    """

    def __init__(self, rows: int, width: int) -> None:
        super().__init__()
        self.rows: Tensor
        self.place: Tensor
        self.register_buffer("rows", torch.empty(rows, width))
        self.register_buffer("place", torch.empty((), dtype=torch.long))
        self.waiting: list[Tensor] = []
        self.reset_parameters()

    def reset_parameters(self) -> None:
        with torch.no_grad():
            self.place.zero_()
            self.rows.normal_()
            self.rows.div_(self.rows.norm(dim=-1, keepdim=True))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.waiting.append(x.detach())
        return self.rows.to(x.dtype).clone()

    @torch.no_grad()
    def after_step(self) -> None:
        """Let in what the batches since the last step gave, the oldest rows going out."""
        for batch in self.waiting:
            several = torch.distributed.is_available() and torch.distributed.is_initialized()
            new = AllGather.apply(batch) if several else batch
            kept = new[-len(self.rows) :]  # of a batch larger than the bank the end stays
            places = (int(self.place) + torch.arange(len(new) - len(kept), len(new), device=new.device)) % len(self.rows)
            self.rows[places] = kept.to(self.rows.dtype)
            self.place.fill_((int(self.place) + len(new)) % len(self.rows))
        self.waiting = []
