"""Vision transformers: patches in front of a stack (ViT, arXiv 2010.11929)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .position import FractionalPositions, ImagePositions
from .stack import Stack


class ConvPatch(nn.Module):
    """Image [B, channels, H, W] → patches [B, rows * columns, width], behind `norm` where there is one, and (rows, columns)."""

    def __init__(self, patch: int, width: int, channels: int = 3, bias: bool = True, norm: nn.Module | None = None) -> None:
        super().__init__()
        self.proj = nn.Conv2d(channels, width, patch, stride=patch, bias=bias)
        self.norm = norm

    def forward(self, image: Tensor) -> tuple[Tensor, int, int]:
        x = self.proj(image)
        rows, columns = x.shape[2], x.shape[3]
        x = x.flatten(2).transpose(1, 2)
        return x if self.norm is None else self.norm(x), rows, columns


class LinearPatch(nn.Module):
    """Patches cut beforehand: [P, d_patch] → [P, width]. A convolution whose stride is its kernel, reshaped."""

    def __init__(self, d_patch: int, width: int, bias: bool = True) -> None:
        super().__init__()
        self.proj = nn.Linear(d_patch, width, bias=bias)

    def forward(self, patches: Tensor) -> tuple[Tensor, int, int]:
        return self.proj(patches), 0, 0


class VisionTransformer(Stack):
    """x: image [B, 3, H, W] → tokens [B, prefix + patches, width], or patches [P, d] with their grid [n, 3] → [P, width].

    `cls` puts a class token in front, `registers` as many learned tokens behind it; `image_position` is added to all. `pre_norm` acts on
    what enters the stack (CLIP). `drop_prefix` leaves class and register tokens out of the output and of every tap. `mask` [B, patches]
    says which patches are real: nothing attends to the others. `prefix` [B, patches] goes to the mask rules.
    """

    def __init__(
        self,
        patch: nn.Module,
        layers: Sequence[nn.Module],
        width: int,
        cls: bool = True,
        registers: int = 0,
        position: ImagePositions | FractionalPositions | None = None,
        pre_norm: nn.Module | None = None,
        drop_prefix: bool = False,
        std: float = 0.02,
        **options: Any,
    ) -> None:
        super().__init__(layers, **options)
        self.patch = patch
        self.cls = nn.Parameter(torch.empty(width)) if cls else None
        self.registers = nn.Parameter(torch.empty(registers, width)) if registers else None
        self.position = position
        self.pre_norm = pre_norm
        self.prefix, self.drop_prefix, self.std = int(cls) + registers, drop_prefix, std
        self.reset_parameters()

    def reset_parameters(self) -> None:
        for tokens in (self.cls, self.registers):
            if tokens is not None:
                nn.init.normal_(tokens, std=self.std)

    def forward(  # type: ignore[override]
        self,
        x: Tensor,
        grid: Tensor | None = None,
        mask: Tensor | None = None,
        prefix: Tensor | None = None,
        taps: Sequence[int] = (),
        until: bool = False,
        **media: Any,
    ) -> Tensor | dict[str, Tensor]:
        x, rows, columns = self.patch(x)
        front = [tokens for tokens in (None if self.cls is None else self.cls[None], self.registers) if tokens is not None]
        if front:
            x = torch.cat([torch.cat(front).to(x.dtype).expand(x.shape[0], -1, -1), x], dim=1)
        if self.position is not None:
            x = self.position(x, rows, columns, mask)
        if mask is not None and self.prefix:
            mask = torch.cat([mask.new_ones(mask.shape[0], self.prefix), mask], dim=1)
        if self.pre_norm is not None:
            x = self.pre_norm(x)
        out = super().forward(x, mask=mask, grid=grid, prefix=prefix, taps=taps, until=until, **media)
        if not (self.drop_prefix and self.prefix):
            return out
        return {name: y[:, self.prefix :] for name, y in out.items()} if isinstance(out, dict) else out[:, self.prefix :]

    def enter(self, x: Tensor, positions: Tensor) -> Tensor:
        """As it is: patches have their position already."""
        return x
