"""encdec.transformer: T5's two stacks."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

from pydantic import Field, model_validator

from ...ir import types as T
from ...ir.dims import Dim
from ..base import Decoder, Ports, load_symbol
from ..layer.mlp import Act, GatedSlot
from ..layer.slot import AttentionSlot, CrossSlot, NormSlot, PositionSlot
from .transformer import DecoderTransformer


class EncoderDecoder(Decoder, name="encdec.transformer"):
    """An encoder over `x` and a causal decoder over `decoder` that reads it: tokens[B, S, width] out of the decoder's final norm.

    Unless told otherwise it is T5 1.1 (arXiv 1910.10683): learned biases by distance, shared by the layers of a stack, unscaled attention
    without biases, RMS norms, gated MLPs.
    """

    layers: int = Field(ge=1, le=10_000, description="layers of the encoder")
    decoder_layers: int | None = Field(None, ge=1, le=10_000, description="layers of the decoder; as many")
    width: int = Field(ge=1, description="width of the tokens")
    heads: int = Field(ge=1, description="attention heads")
    head_dim: int | None = Field(None, ge=1, description="width of a head; width / heads")
    mlp: GatedSlot = Field(description="MLP: its hidden width, or a layer")
    act: Act = Field("gelu_tanh", description="activation of the MLP")
    attention: AttentionSlot = Field({"type": "attention.mha", "scale": 1.0}, description="self-attention")
    cross: CrossSlot = Field({"type": "attention.cross", "scale": 1.0}, description="attention of the decoder to the encoder")
    norm: NormSlot = Field("norm.rms", description="the norm of the branches")
    norm_eps: float = Field(1e-6, gt=0, description="epsilon of all norms")
    bias: bool = Field(False, description="biases of all linear layers")
    position: PositionSlot = Field("position.relative_bias", description="position code of both stacks")
    max_positions: int | None = Field(None, ge=1, description="longest sequence")
    vocab: int | None = Field(None, ge=1, description="number of tokens, for the embedding and the head")
    tie: bool = Field(False, description="embedding and head share one table")
    scale: float | None = Field(None, description="factor on the token vectors, for the embedding")
    logit_scale: float | None = Field(None, description="factor on the logits, for the head")
    soft_cap: float | None = Field(None, ge=0, description="bound of the logits, for the head; 0: none")
    ports = Ports(
        T.tokens["B", "S", "width"], x=T.tokens["B", "N", "width"], decoder=T.tokens["B", "S", "width"],
        mask=T.mask["B", "N"].optional_, decoder_mask=T.mask["B", "S"].optional_,
    )  # fmt: skip
    parts = ("encoder", "decoder", "attention", "cross", "mlp", "norms", "bias", "final_norm")
    module = "vlmgraph.nn.stack:EncoderDecoder"

    @model_validator(mode="after")
    def _fits(self) -> EncoderDecoder:
        _ = self.stacks  # says what does not fit
        return self

    @cached_property
    def stacks(self) -> dict[str, DecoderTransformer]:
        """Both stacks as configs of their own."""
        names = ("width", "heads", "head_dim", "mlp", "act", "attention", "norm", "norm_eps", "bias", "position", "max_positions")
        fields = {name: getattr(self, name) for name in names}
        encoder = DecoderTransformer(**fields, layers=self.layers, mask="full", init="t5")
        decoder = DecoderTransformer(
            **fields, layers=self.decoder_layers or self.layers, mask="causal", init="t5", cross=self.cross, d_media=self.width
        )
        return {"encoder": encoder, "decoder": decoder}

    def hidden_states(self) -> int | None:
        return None

    def parameters(self) -> dict[str, int]:
        return {f"{side}.{part}": count for side, stack in self.stacks.items() for part, count in stack.parameters().items()}

    def flops(self, dims: Mapping[str, Dim]) -> Dim:
        if not {"B", "N", "S"} <= dims.keys():
            return Dim()
        encoder, decoder = self.stacks.values()
        return dims["B"] * (encoder.stack_flops(dims["N"], {}) + decoder.stack_flops(dims["S"], {"M_media": dims["N"]}))

    def cache_bytes_per_token(self) -> int:
        return self.stacks["decoder"].cache_bytes_per_token()

    def build(self) -> Any:
        return load_symbol(self.module)(*(stack.build() for stack in self.stacks.values()))
