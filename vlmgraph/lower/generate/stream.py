"""Texts while they are written."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ...diagnostics import Diagnostic, DiagnosticError
from ...diagnostics import codes as C
from ...processor.stream import Pieces
from .loop import decode_of, prepared, steps

if TYPE_CHECKING:
    from ..model import CompiledModel


class TextStreamer:
    """A `streamer` that gives the text of row 0 to `write`, piece by piece."""

    def __init__(self, processor: Any, write: Callable[[str], Any]) -> None:
        self.pieces, self.write = Pieces(decode_of(processor)), write

    def __call__(self, tokens: Tensor) -> None:
        self.send(self.pieces.push(int(tokens[0])))

    def end(self) -> None:
        self.send(self.pieces.end())

    def send(self, piece: str) -> None:
        if piece:
            self.write(piece)


def stream(
    model: CompiledModel, processor: Any, input_ids: Tensor | None = None, *, generator: Any = None, stopping_criteria: Any = None,
    logits_processor: Any = None, program: str | None = None, **given: Any,
) -> Iterator[str]:  # fmt: skip
    """The answer to one prompt as pieces of text, each as soon as it is certain; arguments as of `generate`.

    for piece in stream(model, processor, **inputs, max_new_tokens=64): print(piece, end="")
    """
    task = prepared(model, input_ids, stopping_criteria, logits_processor, generator, processor, program, given)
    if task.options.num_beams > 1 or task.options.num_return_sequences > 1 or len(task.decoder.ids) > 1:
        text = "one answer to one prompt is streamed: there are several rows or beams"
        raise DiagnosticError(Diagnostic(C.BAD_OPTION, text, fix="give one prompt, and no num_beams and num_return_sequences"))
    return streamed(task, Pieces(decode_of(processor)))


def streamed(task: Any, pieces: Pieces) -> Iterator[str]:
    for tokens in steps(task):
        if piece := pieces.push(int(tokens[0])):
            yield piece
    if piece := pieces.end():
        yield piece
