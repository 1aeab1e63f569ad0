"""decoder.transformer: the stack of a language model."""

from __future__ import annotations

from pydantic import Field

from ..base import Decoder
from ..layer.mlp import GatedSlot
from ..stack import StackConfig


class DecoderTransformer(StackConfig, Decoder, name="decoder.transformer"):
    """A causal transformer over embedded tokens: tokens[B, N, width] → tokens[B, N, width], after the final norm.

    Unless told otherwise it is LLaMA (arXiv 2302.13971): rotary positions, RMS norms, gated SiLU MLPs, no biases. Embedding and head are
    components of their own, which take vocabulary and scale from here with `of`.
    """

    vocab: int | None = Field(None, ge=1, description="number of tokens, for the embedding and the head")
    tie: bool = Field(False, description="embedding and head share one table")
    scale: float | None = Field(None, description="factor on the token vectors, for the embedding")
    logit_scale: float | None = Field(None, description="factor on the logits, for the head")
    soft_cap: float | None = Field(None, ge=0, description="bound of the logits, for the head; 0: none")
    mlp: GatedSlot = Field(description="MLP: its hidden width, or a layer")
    causal = True
    rms = True
