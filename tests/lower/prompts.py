"""Prompts with pictures for the tiny sizes: two rows of different length, padded on the left."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

LENGTH = 14
PAD = 7
"""Padding in front of the second row."""


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def ids(seed: int, low: int = 10, high: int = 60) -> Tensor:
    return torch.randint(low, high, (2, LENGTH), generator=torch.Generator().manual_seed(seed))


def padded(tokens: Tensor) -> dict[str, Tensor]:
    """Row 1 behind padding. What stands in the padding must not matter."""
    mask = torch.ones_like(tokens)
    mask[1, :PAD] = 0
    return {"input_ids": tokens, "attention_mask": mask}


def placed(token: int, count: int, seed: int) -> dict[str, Tensor]:
    """`count` placeholders in each row, the second row's behind its padding."""
    given = torch.randint(10, 60, (2, count + 9), generator=torch.Generator().manual_seed(seed))
    given[0, 1 : 1 + count] = token
    given[1, 5 : 5 + count] = token
    mask = torch.ones_like(given)
    mask[1, :4] = 0
    return {"input_ids": given, "attention_mask": mask}


def spliced(model: Any, size: int, seed: int = 3) -> dict[str, Tensor]:
    pixels = noise(2, 3, size, size)
    count = next(iter(model.programs["encode_image"](pixel_values=pixels).values())).shape[1]
    return {"pixel_values": pixels, **placed(model.graph.tokens["<image>"], count, seed)}


def flamingo(model: Any) -> dict[str, Tensor]:
    text = padded(ids(3))
    for row, column in ((0, 1), (0, 6), (1, 8), (1, 11)):
        text["input_ids"][row, column] = model.graph.tokens["<image>"]
    return {"pixel_values": noise(2, 2, 1, 3, 42, 42), **text}


def idefics(model: Any) -> dict[str, Tensor]:
    seen = torch.zeros(2, LENGTH, 2, dtype=torch.long)
    seen[0, 2:, 0] = seen[0, 7:, 1] = seen[1, 9:, 0] = 1
    return {"pixel_values": noise(2, 2, 3, 42, 42), "image_attention_mask": seen, **padded(ids(3))}


def qwen2_vl(model: Any) -> dict[str, Tensor]:
    """One image of 4 x 4 patches a row: four tokens after the merge."""
    grid = torch.tensor([[1, 4, 4], [1, 4, 4]])
    return {"pixel_values": noise(32, 1176), "image_grid_thw": grid, **placed(model.graph.tokens["<|image_pad|>"], 4, 3)}


def janus(model: Any) -> dict[str, Tensor]:
    pixels = noise(2, 3, 56, 56)
    count = model.programs["encode_image"](pixel_values=pixels)["und_adaptor"].shape[1]
    return {"pixel_values": pixels, **placed(model.graph.tokens["<image_placeholder>"], count, 3)}


PROMPTS = {
    "llava-1.5": lambda model: spliced(model, 42),
    "cogvlm": lambda model: spliced(model, 42),
    "blip-2": lambda model: spliced(model, 42),
    "flamingo": flamingo,
    "idefics": idefics,
    "qwen2-vl": qwen2_vl,
    "janus": janus,
}
