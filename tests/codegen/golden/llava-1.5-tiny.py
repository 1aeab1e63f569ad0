"""llava-1.5-7b, written by vlmgraph as plain PyTorch.

CLIP at 336 px, a two-layer GELU MLP, Vicuna v1.5; response-format prompts and academic VQA data.
Source: arXiv 2310.03744.

Parameters hold nothing until weights are loaded:

    from safetensors.torch import load_file

    model = Model().eval()
    model.load_state_dict(load_file("model.safetensors"))

Written again, to the byte, by: vlmgraph compile spec.lock.toml

Shapes stand behind what they describe: [B, T, 4096] is B samples of T tokens. A letter is the same size wherever it
stands.

Inputs:
    pixel_values: image[N, 3, 42, 42]?
    input_ids: ids[B, T]
    attention_mask: mask[B, T]?
    labels: ids[B, T]?

Program 'generate' decodes with a cache and is left out.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ConvPatch(nn.Module):
    """Image [B, channels, H, W] → patches [B, rows * columns, width], behind `norm` where there is one, and (rows,
    columns).
    """

    def __init__(self) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, 40, 14, stride=14, bias=False)

    def forward(self, image: Tensor) -> tuple[Tensor, int, int]:
        x = self.proj(image)
        rows = x.shape[2]
        columns = x.shape[3]
        x = x.flatten(2).transpose(1, 2)
        return x, rows, columns


class ImagePositions(nn.Module):
    """One row a patch of a rows x columns image, behind `prefix` rows for class and register tokens: x [B, N, width] →
    x + table.

    A different number of patches stretches the patch rows bicubically (ViT, arXiv 2010.11929, section 3.2).
    """

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(10, 40))

    def forward(self, x: Tensor, rows: int, columns: int) -> Tensor:
        return x + self.table(rows, columns).to(x.dtype)

    def table(self, rows: int, columns: int) -> Tensor:
        """[prefix + rows * columns, width]."""
        if (rows, columns) == (3, 3):
            return self.weight
        grid = self.weight[1:].unflatten(0, (3, 3)).permute(2, 0, 1)[None]
        grid = F.interpolate(grid.float(), size=(rows, columns), mode="bicubic", align_corners=False)
        return torch.cat([self.weight[:1], grid[0].flatten(1).T.to(self.weight.dtype)])


class VisionAttention(nn.Module):
    """Multi-head self-attention: x [B, N, width] → [B, N, width]."""

    def __init__(self) -> None:
        super().__init__()
        self.q = nn.Linear(40, 40)
        self.k = nn.Linear(40, 40)
        self.v = nn.Linear(40, 40)
        self.out = nn.Linear(40, 40)

    def forward(self, x: Tensor) -> Tensor:
        q = self.q(x).unflatten(-1, (-1, 8)).transpose(1, 2)
        k = self.k(x).unflatten(-1, (-1, 8)).transpose(1, 2)
        v = self.v(x).unflatten(-1, (-1, 8)).transpose(1, 2)
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


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
        self.norms = nn.ModuleDict({"attention": nn.LayerNorm(40), "mlp": nn.LayerNorm(40)})
        self.attention = VisionAttention()
        self.mlp = MLP()

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norms["attention"](x))
        return x + self.mlp(self.norms["mlp"](x))


class VisionTransformer(nn.Module):
    """x: image [B, 3, H, W] → tokens [B, prefix + patches, width], or patches [P, d] with their grid [n, 3] → [P,
    width].

    `pre_norm` acts on what enters the stack (CLIP).
    """

    def __init__(self) -> None:
        super().__init__()
        self.cls = nn.Parameter(torch.empty(40))
        self.layers = nn.ModuleList(VisionBlock() for _ in range(3))
        self.final_norm = nn.LayerNorm(40)  # of the checkpoint; no program reads it
        self.patch = ConvPatch()
        self.position = ImagePositions()
        self.pre_norm = nn.LayerNorm(40)

    def forward(self, x: Tensor) -> Tensor:
        x, rows, columns = self.patch(x)
        x = torch.cat([self.cls[None].to(x.dtype).expand(x.shape[0], -1, -1), x], dim=1)
        x = self.position(x, rows, columns)
        x = self.pre_norm(x)
        for layer in self.layers[:2]:
            x = layer(x)
        return x


class MLPConnector(nn.Module):
    """`depth` linear layers `fc1, fc2, ...` with an activation between: [..., d_in] → [..., out] (LLaVA-1.5, arXiv
    2310.03744).
    """

    def __init__(self) -> None:
        super().__init__()
        self.act = nn.GELU()
        self.fc1 = nn.Linear(40, 48)
        self.fc2 = nn.Linear(48, 48)

    def forward(self, x: Tensor) -> Tensor:
        x = self.fc1(x)
        return self.fc2(self.act(x))


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


def fill(text: Tensor, here: Tensor, rows: Tensor) -> Tensor:
    """text [B, T, d] with rows [..., d] written where `here` [B, T] is True. Raises PlaceholderCount."""
    rows = rows.reshape(-1, rows.shape[-1]).to(text.dtype)
    if readable(here):
        places = int(here.sum())
        if places != len(rows):
            raise PlaceholderCount(
                f"input_ids hold {places} placeholders for 'vision', but there are {len(rows)} feature rows"
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

    def forward(self, text: Tensor, ids: Tensor, mask: Tensor | None, vision: Tensor) -> tuple[Tensor, Tensor]:
        """text [B, T, d], ids [B, T], features [..., d] by port → `out` [B, T, d], `mask`, `modality`, `spans`, `ids`
        [B, T].

        modality: 0 text, k the k-th port. spans: 0 text, else the place inside its image, from 1. Raises
        PlaceholderCount.
        """
        here = ids == 300
        out = fill(text, here, vision)
        mask = torch.ones_like(ids, dtype=torch.bool) if mask is None else mask
        return out, mask


Rotation = tuple[Tensor, Tensor]


def rotation(angles: Tensor) -> tuple[Tensor, Tensor]:
    angles = torch.cat([angles, angles], dim=-1)
    return angles.cos(), angles.sin()


def frequencies(device: torch.device) -> Tensor:
    return 1.0 / 10000.0**(torch.arange(0, 8, 2, dtype=torch.int64, device=device).float() / 8)


class RoPE(nn.Module):
    """Positions [B, N] → rotation of the first `dim` values of every head.

    What depends on the length of a call follows its largest position.
    """

    def forward(self, positions: Tensor) -> Rotation:
        return rotation(positions[..., None].float() * frequencies(positions.device))


class RMSNorm(nn.Module):
    """x / rms(x) * weight over the last dim, computed in float32 (arXiv 1910.07467): [..., d] → [..., d]."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(48))

    def forward(self, x: Tensor) -> Tensor:
        y = x.float()
        y = y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + 1e-05)
        return self.weight * y.to(x.dtype)


def rotate(x: Tensor, rope: Rotation) -> Tensor:
    """Turn queries or keys [B, heads, N, head_dim]."""
    cos, sin = (part[:, None].to(x.dtype) for part in rope)
    d = cos.shape[-1]
    turned = x[..., :d]
    kept = x[..., d:]
    other = torch.cat([-turned[..., d // 2 :], turned[..., : d // 2]], dim=-1)
    turned = turned * cos + other * sin
    return torch.cat([turned, kept], dim=-1) if kept.shape[-1] else turned


class DecoderAttention(nn.Module):
    """Multi-head self-attention: x [B, N, width] → [B, N, width]."""

    def __init__(self) -> None:
        super().__init__()
        self.q = nn.Linear(48, 48, bias=False)
        self.k = nn.Linear(48, 48, bias=False)
        self.v = nn.Linear(48, 48, bias=False)
        self.out = nn.Linear(48, 48, bias=False)

    def forward(self, x: Tensor, mask: Tensor, rope: Rotation) -> Tensor:
        """mask [B or 1, heads or 1, N, K], boolean or additive."""
        q = self.q(x).unflatten(-1, (-1, 8)).transpose(1, 2)
        k = self.k(x).unflatten(-1, (-1, 8)).transpose(1, 2)
        v = self.v(x).unflatten(-1, (-1, 8)).transpose(1, 2)
        q = rotate(q, rope)
        k = rotate(k, rope)
        return self.out(F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2))


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


def safe(mask: Tensor) -> Tensor:
    """The mask [..., N, K] with rows that may attend to nothing opened to the token itself, so that their softmax is
    not 0 / 0.
    """
    queries, keys = mask.shape[-2:]
    place = torch.arange(keys - queries, keys, device=mask.device)  # and no slice, whose length a tracer would not know
    own = place[:, None] == torch.arange(keys, device=mask.device)
    return mask | (own & ~mask.any(-1, keepdim=True))


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
        self.rope = RoPE()
        self.final_norm = RMSNorm()

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        positions = torch.arange(0, x.shape[1], device=x.device)[None]
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
    """llava-1.5-7b: its components by name, and a method for each program."""

    def __init__(self) -> None:
        super().__init__()
        self.vision = VisionTransformer()
        self.projector = MLPConnector()
        self.embed = TextEmbedding()
        self.splice = Splice()
        self.llm = DecoderTransformer()
        self.head = LMHead()

    def encode_image(self, pixel_values: Tensor) -> dict[str, Tensor]:
        """pixel_values [N, 3, 42, 42] → projector [N, 9, 48]."""
        vision_hidden_2 = self.vision(pixel_values)  # [N, 10, 40]
        projector = self.projector(vision_hidden_2[:, 1:])  # [N, 9, 48]
        return {"projector": projector}

    def forward(
        self, input_ids: Tensor, pixel_values: Tensor | None = None, attention_mask: Tensor | None = None
    ) -> dict[str, Tensor]:
        """input_ids [B, T], pixel_values [N, 3, 42, 42], attention_mask [B, T] → logits [B, T, 320]."""
        embed = self.embed(input_ids)  # [B, T, 48]
        if pixel_values is not None:
            vision_hidden_2 = self.vision(pixel_values)  # [N, 10, 40]
            projector = self.projector(vision_hidden_2[:, 1:])  # [N, 9, 48]
            splice, splice_mask = self.splice(embed, input_ids, attention_mask, projector)  # [B, T, 48], [B, T]
        else:
            splice = embed
            splice_mask = attention_mask
        llm = self.llm(splice, splice_mask)  # [B, T, 48]
        head = self.head(llm)  # [B, T, 320]
        return {"logits": head}
