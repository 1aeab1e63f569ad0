"""Transformer blocks: slots filled by modules, joined by residuals."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from .attention import CrossAttention
from .cache import LayerCache
from .mlp import Experts
from .moe import MixtureOfExperts
from .rope import Rotation

ORDERS = ("pre", "post", "sub_post", "parallel", "normed")


class Scale(nn.Module):
    """A learned factor a channel on a branch (LayerScale, CaiT, arXiv 2103.17239)."""

    def __init__(self, width: int, init: float = 1e-5) -> None:
        super().__init__()
        self.init = init
        self.weight = nn.Parameter(torch.empty(width))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.constant_(self.weight, self.init)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight


class Gate(nn.Module):
    """tanh of a learned scalar (`size` 1) or vector, zero at first: the branch starts switched off (Flamingo, arXiv 2204.14198)."""

    def __init__(self, size: int = 1, init: float = 0.0) -> None:
        super().__init__()
        self.init = init
        self.weight = nn.Parameter(torch.empty(size))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.constant_(self.weight, self.init)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight.tanh()


class Block(nn.Module):
    """Attention, then (optionally) cross-attention, then an MLP, each a branch beside the stream x [B, N, width].

    `order` says where a branch's norm stands: "pre" x + f(norm x); "post" norm(x + f(x)); "sub_post" x + norm(f(x)) (EVA-02's CLIP-E,
    Swin v2); "parallel" x + attention(norm x) + mlp(norm x), with one norm where the MLP has none. With `order` "pre" a branch
    may have a second norm behind it, attention_out, cross_out or mlp_out (the sandwich). `norms` go by the names of their branches.
    `scales` multiply a branch. "normed" is a * norm x + b * f(norm x), where `factors` give a and b of a branch, else 1 (MiniMax-01,
    arXiv 2501.08313).
    """

    def __init__(
        self,
        attention: nn.Module | None,
        mlp: nn.Module | None,
        norms: Mapping[str, nn.Module],
        cross: CrossAttention | None = None,
        order: str = "pre",
        scales: Mapping[str, nn.Module] | None = None,
        factors: Mapping[str, tuple[float, float]] | None = None,
    ) -> None:
        super().__init__()
        if order not in ORDERS:
            raise ValueError(f"there is no order {order!r}; there are {', '.join(ORDERS)}")
        self.order = order
        self.norms = nn.ModuleDict(norms)
        self.attention, self.cross, self.mlp = attention, cross, mlp
        self.scales = nn.ModuleDict(scales or {})
        self.factors = {branch: (factors or {}).get(branch, (1.0, 1.0)) for branch in norms} if order == "normed" else {}

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        rope: Rotation | None = None,
        modality: Tensor | None = None,
        cache: LayerCache | None = None,
        media: Tensor | None = None,
        media_mask: Tensor | None = None,
        routes: list[Tensor] | None = None,
        read: LayerCache | None = None,
    ) -> Tensor:
        """Without `media` the cross-attention is left out; `read` is the cache of the media. A mixture of experts puts its router's
        scores behind `routes`."""
        if self.order == "parallel":
            y = self.norms["attention"](x)
            attended = self.scaled("attention", self.attention(y, mask, rope, cache, modality))  # type: ignore[misc]
            return x + attended + self.scaled("mlp", self.feed(self.norms["mlp"](x) if "mlp" in self.norms else y, modality, routes))
        if self.attention is not None:
            attention = self.attention
            x = self.branch("attention", x, lambda y: attention(y, mask, rope, cache, modality))
        if self.cross is not None and media is not None:
            cross = self.cross
            x = self.branch("cross", x, lambda y: cross(y, media, media_mask, read))
        if self.mlp is not None:
            x = self.branch("mlp", x, lambda y: self.feed(y, modality, routes))
        return x

    def branch(self, name: str, x: Tensor, f: Callable[[Tensor], Tensor]) -> Tensor:
        """x and f of it, with the norm where `order` puts it."""
        norm = self.norms[name]
        if self.order == "post":
            return norm(x + self.scaled(name, f(x)))
        if self.order == "sub_post":
            return x + self.scaled(name, norm(f(x)))
        if self.order == "normed":
            x = norm(x)
            return x * self.factors[name][0] + self.scaled(name, f(x)) * self.factors[name][1]
        y = f(norm(x))
        if f"{name}_out" in self.norms:
            y = self.norms[f"{name}_out"](y)
        return x + self.scaled(name, y)

    def scaled(self, name: str, y: Tensor) -> Tensor:
        return self.scales[name](y) if name in self.scales else y

    def feed(self, x: Tensor, modality: Tensor | None, routes: list[Tensor] | None) -> Tensor:
        assert self.mlp is not None
        if isinstance(self.mlp, MixtureOfExperts):
            return self.mlp(x, routes)
        return self.mlp(x, modality) if isinstance(self.mlp, Experts) else self.mlp(x)


class CrossAttentionBlock(nn.Module):
    """A pre-norm block that only reads media: x [B, N, width] + cross-attention + MLP, both behind gates if there are any.

    With tanh gates at zero this is Flamingo's inserted layer (arXiv 2204.14198, section 3.1.2), which is the identity at first. Media are
    not normalised. A token that may attend to no medium takes nothing from the cross-attention, but its MLP still acts, and so it does
    for a sample without any media. `mask_mlp` leaves such tokens' MLP out too (mllama). With `open_rows` a token that may attend to no
    medium attends to all of them instead, as transformers' mllama has it.
    """

    def __init__(
        self,
        cross: CrossAttention,
        mlp: nn.Module,
        norms: Mapping[str, nn.Module],
        gates: Mapping[str, nn.Module] | None = None,
        mask_mlp: bool = False,
        open_rows: bool = False,
    ) -> None:
        super().__init__()
        self.norms = nn.ModuleDict(norms)
        self.cross, self.mlp = cross, mlp
        self.gates = nn.ModuleDict(gates or {})
        self.mask_mlp, self.open_rows = mask_mlp, open_rows

    def forward(self, x: Tensor, media: Tensor | None = None, media_mask: Tensor | None = None, cache: LayerCache | None = None) -> Tensor:
        """media [B, M, d_media]; media_mask [B, M] or [B, N, M], True = may attend; the cache is of the media."""
        if media is not None:
            seen = media_mask
            if self.open_rows and media_mask is not None:
                seen = media_mask.bool() | ~media_mask.bool().any(-1, keepdim=True)
            y = self.gated("cross", self.cross(self.norms["cross"](x), media, seen, cache))
            if not self.open_rows and media_mask is not None and media_mask.dim() == 3:
                y = y * media_mask.bool().any(-1, keepdim=True).to(y.dtype)  # the output projection may have a bias
            x = x + y
        elif self.mask_mlp:
            return x
        y = self.gated("mlp", self.mlp(self.norms["mlp"](x)))
        if self.mask_mlp and media_mask is not None and media_mask.dim() == 3:
            y = y * media_mask.bool().any(-1, keepdim=True).to(y.dtype)
        return x + y

    def gated(self, name: str, y: Tensor) -> Tensor:
        return self.gates[name](y) if name in self.gates else y
