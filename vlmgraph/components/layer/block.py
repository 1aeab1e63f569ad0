"""block.*: whole blocks that can be inserted between the layers of a stack."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field

from ...ir.dims import Dim
from ..base import Layer, load_symbol
from .attention import Cross
from .mlp import Act, MLPSlot
from .slot import NormSlot, counted, filled


class CrossBlock(Layer, name="block.cross_attention"):
    """x + cross-attention to media, then x + MLP, both behind a norm. Without media it is left out (mllama)."""

    width: int | None = Field(None, ge=1, description="width of the tokens; the stack's")
    heads: int | None = Field(None, ge=1, description="query heads; the stack's")
    kv_heads: int | None = Field(None, ge=1, description="key and value heads; as many as `heads`")
    head_dim: int | None = Field(None, ge=1, description="width of a head; width / heads")
    d_media: int | None = Field(None, ge=1, description="width of the media; inferred")
    bias: bool | str | None = Field(None, description="biases of the cross-attention")
    mlp: MLPSlot | None = Field(None, description="the MLP; the stack's kind where left out")
    act: Act | None = Field(None, description="activation; the stack's")
    norm: NormSlot | None = Field(None, description="of both branches; the stack's")
    norm_eps: float | None = Field(None, gt=0, description="the stack's")
    qk_norm: NormSlot | None = Field(None, description="on every head's queries and keys")
    gate: Literal["none", "scalar", "vector"] = Field("scalar", description="tanh gates on both branches, zero at first")
    mask_mlp: bool = Field(True, description="tokens without media skip the MLP too")
    open_rows: bool = Field(False, description="tokens that may attend to no medium attend to all (transformers' mllama), not to none")
    module = "vlmgraph.nn.block:CrossAttentionBlock"

    def parts(self) -> dict[str, Any]:
        """Configs by the name of their module."""
        eps = {"eps": self.norm_eps}
        norm = filled(self.norm, width=self.width, **eps)  # type: ignore[arg-type]
        qk = None if self.qk_norm is None else filled(self.qk_norm, **eps)
        cross = Cross(
            width=self.width,
            heads=self.heads,
            kv_heads=self.kv_heads,
            head_dim=self.head_dim,
            d_media=self.d_media,
            bias=self.bias if self.bias is not None else False,
            qk_norm=qk,
        )
        plain = self.bias if isinstance(self.bias, bool) else None
        mlp = filled(self.mlp, width=self.width, act=self.act, bias=plain)  # type: ignore[arg-type]
        return {"cross": cross, "mlp": mlp, "norms.cross": norm, "norms.mlp": norm}

    def build(self) -> Any:
        parts = self.parts()
        gate = load_symbol("vlmgraph.nn.block:Gate")
        size = {"none": 0, "scalar": 1, "vector": self.width}[self.gate]
        gates = {name: gate(size) for name in ("cross", "mlp")} if size else None
        norms = {name: parts[f"norms.{name}"].build() for name in ("cross", "mlp")}
        return load_symbol(self.module)(parts["cross"].build(), parts["mlp"].build(), norms, gates, self.mask_mlp, self.open_rows)

    def parameters(self) -> dict[str, int]:
        parts = self.parts()
        counts = {**counted("cross", parts["cross"]), **counted("mlp", parts["mlp"])}
        gate = {"none": 0, "scalar": 1, "vector": self.width or 0}[self.gate]
        for branch in ("cross", "mlp"):
            counts[f"norms.{branch}"] = parts[f"norms.{branch}"].total()
            if gate:
                counts[f"gates.{branch}"] = gate
        return counts

    def flops(self, dims: Mapping[str, Dim]) -> Dim:
        """N tokens over K media; where there are none the MLP alone, or nothing with `mask_mlp`."""
        parts = self.parts()
        mlp = parts["mlp"].flops(dims)
        return parts["cross"].flops(dims) + mlp if "K" in dims else Dim() if self.mask_mlp else mlp


class GatedCrossBlock(CrossBlock, name="block.gated_cross_attention"):
    """Flamingo's layer (arXiv 2204.14198, section 3.1.2): tanh gates on both branches; the MLP acts with media and without."""

    mask_mlp: bool = Field(False, description="tokens without media skip the MLP too")
