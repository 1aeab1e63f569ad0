"""Lightning attention: linear attention whose past decays, computed block by block."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .cache import LayerCache
from .rope import Rotation


class LightningAttention(nn.Module):
    """x [B, N, width] → [B, N, width], causal without a mask (arXiv 2401.04658; as MiniMax-01 uses it, arXiv 2501.08313, section 2.2).

    act(qkv x) for every head: S_t = exp(-s) S_(t-1) + k_t^T v_t, o_t = q_t S_t, without softmax, scaling or positions. Head h of H in a
    layer that has the share `depth` of the stack below it has s = 2 ** (-8 (h + 1) / H) * (1 - depth + 1e-5). All heads' outputs as one
    vector are normed, gated by sigmoid(gate x) and projected. Inside a block of tokens the sum over the past is a masked product.
    """

    def __init__(self, width: int, heads: int, head_dim: int, act: nn.Module, norm: nn.Module, depth: float, block: int = 256) -> None:
        super().__init__()
        self.heads, self.head_dim, self.depth, self.block = heads, head_dim, depth, block
        self.qkv = nn.Linear(width, 3 * heads * head_dim, bias=False)  # for every head q, k, v
        self.act = act
        self.norm = norm
        self.gate = nn.Linear(width, heads * head_dim, bias=False)
        self.proj = nn.Linear(heads * head_dim, width, bias=False)
        self.register_buffer("slope", torch.empty(heads, 1, 1))
        self.register_buffer("query_decay", torch.empty(heads, block, 1))
        self.register_buffer("key_decay", torch.empty(heads, block, 1))
        self.register_buffer("diagonal_decay", torch.empty(1, heads, block, block))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """The decays, which are no parameters but stand in checkpoints."""
        device = self.slope.device
        rate = (1 / 2 ** (8 / self.heads)) ** (torch.arange(self.heads, device=device) + 1)
        slope = (rate * (1 - self.depth + 1e-5))[:, None, None]
        place = torch.arange(self.block, device=device) + 1
        apart = slope * (place[:, None] - place)
        self.slope.copy_(slope)
        self.query_decay.copy_(torch.exp(-slope * place[:, None]))
        self.key_decay.copy_(torch.exp(-slope * (self.block - place[:, None])))
        self.diagonal_decay.copy_(torch.exp(torch.where(apart >= 0, -apart, float("-inf")))[None])

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        rope: Rotation | None = None,
        cache: LayerCache | None = None,
        modality: Tensor | None = None,
    ) -> Tensor:
        """mask [B, 1, 1 or N, K]: its last row says which tokens are real; the others leave nothing behind. `cache` holds S."""
        count = x.shape[1]
        mixed = self.act(self.qkv(x)).unflatten(-1, (self.heads, 3, self.head_dim)).transpose(1, 2)
        q, k, v = mixed[..., 0, :], mixed[..., 1, :], mixed[..., 2, :]
        if mask is not None:
            k = k * mask[:, 0, -1, -count:][:, None, :, None].to(k.dtype)
        state = x.new_zeros(x.shape[0], self.heads, self.head_dim, self.head_dim)
        if cache is not None and cache.state is not None:
            state = cache.state
        if torch.compiler.is_exporting():  # a graph has no loop over a length that is open
            parts, state = self.whole(q, k, v, state)
        else:
            parts, state = self.blocks(q, k, v, state)
        if cache is not None:
            cache.keep(state, count)
        y = parts.transpose(1, 2).flatten(2)
        return self.proj(torch.sigmoid(self.gate(x)) * self.norm(y))

    def blocks(self, q: Tensor, k: Tensor, v: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """All tokens [B, heads, N, head_dim], a block after the other."""
        parts = []
        for start in range(0, q.shape[2], self.block):
            y, state = self.step(
                q[:, :, start : start + self.block], k[:, :, start : start + self.block], v[:, :, start : start + self.block], state
            )
            parts.append(y)
        return torch.cat(parts, dim=2), state

    def whole(self, q: Tensor, k: Tensor, v: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """All tokens as one block, whatever their number."""
        n = q.shape[2]
        place = torch.arange(n, device=q.device) + 1
        apart = self.slope * (place[:, None] - place)
        near = (q @ k.transpose(-1, -2) * torch.exp(torch.where(apart >= 0, -apart, float("-inf")))[None]) @ v
        far = (q * torch.exp(-self.slope * place[:, None])) @ state
        kept = state * torch.exp(-self.slope * n) + (k * torch.exp(-self.slope * (n - place[:, None]))).transpose(-1, -2) @ v
        return far + near, kept

    def step(self, q: Tensor, k: Tensor, v: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """One block [B, heads, n, head_dim] and what is left of the past → its outputs, and what is left after it."""
        n = q.shape[2]
        near = (q @ k.transpose(-1, -2) * self.diagonal_decay[:, :, :n, :n]) @ v
        far = (q * self.query_decay[:, :n]) @ state
        kept = state * torch.exp(-self.slope * n) + (k * self.key_decay[:, -n:]).transpose(-1, -2) @ v
        return far + near, kept
