"""Weights as small integers with a scale for each block of inputs, as MatMulNBits and GatherBlockQuantized hold them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

ROWS = 4096
"""Rows that are quantized at a time, so that no second copy of a large weight stands in memory."""


@dataclass(frozen=True)
class Blocks:
    """`data` [N, blocks, block * bits / 8] uint8, low bits first, 2 ** (bits - 1) for zero; `scales` [N, blocks]."""

    data: np.ndarray
    scales: np.ndarray
    bits: int
    block: int
    error: float
    """Relative distance of what the integers stand for from the weight."""


def quantized(weight: np.ndarray, bits: int, block: int) -> Blocks:
    """[N, K], each row in blocks of `block` values along K, the last one filled up with zeros.

    The value of a block that is largest in size becomes -2 ** (bits - 1) exactly, so the whole range is used.
    """
    rows, width = weight.shape
    blocks = -(-width // block)
    data = np.empty((rows, blocks, block * bits // 8), dtype=np.uint8)
    scales = np.empty((rows, blocks), dtype=weight.dtype)
    gap = size = 0.0
    for start in range(0, rows, ROWS):
        part = weight[start : start + ROWS].astype(np.float32)
        filled = np.pad(part, ((0, 0), (0, blocks * block - width))).reshape(len(part), blocks, block)
        levels, scale = leveled(filled, bits)
        scale = scale.astype(weight.dtype)
        there = (levels.astype(np.float32) - (1 << (bits - 1))) * scale[..., None].astype(np.float32)
        gap += float(np.square(there - filled, dtype=np.float64).sum())
        size += float(np.square(filled, dtype=np.float64).sum())
        data[start : start + ROWS] = levels if bits == 8 else levels[..., 0::2] | levels[..., 1::2] << 4
        scales[start : start + ROWS] = scale
    return Blocks(data, scales, bits, block, (gap / size) ** 0.5 if size else 0.0)


def leveled(blocks: np.ndarray, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """[N, blocks, block] → integers from 0 to 2 ** bits - 1, and scales [N, blocks]."""
    middle = 1 << (bits - 1)
    most, least = blocks.max(-1), blocks.min(-1)
    scale = np.where(most > -least, most, least) / -middle
    steps = np.divide(blocks, scale[..., None], out=np.zeros_like(blocks), where=scale[..., None] != 0)
    return np.clip(np.rint(steps) + middle, 0, 2 * middle - 1).astype(np.uint8), scale


def restored(blocks: Blocks, width: int) -> np.ndarray:
    """The weight [N, width] that the integers stand for."""
    levels = (
        blocks.data if blocks.bits == 8 else np.stack([blocks.data & 15, blocks.data >> 4], axis=-1).reshape(*blocks.data.shape[:2], -1)
    )
    values = (levels.astype(np.float32) - (1 << (blocks.bits - 1))) * blocks.scales[..., None]
    return values.reshape(len(values), -1)[:, :width].astype(blocks.scales.dtype)
