"""Target `transformers`: a folder that AutoModel and AutoProcessor load with trust_remote_code, without vlmgraph."""

from __future__ import annotations

from .write import export

__all__ = ["export"]
