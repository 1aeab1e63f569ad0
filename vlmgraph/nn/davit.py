"""DaViT's dual blocks: attention among the places of a window, then among channels (arXiv 2204.03645)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from .attention import Projections
from .mlp import MLP


class WindowAttention(Projections):
    """Attention inside windows of `window` x `window` places that do not overlap: [B, H, W, d] → the same (section 3.2).

    Where the window does not divide the map, zeros fill it up on the right and at the bottom; they take part.
    """

    def __init__(self, width: int, heads: int, window: int, bias: str = "qkvo") -> None:
        super().__init__(width, width, width, width, bias)
        self.heads, self.window = heads, window

    def forward(self, x: Tensor) -> Tensor:
        height, width, side = x.shape[1], x.shape[2], self.window
        x = F.pad(x, (0, 0, 0, -width % side, 0, -height % side))
        rows, columns = x.shape[1] // side, x.shape[2] // side
        x = x.unflatten(2, (columns, side)).unflatten(1, (rows, side)).transpose(2, 3).flatten(3, 4)  # [B, rows, columns, places, d]
        q, k, v = self.heads_of(self.q(x)), self.heads_of(self.k(x)), self.heads_of(self.v(x))
        y = self.out(F.scaled_dot_product_attention(q, k, v).transpose(3, 4).flatten(4))
        y = y.unflatten(3, (side, side)).transpose(2, 3).flatten(3, 4).flatten(1, 2)
        return y[:, :height, :width]

    def heads_of(self, x: Tensor) -> Tensor:
        """[B, rows, columns, places, d] → [B, rows, columns, heads, places, d / heads]."""
        return x.unflatten(-1, (self.heads, -1)).transpose(3, 4)


class ChannelAttention(Projections):
    """Channels of a group attend to each other: [B, H, W, d] → the same (section 3.3). A channel's features are its values at all N places,
    so the scores are scaled by N ** -0.5, and there are as many as a group has channels, whatever the size of the map."""

    def __init__(self, width: int, groups: int, bias: str = "qkvo") -> None:
        super().__init__(width, width, width, width, bias)
        self.groups = groups

    def forward(self, x: Tensor) -> Tensor:
        height = x.shape[1]
        x = x.flatten(1, 2)
        y = F.scaled_dot_product_attention(self.channels(self.q(x)), self.channels(self.k(x)), self.channels(self.v(x)))
        return self.out(y.permute(0, 3, 1, 2).flatten(2)).unflatten(1, (height, -1))

    def channels(self, x: Tensor) -> Tensor:
        """[B, N, d] → [B, groups, d / groups, N]."""
        return x.unflatten(-1, (self.groups, -1)).permute(0, 2, 3, 1)


class HalfBlock(nn.Module):
    """x + depthwise convolution, x + attention(norm x), x + depthwise convolution, x + mlp(norm x) on a map [B, d, H, W]."""

    def __init__(self, attention: nn.Module, mlp: MLP, width: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.convs = nn.ModuleDict({name: nn.Conv2d(width, width, 3, padding=1, groups=width) for name in ("attention", "mlp")})
        self.norms = nn.ModuleDict({name: nn.LayerNorm(width, eps=eps) for name in ("attention", "mlp")})
        self.attention, self.mlp = attention, mlp

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.convs["attention"](x)
        x = x.permute(0, 2, 3, 1)
        x = x + self.attention(self.norms["attention"](x))
        x = x.permute(0, 3, 1, 2)
        x = x + self.convs["mlp"](x)
        x = x.permute(0, 2, 3, 1)
        x = x + self.mlp(self.norms["mlp"](x))
        return x.permute(0, 3, 1, 2)


class DualBlock(nn.Module):
    """A half block with window attention, then one with channel attention: map [B, d, H, W] → the same."""

    def __init__(self, width: int, heads: int, groups: int, window: int, hidden: int, act: nn.Module, bias: str = "qkvo") -> None:
        super().__init__()
        self.spatial = HalfBlock(WindowAttention(width, heads, window, bias), MLP(width, hidden, act), width)
        self.channel = HalfBlock(ChannelAttention(width, groups, bias), MLP(width, hidden, act), width)

    def forward(self, x: Tensor) -> Tensor:
        return self.channel(self.spatial(x))
