"""Writing text with a model's programs.

`options` what may be chosen, `scores` and `draw` how a token is taken, `stop` when a row ends, `decoder` how a program runs step by
step (`grow`: its inputs, `caches`), `loop` and `beams` the two ways to write, `stream` texts while they are written.
"""

from __future__ import annotations

from .caches import new_caches
from .draw import Draw
from .grow import check_padding, continued
from .loop import generate
from .options import Options, folder_options, options_of
from .recorded import Recordings
from .scores import applied, drawing_rules
from .stream import TextStreamer, stream

__all__ = [
    "Draw", "Options", "Recordings", "TextStreamer", "applied", "check_padding", "continued", "drawing_rules", "folder_options", "generate",
    "new_caches", "options_of", "stream",
]  # fmt: skip
