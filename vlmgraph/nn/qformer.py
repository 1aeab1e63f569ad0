"""Q-Former: a BERT body that reads an image through learned queries (BLIP-2, arXiv 2301.12597, section 3.1)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .attention import Attention, CrossAttention
from .block import Block
from .embedding import TextEmbedding
from .init import plain
from .mask import attention_mask
from .mlp import MLP, Experts

MASKS = ("unimodal", "bidirectional", "multimodal_causal")


class QFormerLayer(Block):
    """Attention over [queries; text], attention of the queries to the image, an MLP of its own for each of the two; post-norm."""

    def __init__(self, width: int, heads: int, mlp: int, d_image: int, cross: bool, text: bool, eps: float) -> None:
        experts = ("query", "text") if text else ("query",)
        norms: dict[str, nn.Module] = {"attention": nn.LayerNorm(width, eps=eps)}
        if cross:
            norms["cross"] = nn.LayerNorm(width, eps=eps)
        norms["mlp"] = Experts({name: nn.LayerNorm(width, eps=eps) for name in experts})
        super().__init__(
            Attention(width, heads, bias="qkvo"),
            Experts({name: MLP(width, mlp, nn.GELU()) for name in experts}),
            norms,
            CrossAttention(width, d_image, heads, bias="qkvo") if cross else None,
            order="post",
        )

    def forward(  # type: ignore[override]
        self, queries: Tensor | None, text: Tensor | None, image: Tensor | None, mask: Tensor | None
    ) -> tuple[Tensor | None, Tensor | None]:
        """queries [B, Q, d], text [B, T, d], either may be absent; mask over their concatenation."""
        parts = [x for x in (queries, text) if x is not None]
        x = torch.cat(parts, dim=1) if len(parts) > 1 else parts[0]
        x = self.branch("attention", x, lambda y: self.attention(y, mask))
        if queries is not None:
            queries = x[:, : queries.shape[1]]
            if self.cross is not None:
                queries = self.branch("cross", queries, lambda y: self.cross(y, image))
            queries = self.expert("query", queries)
        if text is not None:
            text = self.expert("text", x[:, x.shape[1] - text.shape[1] :])
        return queries, text

    def expert(self, name: str, x: Tensor) -> Tensor:
        return self.norms["mlp"].experts[name](x + self.mlp.experts[name](x))


class QFormer(nn.Module):
    """Learned queries and text over one set of parameters.

    image [B, V, d_image] gives `queries` [B, Q, d]; ids [B, T] give `text` [B, T, d]; an absent input leaves its output out. Without a
    text path (`text` is False) the result is the queries alone.
    With both, `mask` says who sees whom: "unimodal" (each only itself, so that the batches may differ), "bidirectional",
    or "multimodal_causal" (queries see queries; a word sees all queries and the words up to itself). `ids_mask` [B, T] marks the
    real words. Cross-attention is in every `cross_every`-th layer, from the first.
    """

    def __init__(
        self,
        d_image: int,
        queries: int = 32,
        layers: int = 12,
        width: int = 768,
        heads: int = 12,
        mlp: int = 3072,
        cross_every: int = 2,
        text: bool = True,
        vocab: int = 30523,
        max_positions: int = 512,
        eps: float = 1e-12,
        std: float = 0.02,
    ) -> None:
        super().__init__()
        self.std, self.text = std, text
        self.queries = nn.Parameter(torch.empty(queries, width))
        norm = nn.LayerNorm(width, eps=eps)  # of the words, which have a position, and of the queries, which have none
        self.embed = TextEmbedding(vocab, width, max_positions=max_positions, norm=norm, std=std) if text else nn.ModuleDict({"norm": norm})
        self.max_positions = max_positions
        self.layers = nn.ModuleList(QFormerLayer(width, heads, mlp, d_image, i % cross_every == 0, text, eps) for i in range(layers))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.normal_(self.queries, std=self.std)

    def init_weights(self) -> None:
        """As BERT; the MLP of the queries starts as a copy of the text's."""
        plain(self, self.std)
        for layer in self.layers:
            if "text" in layer.mlp.experts:
                layer.mlp.experts["query"].load_state_dict(layer.mlp.experts["text"].state_dict())

    def forward(
        self, image: Tensor | None = None, ids: Tensor | None = None, ids_mask: Tensor | None = None, mask: str = "bidirectional"
    ) -> dict[str, Tensor] | Tensor:
        if mask not in MASKS:
            raise ValueError(f"the Q-Former has no mask {mask!r}; masks: {', '.join(MASKS)}")
        if ids is not None and ids.shape[1] > self.max_positions:
            raise ValueError(f"{ids.shape[1]} text tokens, but the Q-Former has {self.max_positions} positions")
        queries = None if image is None else self.embed.norm(self.queries.expand(image.shape[0], -1, -1))
        text = None if ids is None else self.embed(ids)
        if mask == "unimodal" and queries is not None and text is not None:
            queries, _ = self.run(queries, None, image, None)
            _, text = self.run(None, text, None, who_sees_whom(0, text, ids_mask, mask))
        else:
            count = 0 if queries is None else queries.shape[1]
            queries, text = self.run(queries, text, image, None if text is None else who_sees_whom(count, text, ids_mask, mask))
        if not self.text:
            return queries
        return {name: x for name, x in (("queries", queries), ("text", text)) if x is not None}

    def run(
        self, queries: Tensor | None, text: Tensor | None, image: Tensor | None, mask: Tensor | None
    ) -> tuple[Tensor | None, Tensor | None]:
        for layer in self.layers:
            queries, text = layer(queries, text, image, mask)
        return queries, text


def who_sees_whom(queries: int, text: Tensor, ids_mask: Tensor | None, rule: str) -> Tensor | None:
    """The mask over [queries; text], [B or 1, 1, Q + T, Q + T]; None where all see all. When causal, the queries are a prefix."""
    total = queries + text.shape[1]
    prefix = torch.arange(total, device=text.device)[None] < queries
    padding = None if ids_mask is None else torch.cat([ids_mask.new_ones(ids_mask.shape[0], queries), ids_mask], dim=1)
    return attention_mask(
        ("prefix",) if rule == "multimodal_causal" else ("full",), total, padding=padding, prefix=prefix, device=text.device
    )
