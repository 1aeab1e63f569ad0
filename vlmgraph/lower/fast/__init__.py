"""Models made fast for inference: the same numbers, the same state dict.

`regional` compiles repeated `blocks` once a kind, `trial` holds the first run of a compilation against its block, `bound` calls it past
torch's guards, `traced` is a cache as a compiled block sees it, `fuse` joins weights that read the same input, `place` lays them in huge
pages, `layout` sorts tokens by modality once a call, `steps` leaves the mask out where all is seen, `lowbit` has products of a few rows,
also by weights of a few bits.
"""

from __future__ import annotations

from .fuse import fuse, settle, unfuse
from .place import place
from .regional import Kind, Regions

__all__ = ["Kind", "Regions", "fuse", "place", "settle", "unfuse"]
