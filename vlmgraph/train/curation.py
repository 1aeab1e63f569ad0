"""Which captions of a pool are kept: texts matched to entries, every entry balanced to t texts (MetaCLIP, arXiv 2309.16671, section 3).

Texts come as any iterable, a file's lines say, and are read one at a time: once to count, once to draw.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

SPACES = str.maketrans({**{mark: f" {mark} " for mark in ",.;:?!`"}, "\t": " ", "\n": " ", "\r": " "})
"""Punctuation becomes a word of its own, other white space a space; case stays."""


class Metadata:
    """Entries by their words. An entry matches where its words stand in a text one after the other, one space apart."""

    def __init__(self, entries: Sequence[str]) -> None:
        self.entries = tuple(entries)
        self.index: dict[tuple[str, ...], int] = {}
        lengths: dict[str, set[int]] = {}
        for place, entry in enumerate(self.entries):
            words = tuple(entry.split(" "))
            self.index.setdefault(words, place)
            lengths.setdefault(words[0], set()).add(len(words))
        self.lengths = {first: sorted(found) for first, found in lengths.items()}

    def match(self, text: str) -> list[int]:
        """Places of the entries in a text, each once, in order."""
        words = text.translate(SPACES).split(" ")
        found = set()
        for at, word in enumerate(words):
            for length in self.lengths.get(word, ()):
                place = self.index.get(tuple(words[at : at + length]))
                if place is not None:
                    found.add(place)
        return sorted(found)


def counts(texts: Iterable[str], metadata: Metadata) -> npt.NDArray[np.int64]:
    """How many texts each entry is in. Take them over the whole pool: a share's counts balance only that share."""
    total = np.zeros(len(metadata.entries), np.int64)
    for text in texts:
        total[metadata.match(text)] += 1
    return total


def probabilities(counted: npt.NDArray[np.int64], threshold: float) -> npt.NDArray[np.float64]:
    """t / max(count, t): entries of at most t texts keep all of them, larger ones t on average."""
    return np.minimum(1.0, threshold / np.maximum(counted, 1))


def balance(
    texts: Iterable[str], metadata: Metadata, counted: npt.NDArray[np.int64], threshold: float, seed: int = 0
) -> Iterator[tuple[int, str]]:
    """The texts that are kept, with their places: those for which at least one entry's own draw succeeds. Texts without entries are not."""
    draws, chance = np.random.default_rng(seed), probabilities(counted, threshold)
    for place, text in enumerate(texts):
        found = metadata.match(text)
        if found and (draws.random(len(found)) < chance[found]).any():
            yield place, text


def kept(
    entries: npt.NDArray[np.int64], texts: npt.NDArray[np.int64], counted: npt.NDArray[np.int64], threshold: float, seed: int = 0
) -> npt.NDArray[np.int64]:
    """The same of an inverted index, rows of an entry and a text: the texts of the rows whose draws succeed, each once, in order."""
    draws = np.random.default_rng(seed).random(len(entries))
    return np.unique(texts[draws < probabilities(counted, threshold)[entries]])
