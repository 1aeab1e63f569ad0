"""text.transformer: the stack of a text encoder."""

from __future__ import annotations

from ..base import Encoder
from ..stack import StackConfig


class TextTransformer(StackConfig, Encoder, name="text.transformer"):
    """A transformer over embedded text (BERT, CLIP's text tower): tokens[B, N, width] → tokens[B, N, width].

    The embedding is a component of its own, `text.embedding`.
    """
