"""A stack of blocks: vision, text and decoder transformers are this one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .block import CrossAttentionBlock
from .cache import KVCache, LayerCache
from .mask import attention_mask, safe, with_bias
from .rope import Rotation, grid_places


class Insert(nn.ModuleDict):
    """Blocks that stand before (or after) some layers, by the layer's index as text, and the port that feeds them."""

    def __init__(self, blocks: Mapping[int, nn.Module], port: str = "media", at: str = "before") -> None:
        super().__init__({str(i): block for i, block in blocks.items()})
        self.port, self.at = port, at


class Stack(nn.Module):
    """Tokens x [B, N, width], or packed [P, width] with a `grid` → the same shape.

    rope turns queries and keys by position; bias adds to the scores (T5, ALiBi); position adds to x. `rules` are the mask rules of
    all layers, or a tuple of them for each layer (`vlmgraph.nn.mask`). Hidden state 0 is what enters the first layer, i the output
    of layer i, all before the final norm. `cross_port` feeds the blocks that have cross-attention. `merge`: packed patches come in
    blocks of merge x merge. `init` sets the weights as the model's paper does.
    """

    def __init__(
        self,
        layers: Sequence[nn.Module],
        rules: Sequence[str] | Sequence[Sequence[str]] = ("full",),
        final_norm: nn.Module | None = None,
        rope: nn.Module | None = None,
        bias: nn.Module | None = None,
        position: nn.Module | None = None,
        inserts: Mapping[str, Insert] | None = None,
        cross_port: str = "media",
        window: int = 0,
        merge: int = 1,
        init: Callable[[nn.Module], None] | None = None,
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        each: Any = [rules] * len(layers) if all(isinstance(rule, str) for rule in rules) else rules
        self.rules: tuple[tuple[str, ...], ...] = tuple(tuple(own) for own in each)
        self.rope, self.bias, self.position = rope, bias, position
        self.inserts = nn.ModuleDict(inserts or {})
        self.cross_port, self.window, self.merge = cross_port, window, merge
        self.final_norm = final_norm
        self.init = init

    def init_weights(self) -> None:
        if self.init is not None:
            self.init(self)

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        positions: Tensor | None = None,
        modality: Tensor | None = None,
        grid: Tensor | None = None,
        prefix: Tensor | None = None,
        cache: KVCache | None = None,
        taps: Sequence[int] = (),
        router: bool = False,
        until: bool = False,
        merges: Tensor | None = None,
        **media: Tensor | None,
    ) -> Tensor | dict[str, Tensor]:
        """mask [B, N] (with a cache: of all tokens or of the new ones), positions [B, N] or [3, B, N], modality and prefix [B, N],
        grid [n, 3] and `merges` [n], which stand in for `merge`; media by port, [B, M, d], and `<port>_mask` [B, M] or [B, N, M].

        With `taps` gives a dict: `hidden.i` for each of them and `out`. With `until` stops behind the last tap, without `out`.
        With `router` a dict too, in which `router` [L, B, N, experts] holds the scores of the L layers that are mixtures of experts.
        """
        packed = x.dim() == 2
        x = x[None] if packed else x
        past = cache.length if cache is not None else 0
        padding = cache.padding(mask, x.shape[0], x.shape[1], x.device) if cache is not None else mask
        segments = None
        places = None
        if grid is not None:
            places, frames = grid_places(grid, x.shape[1], self.merge if merges is None else merges)
            positions, segments = places[:, None], frames[None]
        elif positions is None:
            positions = self.positions(x.shape[1], past, padding, x.device)
        x = self.enter(x, positions)
        rope: Rotation | None = self.rope(positions) if self.rope is not None else None
        bias = self.bias(x.shape[1], past, x.device) if self.bias is not None else None
        masks = {
            rules: with_bias(safe(attention_mask(rules, x.shape[1], past, padding, prefix, segments, self.window, x.device, places)), bias)
            for rules in dict.fromkeys(self.rules)
        }
        kept = {"hidden.0": x} if 0 in taps else {}
        routes: list[Tensor] | None = [] if router else None
        cross, cross_mask = media.get(self.cross_port), media.get(f"{self.cross_port}_mask")
        last = max(taps) if until else len(self.layers)
        for i, layer in enumerate(self.layers[:last]):
            x = self.insert("before", i, x, media, cache)
            own = cache[i] if cache is not None else None
            read = cache.media.setdefault(f"layers.{i}", LayerCache()) if cache is not None and cross is not None else None
            x = layer(x, masks[self.rules[i]], rope, modality, own, cross, cross_mask, routes, read)
            x = self.insert("after", i, x, media, cache)
            if i + 1 in taps:
                kept[f"hidden.{i + 1}"] = x
        if not until:
            kept["out"] = x if self.final_norm is None else self.final_norm(x)
        if routes is not None:
            kept["router"] = torch.stack(routes)
        if packed:
            kept = {name: value[0] for name, value in kept.items()}
        return kept if taps or router else kept["out"]

    def enter(self, x: Tensor, positions: Tensor) -> Tensor:
        """What enters the first layer: the tokens with their position added, if any is."""
        return x if self.position is None else x + self.position(positions).to(x.dtype)

    def insert(self, at: str, index: int, x: Tensor, media: Mapping[str, Tensor | None], cache: KVCache | None) -> Tensor:
        """x through the blocks that stand at this side of a layer."""
        for name, group in self.inserts.items():
            assert isinstance(group, Insert)
            if group.at == at and str(index) in group:
                block, own, mask = group[str(index)], media.get(group.port), media.get(f"{group.port}_mask")
                if cache is not None and isinstance(block, CrossAttentionBlock):
                    x = block(x, own, mask, cache.media.setdefault(f"{name}.{index}", LayerCache()))
                else:
                    x = block(x, own, mask)
        return x

    def positions(self, count: int, past: int, padding: Tensor | None, device: torch.device) -> Tensor:
        """Places of the new tokens, [1 or B, N]; where they are looked up in a table, counted over the real tokens only."""
        if self.position is not None and padding is not None:
            real = padding.long()
            return (real.cumsum(1) * real - 1)[:, -count:]
        return torch.arange(past, past + count, device=device)[None]


class EncoderDecoder(nn.Module):
    """Two stacks; the decoder's cross-attention reads the encoder's output (T5, arXiv 1910.10683)."""

    def __init__(self, encoder: Stack, decoder: Stack, init: Callable[[nn.Module], None] | None = None) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder, decoder
        self.init = init

    def init_weights(self) -> None:
        if self.init is not None:
            self.init(self)

    def forward(
        self, x: Tensor, decoder: Tensor, mask: Tensor | None = None, decoder_mask: Tensor | None = None, cache: KVCache | None = None
    ) -> Tensor:
        """x [B, N, width] and its mask [B, N] into the encoder, decoder [B, S, width] → [B, S, width]. With a cache x is encoded once."""
        media = self.encoder(x, mask) if cache is None or cache.encoded is None else cache.encoded
        if cache is not None:
            cache.encoded = media
        return self.decoder(decoder, decoder_mask, cache=cache, media=media, media_mask=mask)
