"""Text to ids and back: a `tokenizer.json`, or bytes where there is none."""

from __future__ import annotations

import re
import string
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from ..diagnostics.core import Diagnostic
from . import problems
from .problems import problem

BYTES = 256


class Piece(NamedTuple):
    """One id and the characters of the text it stands for."""

    id: int
    start: int
    end: int


class Vocabulary(Protocol):
    """Plain text, without the tokens of the spec."""

    knows: frozenset[str]
    """Tokens that it finds in a text by itself, with the ids of the spec."""

    def encode(self, text: str) -> list[Piece]: ...

    def decode(self, ids: Sequence[int]) -> str: ...


class FileVocabulary:
    """A `tokenizer.json`. Its own start and end tokens are not used: the spec says which there are."""

    def __init__(self, path: Path, tokens: Mapping[str, int]) -> None:
        from tokenizers import Tokenizer as Library

        try:
            self.library = Library.from_file(str(path))
        except Exception as error:  # the library raises a bare Exception for every fault
            raise problem(problems.TOKENIZER, f"{path} cannot be read: {error}", "save the tokenizer again") from None
        self.library.no_padding()
        self.library.no_truncation()
        added = {str(t.content) for t in self.library.get_added_tokens_decoder().values()}
        known = set()
        for name, index in tokens.items():
            there = self.library.token_to_id(name)
            if there is not None and there != index:
                raise problem(
                    problems.TOKENIZER,
                    f"`{name}` is {index} in [tokens] but {there} in {path}",
                    f'set "{name}" = {there} in [tokens], or use the tokenizer of this model',
                )
            if there is not None and name in added:
                known.add(name)
        self.knows = frozenset(known)

    def encode(self, text: str) -> list[Piece]:
        encoding = self.library.encode(text, add_special_tokens=False)
        return [Piece(i, *span) for i, span in zip(encoding.ids, encoding.offsets)]

    def decode(self, ids: Sequence[int]) -> str:
        return str(self.library.decode(list(ids), skip_special_tokens=False))


class ByteVocabulary:
    """UTF-8 bytes in the ids that no token of the spec has, in order.

    With fewer than 256 free ids byte b shares the id of b modulo their number, and decoding gives the first printable of them.
    """

    def __init__(self, tokens: Iterable[int], size: int | None = None) -> None:
        taken = set(tokens)
        limit = size if size is not None else BYTES + len(taken)
        free = [i for i in range(limit) if i not in taken][:BYTES]
        if not free:
            raise problem(problems.TOKENIZER, f"a vocabulary of {limit} has no id left for text", "raise the vocabulary of this size")
        self.knows: frozenset[str] = frozenset()
        self.shared = len(free) < BYTES
        self.ids = [free[b % len(free)] for b in range(BYTES)]
        printable = sorted(range(BYTES), key=lambda b: not 32 <= b < 127)
        self.bytes = {self.ids[b]: b for b in reversed(printable)}

    def encode(self, text: str) -> list[Piece]:
        pieces = []
        for at, letter in enumerate(text):
            pieces += [Piece(self.ids[b], at, at + 1) for b in letter.encode("utf-8", "replace")]
        return pieces

    def decode(self, ids: Sequence[int]) -> str:
        return bytes(self.bytes[i] for i in ids if i in self.bytes).decode("utf-8", "replace")


class Tokenizer:
    """A vocabulary and the tokens of the spec. Tokens that the vocabulary does not know split the text around them."""

    def __init__(
        self, vocabulary: Vocabulary, tokens: Mapping[str, int], size: int | None = None, lower: bool = False, punctuation: bool = True
    ) -> None:
        self.vocabulary, self.tokens, self.size, self.lower, self.punctuation = vocabulary, dict(tokens), size, lower, punctuation
        self.names = {index: name for name, index in reversed(list(tokens.items()))}
        # what changes the text must not reach the tokens, so then all of them split
        foreign = [t for t in tokens if lower or not punctuation or t not in vocabulary.knows]
        longest = sorted(foreign, key=len, reverse=True)
        self.split = re.compile(f"({'|'.join(map(re.escape, longest))})") if longest else None

    def encode(self, text: str) -> list[Piece]:
        """Raises VG0710 where the vocabulary of the tokenizer is larger than the model's."""
        pieces: list[Piece] = []
        at = 0
        for chunk in self.split.split(text) if self.split else [text]:
            if chunk in self.tokens:
                pieces.append(Piece(self.tokens[chunk], at, at + len(chunk)))
            elif chunk:
                pieces += [Piece(p.id, at + p.start, at + p.end) for p in self.words(chunk)]
            at += len(chunk)
        if self.size is not None and (largest := max((p.id for p in pieces), default=0)) >= self.size:
            end = f"the model's vocabulary ends at {self.size - 1}"
            if largest in self.names:
                name = self.names[largest]
                raise problem(problems.TOKEN, f"`{name}` is {largest} in [tokens], {end}", "give it a smaller id in this size of the spec")
            fix = "use the tokenizer of this model, or leave it out to get the stand-in for small sizes"
            raise problem(problems.TOKENIZER, f"the tokenizer gives id {largest}, {end}", fix)
        return pieces

    def words(self, text: str) -> list[Piece]:
        """Text without tokens in it; places are those of the text as it was given."""
        plain, places = (text, None) if self.punctuation else without_punctuation(text)
        found = self.vocabulary.encode(plain.lower() if self.lower else plain)
        if places is None:
            return found
        return [Piece(p.id, places[p.start], places[max(p.end - 1, p.start)] + 1) for p in found if p.start < len(places)]

    def decode(self, ids: Iterable[int], skip_special: bool = True) -> str:
        """Tokens of the spec are left out, or written by their names."""
        parts: list[str] = []
        run: list[int] = []
        for index in [*map(int, ids), None]:
            if index is not None and index not in self.names:
                run.append(index)
                continue
            if run:
                parts.append(self.vocabulary.decode(run))
                run = []
            if index is not None and not skip_special:
                parts.append(self.names[index])
        return "".join(parts)


def without_punctuation(text: str) -> tuple[str, list[int]]:
    """The text without ASCII punctuation, words one space apart, and where each of its characters stood."""
    kept: list[tuple[str, int]] = []
    for at, letter in enumerate(text):
        if letter.isspace():
            if kept and kept[-1][0] != " ":
                kept.append((" ", at))
        elif letter not in string.punctuation:
            kept.append((letter, at))
    if kept and kept[-1][0] == " ":
        kept.pop()
    return "".join(letter for letter, _ in kept), [at for _, at in kept]


def files(folder: Path | None, name: str) -> Path | None:
    """The tokenizer of an entry: `folder/name/tokenizer.json`, else `folder/tokenizer.json`."""
    places = [] if folder is None else [folder / name / "tokenizer.json"] * bool(name) + [folder / "tokenizer.json"]
    return next((path for path in places if path.is_file()), None)


def token_ids(path: Path, names: Iterable[str]) -> dict[str, int]:
    """The ids that a tokenizer file has for whole tokens."""
    library = FileVocabulary(path, {}).library
    return {name: index for name in names if (index := library.token_to_id(name)) is not None}


def find_tokenizer(
    folder: Path | None, name: str, tokens: Mapping[str, int], size: int | None, lower: bool = False, punctuation: bool = True
) -> tuple[Tokenizer, Diagnostic | None]:
    """The tokenizer of an entry by its file, else bytes with a warning VG0711."""
    path = files(folder, name)
    if path is not None:
        return Tokenizer(FileVocabulary(path, tokens), tokens, size, lower, punctuation), None
    vocabulary = ByteVocabulary(tokens.values(), size)
    how = "bytes" if not vocabulary.shared else f"bytes modulo {len(set(vocabulary.ids))}, since the vocabulary is that small"
    said = f"no tokenizer.json{f' in {folder}' if folder else ''}: text is encoded by a stand-in ({how})"
    note = "A model that was trained with another tokenizer will not understand such ids."
    warning = Diagnostic(problems.STAND_IN, said, notes=(note,), fix="put the model's tokenizer.json into the folder", severity="warning")
    return Tokenizer(vocabulary, tokens, size, lower, punctuation), warning
