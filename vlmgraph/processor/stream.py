"""Text that comes token by token: its pieces as soon as they are certain, and whether it holds one of some strings."""

from __future__ import annotations

from collections.abc import Callable, Sequence

Decode = Callable[[Sequence[int]], str]


class Pieces:
    """Ids, one by one → the text that each adds. What ends within a character waits for the rest of it.

    A window of a few ids is decoded at a time: a tokenizer may write an id otherwise where it stands first, so that the window begins
    with ids that have been shown already.
    """

    def __init__(self, decode: Decode) -> None:
        self.decode = decode
        self.ids: list[int] = []
        self.start = self.shown = 0

    def push(self, id: int) -> str:
        self.ids.append(id)
        return self._new(final=False)

    def end(self) -> str:
        """What still waited."""
        return self._new(final=True)

    def _new(self, final: bool) -> str:
        before, now = self.decode(self.ids[self.start : self.shown]), self.decode(self.ids[self.start :])
        if len(now) <= len(before) or (now.endswith("\ufffd") and not final):
            return ""
        self.start, self.shown = self.shown, len(self.ids)
        return now[len(before) :]


class StopText:
    """Whether a text of ids holds one of some strings, asked after each id. A string may span ids, or end within one."""

    def __init__(self, strings: Sequence[str], decode: Decode) -> None:
        self.strings, self.decode = tuple(strings), decode
        self.longest = max(map(len, self.strings))

    def __call__(self, ids: Sequence[int]) -> bool:
        """Of the ids so far: the end of their text is looked at, which the last id may have changed."""
        last, count = len(self.decode(ids[-1:])), 8
        while True:
            text = self.decode(ids[-count:])
            if count >= len(ids) or len(text) > self.longest + last + 8:  # 8: what a tokenizer writes otherwise at a beginning
                return any(s in text for s in self.strings)
            count *= 2
