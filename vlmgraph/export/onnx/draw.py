"""An image drawn code by code from a folder of graphs, with classifier-free guidance: `inference.sample_image` without torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from ...components.inference import SampleImage
from ...diagnostics import Diagnostic, DiagnosticError
from ...diagnostics import codes as C
from .run import Exported, as_array

if TYPE_CHECKING:
    from .bound import Values


def draw(
    exported: Exported,
    procedure: SampleImage,
    count: int,
    input_ids: np.ndarray,
    attention_mask: np.ndarray | None = None,
    guidance: float | None = None,
    choose: Callable[[np.ndarray], np.ndarray] = lambda scores: scores.argmax(-1),
) -> np.ndarray:
    """`count` codes of an image for each prompt input_ids [B, T], padded on the left → [B, count].

    `choose` takes scores [B, codes] and gives a code a row, the most likely by default. Raises DiagnosticError where the folder lacks the
    program, and for guidance without a token that takes the place of the words.
    """
    made = exported.program(procedure.program)
    weight = procedure.guidance if guidance is None else guidance
    batch, streams = len(input_ids), 1 if weight == 1 else 2
    mask = np.ones_like(input_ids) if attention_mask is None else attention_mask
    if streams == 2:
        input_ids, mask = np.concatenate([input_ids, without_words(input_ids, mask, procedure.pad)]), np.concatenate([mask, mask])
    values: Values = {made["written"]: input_ids, **({made["padding"]: mask} if made["padding"] else {})}
    cache: Values = {}
    codes = np.empty((batch, 0), dtype=np.int64)
    prompt, step = ([exported.bound(one) for one in made[phase]] for phase in ("prompt", "step"))
    scores_of = next(iter(made["outputs"].values()))
    for left in range(count - 1, -1, -1):
        for graph in step if codes.size else prompt:
            graph(values, cache, left)
        scores = as_array(values[scores_of])[:, -1].astype(np.float32)
        if streams == 2:
            scores = scores[batch:] + np.float32(weight) * (scores[:batch] - scores[batch:])
        code = choose(scores).astype(np.int64)[:, None]
        codes = np.concatenate([codes, code], axis=1)
        values[made["written"]] = np.full((batch * streams, 1), int(procedure.placeholder), dtype=np.int64)
        values[procedure.codes] = np.tile(code, (streams, 1))  # both streams go on with the code that was drawn
        if made["padding"]:
            mask = np.concatenate([mask, np.ones_like(mask[:, :1])], axis=1)
            values[made["padding"]] = mask
    return codes


def without_words(ids: np.ndarray, mask: np.ndarray, pad: Any) -> np.ndarray:
    """Prompts [B, T] of which the first real token and the last are left, `pad` between them."""
    if pad is None:
        text = "there is no token to pad the unconditional prompt with"
        raise DiagnosticError(Diagnostic(C.NO_GENERATE, text, fix="give `pad` in [inference], or guidance 1"))
    kept = mask.cumsum(1) * mask == 1
    kept[:, -1] = True
    return np.where(kept, ids, int(pad))


def pixels(exported: Exported, procedure: SampleImage, codes: np.ndarray) -> np.ndarray:
    """Codes [B, count] → float32 pixels [B, 3, H, W] by the procedure's last program."""
    if procedure.then is None:
        raise DiagnosticError(Diagnostic(C.NO_GENERATE, "the procedure names no program that turns codes into pixels"))
    return next(iter(exported.run(procedure.then, **{procedure.codes: codes}).values())).astype(np.float32)
