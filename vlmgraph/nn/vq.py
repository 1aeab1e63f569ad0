"""VQ image tokenizer: pixels → ids of a learned codebook → pixels (VQGAN, arXiv 2012.09841; LlamaGen, arXiv 2406.06525)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def group_norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(32, channels, eps=1e-6)


def conv3(channels_in: int, channels_out: int) -> nn.Conv2d:
    return nn.Conv2d(channels_in, channels_out, 3, padding=1)


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions, each after group norm and swish: [B, c_in, h, w] → [B, c_out, h, w]."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.norm1 = group_norm(channels_in)
        self.conv1 = conv3(channels_in, channels_out)
        self.norm2 = group_norm(channels_out)
        self.conv2 = conv3(channels_out, channels_out)
        self.shortcut = nn.Conv2d(channels_in, channels_out, 1) if channels_in != channels_out else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(F.silu(self.norm1(x)))
        y = self.conv2(F.silu(self.norm2(y)))
        return self.shortcut(x) + y


class PixelAttention(nn.Module):
    """One-head attention over all positions of a map: [B, c, h, w] → the same."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = group_norm(channels)
        self.q = nn.Conv2d(channels, channels, 1)
        self.k = nn.Conv2d(channels, channels, 1)
        self.v = nn.Conv2d(channels, channels, 1)
        self.out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        q, k, v = (f(y).flatten(2).transpose(1, 2) for f in (self.q, self.k, self.v))  # [B, h*w, c]
        y = F.scaled_dot_product_attention(q, k, v)
        return x + self.out(y.transpose(1, 2).reshape(x.shape))


class Downsample(nn.Module):
    """Halves the map; the padding is at the right and at the bottom only."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Doubles the map: nearest neighbour, then a convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = conv3(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class Level(nn.Module):
    """The blocks of one resolution, each followed by attention where `attention`, then the change of resolution."""

    def __init__(self, channels_in: int, channels_out: int, blocks: int, attention: bool, resample: nn.Module) -> None:
        super().__init__()
        widths = [channels_in] + [channels_out] * (blocks - 1)
        self.blocks = nn.ModuleList(ResidualBlock(c, channels_out) for c in widths)
        self.attentions = nn.ModuleList(PixelAttention(channels_out) if attention else nn.Identity() for _ in widths)
        self.resample = resample

    def forward(self, x: Tensor) -> Tensor:
        for block, attention in zip(self.blocks, self.attentions):
            x = attention(block(x))
        return self.resample(x)


def middle(channels: int) -> nn.Sequential:
    return nn.Sequential(ResidualBlock(channels, channels), PixelAttention(channels), ResidualBlock(channels, channels))


class VQEncoder(nn.Module):
    """Pixels in [-1, 1] → ids in raster order: [B, 3, H, W] → [B, (H/f)*(W/f)], f = 2**(levels - 1).

    distance "cosine" compares directions (LlamaGen and the official Janus code: both sides are normalised first);
    "euclidean" compares the vectors as they are (VQGAN; the Janus of transformers encodes so).
    """

    def __init__(
        self,
        codebook: nn.Embedding,
        channels: int = 128,
        multipliers: Sequence[int] = (1, 1, 2, 2, 4),
        blocks: int = 2,
        latent: int = 256,
        distance: str = "cosine",
    ) -> None:
        super().__init__()
        widths = [channels * m for m in multipliers]
        last = len(widths) - 1
        self.stem = conv3(3, channels)
        self.levels = nn.ModuleList(
            Level(widths[i - 1] if i else channels, c, blocks, i == last, Downsample(c) if i < last else nn.Identity())
            for i, c in enumerate(widths)
        )
        self.middle = middle(widths[-1])
        self.norm = group_norm(widths[-1])
        self.out = conv3(widths[-1], latent)
        self.to_code = nn.Conv2d(latent, codebook.embedding_dim, 1)
        self.codebook = codebook
        self.distance = distance

    def features(self, image: Tensor) -> Tensor:
        """What is compared with the codebook: [B, H/f, W/f, code_width]."""
        x = self.stem(image)
        for level in self.levels:
            x = level(x)
        x = self.out(F.silu(self.norm(self.middle(x))))
        return self.to_code(x).permute(0, 2, 3, 1)

    def forward(self, image: Tensor) -> Tensor:
        z, codes = self.features(image), self.codebook.weight
        if self.distance == "cosine":
            z, codes = F.normalize(z, dim=-1), F.normalize(codes, dim=-1)
        # |z - e|^2 without |z|^2, which is the same for every code
        distances = codes.square().sum(-1) - 2 * z @ codes.T
        return distances.argmin(-1).flatten(1)


class VQDecoder(nn.Module):
    """Ids in raster order → pixels in [-1, 1]: [B, grid*grid] → [B, 3, grid*f, grid*f]. Codes are normalised where `normalize`."""

    def __init__(
        self,
        codebook: nn.Embedding,
        grid: int,
        channels: int = 128,
        multipliers: Sequence[int] = (1, 1, 2, 2, 4),
        blocks: int = 2,
        latent: int = 256,
        normalize: bool = True,
    ) -> None:
        super().__init__()
        widths = [channels * m for m in reversed(multipliers)]
        last = len(widths) - 1
        self.codebook = codebook
        self.from_code = nn.Conv2d(codebook.embedding_dim, latent, 1)
        self.stem = conv3(latent, widths[0])
        self.middle = middle(widths[0])
        self.levels = nn.ModuleList(
            Level(widths[max(i - 1, 0)], c, blocks + 1, i == 0, Upsample(c) if i < last else nn.Identity()) for i, c in enumerate(widths)
        )
        self.norm = group_norm(widths[-1])
        self.out = conv3(widths[-1], 3)
        self.grid, self.normalize = grid, normalize

    def forward(self, ids: Tensor) -> Tensor:
        codes = self.codebook(ids)
        if self.normalize:
            codes = F.normalize(codes, dim=-1)
        x = codes.transpose(1, 2).unflatten(2, (self.grid, self.grid))
        x = self.middle(self.stem(self.from_code(x)))
        for level in self.levels:
            x = level(x)
        return self.out(F.silu(self.norm(x)))


class Codebook(nn.Embedding):
    """Rows on the unit sphere at first (LlamaGen, section 2.1)."""

    def reset_parameters(self) -> None:
        nn.init.uniform_(self.weight, -1.0 / self.num_embeddings, 1.0 / self.num_embeddings)
        if not self.weight.is_meta:
            with torch.no_grad():
                self.weight.copy_(F.normalize(self.weight, dim=-1))


class VQ(nn.Module):
    """Both directions over one codebook of `codes` rows: `encode` (pixels → ids) and `decode` (ids → pixels)."""

    def __init__(
        self,
        image_size: int,
        channels: int = 128,
        multipliers: Sequence[int] = (1, 1, 2, 2, 4),
        blocks: int = 2,
        latent: int = 256,
        codes: int = 16384,
        code_width: int = 8,
        distance: str = "cosine",
        normalize: bool = True,
    ) -> None:
        super().__init__()
        factor = 2 ** (len(multipliers) - 1)
        if image_size % factor:
            raise ValueError(f"image size {image_size} is no multiple of {factor}")
        codebook = Codebook(codes, code_width)
        self.encode = VQEncoder(codebook, channels, multipliers, blocks, latent, distance)
        self.decode = VQDecoder(codebook, image_size // factor, channels, multipliers, blocks, latent, normalize)

    def forward(self, image: Tensor) -> Tensor:
        """The reconstruction: [B, 3, H, W] → the same."""
        return self.decode(self.encode(image))
