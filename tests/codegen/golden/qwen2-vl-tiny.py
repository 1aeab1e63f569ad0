"""qwen2-vl-7b, written by vlmgraph as plain PyTorch.

Native-resolution ViT with 2D RoPE and a 2x2 merger; M-RoPE (time, height, width) in the decoder; images and videos are
3D patches. Source: arXiv 2409.12191.

Parameters hold nothing until weights are loaded:

    from safetensors.torch import load_file

    model = Model().eval()
    model.load_state_dict(load_file("model.safetensors"))

Written again, to the byte, by: vlmgraph compile spec.lock.toml

Shapes stand behind what they describe: [B, T, 4096] is B samples of T tokens. A letter is the same size wherever it
stands.

Inputs:
    pixel_values: patches[P in image_grid_thw, 1176]?
    pixel_values_videos: patches[Q in video_grid_thw, 1176]?
    image_grid_thw: grid[N, 3]?
    video_grid_thw: grid[M, 3]?
    input_ids: ids[B, T]
    mm_token_type_ids: index[B, T]?
    attention_mask: mask[B, T]?
    labels: ids[B, T]?

Program 'generate' decodes with a cache and is left out.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class PixelShuffle(nn.Module):
    """Blocks of neighbouring tokens become the channels of one: [..., N, d] → [..., N / (h * w), h * w * d] for blocks
    of h x w.

    The others take a square grid, rows first, and give the smaller grid, rows first: "hwc" has channels (row, column,
    c) (InternVL, Idefics3), "chw" has (c, row, column) (DeepSeek-VL2).
    """

    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(*x.shape[:-2], x.shape[-2] // 4, 4 * x.shape[-1])


class MLPConnector(nn.Module):
    """`depth` linear layers `fc1, fc2, ...` with an activation between: [..., d_in] → [..., out] (LLaVA-1.5, arXiv
    2310.03744).
    """

    def __init__(self) -> None:
        super().__init__()
        self.act = nn.GELU()
        self.fc1 = nn.Linear(160, 160)
        self.fc2 = nn.Linear(160, 48)

    def forward(self, x: Tensor) -> Tensor:
        x = self.fc1(x)
        return self.fc2(self.act(x))


Rotation = tuple[Tensor, Tensor]


def frequencies(dim: int, theta: float, device: torch.device) -> Tensor:
    """theta ** (-2i / dim), [dim / 2]."""
    return 1.0 / theta**(torch.arange(0, dim, 2, dtype=torch.int64, device=device).float() / dim)


def rotation(angles: Tensor) -> Rotation:
    angles = torch.cat([angles, angles], dim=-1)
    return angles.cos(), angles.sin()


class RoPE2D(nn.Module):
    """Rows [2, B, N]: half of the pairs of a head turn with the row of a patch, half with its column.

    "alternate": of the frequencies of the whole head the even ones go to the row, the odd ones to the column (Pixtral,
    arXiv 2410.07073, section 2.1).
    """

    def forward(self, positions: Tensor) -> Rotation:
        down = frequencies(4, 10000.0, positions.device)
        row, column = positions[..., None].float().unbind(0)
        return rotation(torch.cat([row * down, column * down], dim=-1))


class LinearPatch(nn.Module):
    """Patches cut beforehand: [P, d_patch] → [P, width]. A convolution whose stride is its kernel, reshaped."""

    def __init__(self) -> None:
        super().__init__()
        self.proj = nn.Linear(1176, 40, bias=False)

    def forward(self, patches: Tensor) -> tuple[Tensor, int, int]:
        return self.proj(patches), 0, 0


def rotate(x: Tensor, rope: Rotation) -> Tensor:
    """Turn queries or keys [B, heads, N, head_dim]."""
    cos, sin = (part[:, None].to(x.dtype) for part in rope)
    d = cos.shape[-1]
    turned = x[..., :d]
    kept = x[..., d:]
    other = torch.cat([-turned[..., d // 2 :], turned[..., : d // 2]], dim=-1)
    turned = turned * cos + other * sin
    return torch.cat([turned, kept], dim=-1) if kept.shape[-1] else turned


class VisionAttention(nn.Module):
    """Multi-head self-attention: x [B, N, width] → [B, N, width]."""

    def __init__(self) -> None:
        super().__init__()
        self.q = nn.Linear(40, 40)
        self.k = nn.Linear(40, 40)
        self.v = nn.Linear(40, 40)
        self.out = nn.Linear(40, 40)

    def forward(self, x: Tensor, mask: Tensor, rope: Rotation) -> Tensor:
        """mask [B or 1, heads or 1, N, K], boolean or additive."""
        q = self.q(x).unflatten(-1, (-1, 8)).transpose(1, 2)
        k = self.k(x).unflatten(-1, (-1, 8)).transpose(1, 2)
        v = self.v(x).unflatten(-1, (-1, 8)).transpose(1, 2)
        q = rotate(q, rope)
        k = rotate(k, rope)
        return self.out(F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2))


class QuickGELU(nn.Module):
    """x * sigmoid(1.702 x), the approximation OpenAI's CLIP was trained with."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


class MLP(nn.Module):
    """fc1 → act → fc2: [..., width] → [..., width]."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(40, 72)
        self.act = QuickGELU()
        self.fc2 = nn.Linear(72, 40)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.fc1(x))
        return self.fc2(x)


class VisionBlock(nn.Module):
    """Attention, then (optionally) cross-attention, then an MLP, each a branch beside the stream x [B, N, width].

    `norms` go by the names of their branches.
    """

    def __init__(self) -> None:
        super().__init__()
        self.norms = nn.ModuleDict({"attention": nn.LayerNorm(40, eps=1e-06), "mlp": nn.LayerNorm(40, eps=1e-06)})
        self.attention = VisionAttention()
        self.mlp = MLP()

    def forward(self, x: Tensor, mask: Tensor, rope: Rotation) -> Tensor:
        x = x + self.attention(self.norms["attention"](x), mask, rope)
        return x + self.mlp(self.norms["mlp"](x))


def grid_places(grid: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Where every packed patch stands: (row, column) [2, P] and the number of its frame [P], counted over all images.

    grid [n, 3] holds frames, rows and columns of patches. `count` is P, the number of patches.
    """
    frames = grid[:, 0].long()
    rows = grid[:, 1].long()
    columns = grid[:, 2].long()
    stops = (frames * rows * columns).cumsum(0)
    place = torch.arange(count, device=grid.device)
    image = torch.searchsorted(stops, place, right=True).clamp(max=grid.shape[0] - 1)
    place = place - (stops - frames * rows * columns)[image]
    area = (rows * columns)[image]
    wide = columns[image] // 2
    frame = frames.cumsum(0)[image] - frames[image] + place // area
    block = place % area // 4
    inner = place % area % 4
    row = block // wide * 2 + inner // 2
    column = block % wide * 2 + inner % 2
    return torch.stack([row, column]), frame


def safe(mask: Tensor) -> Tensor:
    """The mask [..., N, K] with rows that may attend to nothing opened to the token itself, so that their softmax is
    not 0 / 0.
    """
    queries, keys = mask.shape[-2:]
    place = torch.arange(keys - queries, keys, device=mask.device)  # and no slice, whose length a tracer would not know
    own = place[:, None] == torch.arange(keys, device=mask.device)
    return mask | (own & ~mask.any(-1, keepdim=True))


class VisionTransformer(nn.Module):
    """x: image [B, 3, H, W] → tokens [B, prefix + patches, width], or patches [P, d] with their grid [n, 3] → [P,
    width].
    """

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(VisionBlock() for _ in range(2))
        self.rope = RoPE2D()
        self.patch = LinearPatch()

    def forward(self, x: Tensor, grid: Tensor) -> Tensor | dict[str, Tensor]:
        x, _, _ = self.patch(x)
        x = x[None]
        places, frames = grid_places(grid, x.shape[1])
        positions = places[:, None]
        segments = frames[None]
        rope = self.rope(positions)
        mask = safe((segments[:, :, None] == segments[:, None, :])[:, None])
        for layer in self.layers:
            x = layer(x, mask, rope)
        return x[0]


def readable(x: Tensor) -> bool:
    """False on the meta device and while tracing, compiling or exporting, where values do not exist."""
    return x.device.type != "meta" and not torch.compiler.is_compiling() and not torch.jit.is_tracing()


class UnknownId(ValueError):
    """A token id without a row in the table."""


class TextEmbedding(nn.Module):
    """ids [B, T] → [B, T, width]."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(320, 48)

    def forward(self, ids: Tensor) -> Tensor:
        """Raises UnknownId."""
        if readable(ids) and ids.device.type == "cpu" and ids.numel():
            self.check(ids)
        return self.tokens(ids)

    def check(self, ids: Tensor) -> None:
        low, high = (int(x) for x in ids.aminmax())
        if low < 0 or high >= 320:
            raise UnknownId(f"there is no token {low if low < 0 else high}: the vocabulary has the ids 0 to 319")


class PlaceholderCount(ValueError):
    """Placeholders and feature rows differ in number."""


def ranks(here: Tensor) -> Tensor:
    """here [B, T] bool → [B, T]: how many True stand before, in reading order over the batch."""
    flat = here.flatten().long()
    return (flat.cumsum(0) - flat).view_as(here)


def fill(text: Tensor, here: Tensor, rows: Tensor, port: str) -> Tensor:
    """text [B, T, d] with rows [..., d] written where `here` [B, T] is True. Raises PlaceholderCount."""
    rows = rows.reshape(-1, rows.shape[-1]).to(text.dtype)
    if readable(here):
        places = int(here.sum())
        if places != len(rows):
            raise PlaceholderCount(
                f"input_ids hold {places} placeholders for {port!r}, but there are {len(rows)} feature rows"
            )
        if not places:
            return text
    else:
        rows = torch.cat([rows, rows.new_zeros(1, rows.shape[1])])
    # a gather and a where: exact, differentiable, and known to every export target
    placed = rows[ranks(here).clamp(max=rows.shape[0] - 1)]
    return torch.where(here[..., None], placed, text)


class Splice(nn.Module):
    """Row k of a port's features replaces the embedding of the k-th placeholder of that port, in reading order over the
    batch.
    """

    def forward(
        self, text: Tensor, ids: Tensor, mask: Tensor | None, image: Tensor | None, video: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """text [B, T, d], ids [B, T], features [..., d] by port → `out` [B, T, d], `mask`, `modality`, `spans`, `ids`
        [B, T].

        modality: 0 text, k the k-th port. spans: 0 text, else the place inside its image, from 1. Raises
        PlaceholderCount.
        """
        if image is not None:
            here = ids == 305
            out = fill(text, here, image, "image")
        else:
            out = text
        if video is not None:
            here = ids == 306
            out = fill(out, here, video, "video")
        mask = torch.ones_like(ids, dtype=torch.bool) if mask is None else mask
        return out, mask


class MropePositions(nn.Module):
    """Time, height and width of every token (M-RoPE, Qwen2-VL, arXiv 2409.12191, section 2.1).

    The three rows of a text token are equal. A vision token at frame, row, column (i, j, k) of the merged grid of an
    image that begins at s has s + i, s + j, s + k. The position after an image is one more than the largest of all
    three rows ("max", the paper), or s + max(height, width) ("max_hw", which leaves the frames of a video out). `merge`
    is how many patches a side make one token.
    """

    def forward(
        self, ids: Tensor, image_grid: Tensor | None, video_grid: Tensor | None, mask: Tensor | None
    ) -> dict[str, Tensor]:
        """Raises PlaceholderCount when the grids do not have as many tokens as there are placeholders."""
        steps = torch.ones_like(ids) if mask is None else mask.to(ids.dtype)
        if image_grid is not None:
            here = ids == 305
            place, last, span = self.places(here, image_grid.to(ids.device), "image")
            inside = [
                torch.where(here, new, old)
                for new, old in zip(
                    place, [torch.zeros_like(ids), torch.zeros_like(ids), torch.zeros_like(ids)], strict=True
                )
            ]
            # an image takes its whole span at its last token, so that all of its tokens count from its beginning
            steps = torch.where(here, torch.where(last, span, 0), steps)
        else:
            inside = [torch.zeros_like(ids), torch.zeros_like(ids), torch.zeros_like(ids)]
        if video_grid is not None:
            here = ids == 306
            place, last, span = self.places(here, video_grid.to(ids.device), "video")
            inside = [torch.where(here, new, old) for new, old in zip(place, inside, strict=True)]
            # an image takes its whole span at its last token, so that all of its tokens count from its beginning
            steps = torch.where(here, torch.where(last, span, 0), steps)
        start = steps.cumsum(1) - steps + 0
        positions = torch.stack([start + part for part in inside])
        if mask is not None:
            positions = positions * mask.to(ids.dtype)
        return positions

    def places(self, here: Tensor, grid: Tensor, kind: str) -> tuple[tuple[Tensor, Tensor, Tensor], Tensor, Tensor]:
        """Time, row and column of every placeholder in its grid, whether it is the last one, and the positions its
        image takes, all [B, T].
        """
        frames = grid[:, 0]
        height = grid[:, 1] // 2
        width = grid[:, 2] // 2
        counts = frames * height * width
        stops = counts.cumsum(0)
        if readable(here) and int(here.sum()) != int(counts.sum()):
            raise PlaceholderCount(
                f"input_ids hold {int(here.sum())} {kind} placeholders, but the grids have {int(counts.sum())} tokens"
            )
        if grid.shape[0] == 0:
            return (
                [
                    torch.zeros_like(here, dtype=torch.long),
                    torch.zeros_like(here, dtype=torch.long),
                    torch.zeros_like(here, dtype=torch.long),
                ],
                here,
                torch.zeros_like(here, dtype=torch.long),
            )
        rank = ranks(here)
        item = torch.searchsorted(stops, rank.contiguous(), right=True).clamp(max=grid.shape[0] - 1)
        rank = rank - (stops - counts)[item]
        columns = width[item]
        area = (height * width)[item]
        largest = torch.maximum(height, width)
        largest = torch.maximum(largest, frames)
        time = rank // area
        return [time, rank % area // columns, rank % columns], rank == counts[item] - 1, largest[item]


class MRoPE(nn.Module):
    """Three positions a token: frequencies are dealt out to time, height and width (Qwen2-VL, arXiv 2409.12191, section
    2.1).
    """

    def forward(self, positions: Tensor) -> Rotation:
        """[3, B, N], or [B, N] where all three are equal."""
        angles = (positions[..., None].float() * frequencies(12, 1000000.0, positions.device)).split((2, 2, 2), dim=-1)
        return rotation(torch.cat([part[i] for i, part in enumerate(angles)], dim=-1))


class RMSNorm(nn.Module):
    """x / rms(x) * weight over the last dim, computed in float32 (arXiv 1910.07467): [..., d] → [..., d]."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(48))

    def forward(self, x: Tensor) -> Tensor:
        y = x.float()
        y = y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + 1e-06)
        return self.weight * y.to(x.dtype)


class DecoderAttention(nn.Module):
    """Multi-head self-attention: x [B, N, width] → [B, N, width].

    `kv_heads` < `heads` share keys and values among groups of heads (GQA, arXiv 2305.13245).
    """

    def __init__(self) -> None:
        super().__init__()
        self.q = nn.Linear(48, 48)
        self.k = nn.Linear(48, 24)
        self.v = nn.Linear(48, 24)
        self.out = nn.Linear(48, 48, bias=False)

    def forward(self, x: Tensor, mask: Tensor, rope: Rotation) -> Tensor:
        """mask [B or 1, heads or 1, N, K], boolean or additive."""
        q = self.q(x).unflatten(-1, (-1, 12)).transpose(1, 2)
        k = self.k(x).unflatten(-1, (-1, 12)).transpose(1, 2)
        v = self.v(x).unflatten(-1, (-1, 12)).transpose(1, 2)
        q = rotate(q, rope)
        k = rotate(k, rope)
        return self.out(self.attend(q, k, v, mask))

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
        """softmax(q k^T) v, heads side by side: [B, N, heads * head_dim]."""
        groups = 2
        k = k.repeat_interleave(groups, 1)
        v = v.repeat_interleave(groups, 1)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return y.transpose(1, 2).flatten(2)


class GatedMLP(nn.Module):
    """down(act(gate x) * up x): [..., width] → [..., out], as wide as it came where no `out` is given (GLU variants,
    arXiv 2002.05202).
    """

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(48, 88, bias=False)
        self.up = nn.Linear(48, 88, bias=False)
        self.act = nn.SiLU()
        self.down = nn.Linear(88, 48, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.gate(x)) * self.up(x)
        return self.down(x)


class DecoderBlock(nn.Module):
    """Attention, then (optionally) cross-attention, then an MLP, each a branch beside the stream x [B, N, width].

    `norms` go by the names of their branches.
    """

    def __init__(self) -> None:
        super().__init__()
        self.norms = nn.ModuleDict({"attention": RMSNorm(), "mlp": RMSNorm()})
        self.attention = DecoderAttention()
        self.mlp = GatedMLP()

    def forward(self, x: Tensor, mask: Tensor, rope: Rotation) -> Tensor:
        x = x + self.attention(self.norms["attention"](x), mask, rope)
        return x + self.mlp(self.norms["mlp"](x))


def attention_mask(queries: int, padding: Tensor | None, device: torch.device) -> Tensor:
    """causal: keys up to the query. causal_or_full: as "causal" where there is a padding mask, else all attend to all.
    either_real: padding too attends, to what is real, and is attended by it; two paddings never meet.
    """
    q = torch.arange(0, queries, device=device)[:, None]
    k = torch.arange(queries, device=device)[None]
    allowed = (k <= q)[None, None]
    if padding is not None:
        real = padding.bool()[:, None, None, :]
        allowed = allowed & real
    return allowed


class DecoderTransformer(nn.Module):
    """Tokens x [B, N, width], or packed [P, width] with a `grid` → the same shape.

    rope turns queries and keys by position. Hidden state 0 is what enters the first layer, i the output of layer i, all
    before the final norm.
    """

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(DecoderBlock() for _ in range(2))
        self.rope = MRoPE()
        self.final_norm = RMSNorm()

    def forward(self, x: Tensor, mask: Tensor | None, positions: Tensor) -> Tensor | dict[str, Tensor]:
        rope = self.rope(positions)
        mask = safe(attention_mask(x.shape[1], mask, x.device))
        for layer in self.layers:
            x = layer(x, mask, rope)
        return self.final_norm(x)


class LMHead(nn.Module):
    """States [..., width] → logits [..., vocab + added]; the `added` last ones have weights of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.proj = nn.Linear(48, 320, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x)


class Model(nn.Module):
    """qwen2-vl-7b: its components by name, and a method for each program."""

    def __init__(self) -> None:
        super().__init__()
        self.visual = nn.Module()
        self.visual.norm = nn.LayerNorm(40, eps=1e-06)
        self.visual.merge = PixelShuffle()
        self.visual.mlp = MLPConnector()
        self.visual.vision = VisionTransformer()
        self.embed = TextEmbedding()
        self.splice = Splice()
        self.positions = MropePositions()
        self.llm = DecoderTransformer()
        self.head = LMHead()

    def encode_image(self, pixel_values: Tensor, image_grid_thw: Tensor) -> dict[str, Tensor]:
        """pixel_values [P, 1176], image_grid_thw [N, 3] → visual [P/4, 48]."""
        visual_vision = self.visual.vision(pixel_values, image_grid_thw)  # [P, 40]
        visual_norm = self.visual.norm(visual_vision)  # [P, 40]
        visual_merge = self.visual.merge(visual_norm)  # [P/4, 160]
        visual_mlp = self.visual.mlp(visual_merge)  # [P/4, 48]
        return {"visual": visual_mlp}

    def encode_video(self, pixel_values_videos: Tensor, video_grid_thw: Tensor) -> dict[str, Tensor]:
        """pixel_values_videos [Q, 1176], video_grid_thw [M, 3] → visual_video [Q/4, 48]."""
        visual_video_vision = self.visual.vision(pixel_values_videos, video_grid_thw)  # [Q, 40]
        visual_video_norm = self.visual.norm(visual_video_vision)  # [Q, 40]
        visual_video_merge = self.visual.merge(visual_video_norm)  # [Q/4, 160]
        visual_video_mlp = self.visual.mlp(visual_video_merge)  # [Q/4, 48]
        return {"visual_video": visual_video_mlp}

    def forward(
        self,
        input_ids: Tensor,
        pixel_values: Tensor | None = None,
        pixel_values_videos: Tensor | None = None,
        image_grid_thw: Tensor | None = None,
        video_grid_thw: Tensor | None = None,
        attention_mask: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """input_ids [B, T], pixel_values [P, 1176], pixel_values_videos [Q, 1176], image_grid_thw [N, 3],
        video_grid_thw [M, 3], attention_mask [B, T] → logits [B, T, 320].
        """
        embed = self.embed(input_ids)  # [B, T, 48]
        positions = self.positions(input_ids, image_grid_thw, video_grid_thw, attention_mask)  # [3, B, T]
        if pixel_values is not None and image_grid_thw is not None:
            visual_vision = self.visual.vision(pixel_values, image_grid_thw)  # [P, 40]
            visual_norm = self.visual.norm(visual_vision)  # [P, 40]
            visual_merge = self.visual.merge(visual_norm)  # [P/4, 160]
            visual_mlp = self.visual.mlp(visual_merge)  # [P/4, 48]
        else:
            visual_mlp = None
        if pixel_values_videos is not None and video_grid_thw is not None:
            visual_video_vision = self.visual.vision(pixel_values_videos, video_grid_thw)  # [Q, 40]
            visual_video_norm = self.visual.norm(visual_video_vision)  # [Q, 40]
            visual_video_merge = self.visual.merge(visual_video_norm)  # [Q/4, 160]
            visual_video_mlp = self.visual.mlp(visual_video_merge)  # [Q/4, 48]
        else:
            visual_video_mlp = None
        if (
            pixel_values is not None and image_grid_thw is not None
            or pixel_values_videos is not None and video_grid_thw is not None
        ):
            # [B, T, 48], [B, T]
            splice, splice_mask = self.splice(embed, input_ids, attention_mask, visual_mlp, visual_video_mlp)
        else:
            splice = embed
            splice_mask = attention_mask
        llm = self.llm(splice, splice_mask, positions)  # [B, T, 48]
        head = self.head(llm)  # [B, T, 320]
        return {"logits": head}
