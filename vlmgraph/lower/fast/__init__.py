"""Models made fast for inference: the same numbers, the same state dict.

`regional` compiles repeated blocks once a kind, `traced` is a cache as a compiled block sees it, `fuse` joins weights that read the same
input and `layout` sorts tokens by modality once a call.
"""

from __future__ import annotations

from .fuse import fuse, settle, unfuse
from .regional import Kind, Regions

__all__ = ["Kind", "Regions", "fuse", "settle", "unfuse"]
