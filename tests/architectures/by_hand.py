"""Formulas of papers written out with matrix products, over the state dict of a component: what tests hold models against.

Nothing here shares code with the package: a state dict and tensors come in, tensors go out. All in float64.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

State = Mapping[str, Tensor]


def state(module: nn.Module, prefix: str = "") -> dict[str, Tensor]:
    """Weights below a prefix, in float64."""
    return {k.removeprefix(prefix): v.detach().double() for k, v in module.state_dict().items() if k.startswith(prefix)}


def below(s: State, prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in s.items() if k.startswith(prefix)}


def linear(s: State, name: str, x: Tensor) -> Tensor:
    y = x @ s[f"{name}.weight"].T
    return y + s[f"{name}.bias"] if f"{name}.bias" in s else y


def layer_norm(s: State, name: str, x: Tensor, eps: float) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + eps).sqrt() * s[f"{name}.weight"] + s[f"{name}.bias"]


def rms_norm(s: State, name: str, x: Tensor, eps: float) -> Tensor:
    return x / (x.square().mean(-1, keepdim=True) + eps).sqrt() * s[f"{name}.weight"]


def quick_gelu(x: Tensor) -> Tensor:
    return x / (1 + torch.exp(-1.702 * x))


def gelu(x: Tensor) -> Tensor:
    return x * 0.5 * (1 + torch.erf(x / 2**0.5))


def silu(x: Tensor) -> Tensor:
    return x / (1 + torch.exp(-x))


def softmax_attention(q: Tensor, k: Tensor, v: Tensor, heads: int, causal: bool, key_mask: Tensor | None = None) -> Tensor:
    """q, k, v [B, N, heads * d], key_mask [B, N] → [B, N, heads * d]."""
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))
    scores = q @ k.transpose(2, 3) / q.shape[-1] ** 0.5
    allowed = torch.ones(scores.shape[-2:], dtype=torch.bool)
    allowed = allowed.tril() if causal else allowed
    allowed = allowed[None, None] if key_mask is None else allowed & key_mask.bool()[:, None, None]
    weights = scores.masked_fill(~allowed, -1e30).softmax(-1)
    return (weights @ v).transpose(1, 2).flatten(2)


# ---- CLIP


def clip_blocks(s: State, x: Tensor, heads: int, causal: bool, act: Callable[[Tensor], Tensor] = quick_gelu) -> list[Tensor]:
    """x = x + MHA(LN x); x = x + MLP(LN x): what enters the first block, then the output of each."""
    hidden = [x]
    for i in range(depth(s)):
        block = below(s, f"layers.{i}.")
        y = layer_norm(block, "norms.attention", x, 1e-5)
        q, k, v = (linear(block, f"attention.{n}", y) for n in "qkv")
        x = x + linear(block, "attention.out", softmax_attention(q, k, v, heads, causal))
        x = x + linear(block, "mlp.fc2", act(linear(block, "mlp.fc1", layer_norm(block, "norms.mlp", x, 1e-5))))
        hidden.append(x)
    return hidden


def clip_vision(s: State, image: Tensor, heads: int) -> list[Tensor]:
    """Hidden states of the image tower: patches without bias, class token, positions, ln_pre, blocks."""
    patch = s["patch.proj.weight"].shape[-1]
    patches = F.unfold(image.double(), patch, stride=patch).transpose(1, 2) @ s["patch.proj.weight"].flatten(1).T
    x = torch.cat([s["cls"].expand(len(image), 1, -1), patches], 1) + s["position.weight"]
    return clip_blocks(s, layer_norm(s, "pre_norm", x, 1e-5), heads, causal=False)


def depth(s: State) -> int:
    return 1 + max(int(k.split(".")[1]) for k in s if k.startswith("layers."))


# ---- LLaMA


def rope(x: Tensor, positions: Tensor, heads: int, theta: float = 10_000.0) -> Tensor:
    """Channels i and i + d/2 of a head turned by position * theta^(-2 i / d): x [B, N, heads * d], positions [B, N]."""
    x = x.unflatten(-1, (heads, -1))
    half = x.shape[-1] // 2
    angle = positions.double()[..., None, None] * theta ** (-torch.arange(half, dtype=torch.float64) / half)
    a, b = x[..., :half], x[..., half:]
    return torch.cat([a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()], -1).flatten(2)


def swiglu(s: State, name: str, x: Tensor) -> Tensor:
    return linear(s, f"{name}.down", silu(linear(s, f"{name}.gate", x)) * linear(s, f"{name}.up", x))


def llama(
    s: State, x: Tensor, positions: Tensor, heads: int, visual: Tensor | None = None, mask: Tensor | None = None, eps: float = 1e-5
) -> Tensor:
    """The decoder with a final norm; x [B, N, width]. Where `visual` [B, N] is True, the vision expert's matrices are taken (CogVLM)."""

    def pick(block: State, f: Callable[[str], Tensor], kind: str, leaf: str) -> Tensor:
        if visual is None and f"{kind}.{leaf}.weight" in block:
            return f(f"{kind}.{leaf}")
        text = f(f"{kind}.experts.text{leaf and '.' + leaf}")
        return text if visual is None else torch.where(visual[..., None], f(f"{kind}.experts.vision{leaf and '.' + leaf}"), text)

    def feed(block: State, y: Tensor) -> Tensor:
        if "mlp.gate.weight" in block:
            return swiglu(block, "mlp", y)
        return pick(block, lambda name: swiglu(block, name, y), "mlp", "")

    for i in range(depth(s)):
        block = below(s, f"layers.{i}.")
        y = rms_norm(block, "norms.attention", x, eps)
        q, k, v = (pick(block, lambda name, y=y, b=block: linear(b, name, y), "attention", n) for n in "qkv")
        y = softmax_attention(rope(q, positions, heads), rope(k, positions, heads), v, heads, causal=True, key_mask=mask)
        x = x + pick(block, lambda name, y=y, b=block: linear(b, name, y), "attention", "out")
        x = x + feed(block, rms_norm(block, "norms.mlp", x, eps))
    return rms_norm(s, "final_norm", x, eps)


# ---- EVA2-CLIP-E


def eva_tower(s: State, image: Tensor, heads: int) -> Tensor:
    """x = x + LN(MHA x); x = x + LN(MLP x), class token kept, no final norm."""
    patch = s["patch.proj.weight"].shape[-1]
    patches = F.unfold(image.double(), patch, stride=patch).transpose(1, 2) @ s["patch.proj.weight"].flatten(1).T + s["patch.proj.bias"]
    x = torch.cat([s["cls"].expand(len(image), 1, -1), patches], 1) + s["position.weight"]
    for i in range(depth(s)):
        block = below(s, f"layers.{i}.")
        q, k, v = (linear(block, f"attention.{n}", x) for n in "qkv")
        x = x + layer_norm(block, "norms.attention", linear(block, "attention.out", softmax_attention(q, k, v, heads, False)), 1e-6)
        x = x + layer_norm(block, "norms.mlp", linear(block, "mlp.fc2", gelu(linear(block, "mlp.fc1", x))), 1e-6)
    return x
