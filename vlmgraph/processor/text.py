"""Texts with placeholders to ids `[B, T]`, mask and labels."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from . import problems
from .chat import Written
from .config import Place, Text
from .expand import Layout
from .problems import problem
from .tags import tagged
from .tokenizer import Piece, Tokenizer

IGNORE = -100


class Held(int):
    """An id that only holds the place of a picture."""


@dataclass(frozen=True)
class Slot:
    """A placeholder of an entry: its token, what it expands to, and the input whose pictures it stands for."""

    token: str
    id: int
    place: Place
    input: str


class TextEncoder:
    """One entry `processor.text` or `processor.chat`, its tokens resolved to ids."""

    def __init__(self, name: str, config: Text, slots: Sequence[Slot], tokenizer: Tokenizer) -> None:
        self.name, self.config, self.slots, self.tokenizer = name, config, tuple(slots), tokenizer
        self.bos, self.eos, self.pad = (self.id(t) for t in (config.bos, config.eos, config.pad))
        self.stop = tuple(dict.fromkeys(i for t in config.stop or (config.eos,) if (i := self.id(t)) is not None))
        self.wrap = None if config.wrap is None else tuple(self.id(t) for t in config.wrap)
        self.silent = [self.id(token) for token in config.silent]
        self.once = {self.id(t) for t in config.once}

        ends = (self.id(end) for slot in self.slots for end in (slot.place.row_end, slot.place.end))
        self._within([*{self.bos, self.eos, self.pad, *(self.wrap or ()), *(slot.id for slot in self.slots), *ends}])

    def _within(self, ids: Sequence[int | None]) -> None:
        """Raises VG0715 for an id that the entry would write and the model has no embedding for."""
        size = self.tokenizer.size or 1 << 31
        wrong = next((i for i in ids if i is not None and not 0 <= i < size), None)
        if wrong is not None:
            named = next((f"`{t}` is" for t, i in self.tokenizer.tokens.items() if i == wrong), "it writes the id")
            fix = "give the token an id below that in [tokens]"
            raise problem(problems.TOKEN, f"processor.{self.name}: {named} {wrong}, the model's vocabulary ends at {size - 1}", fix)

    @property
    def first(self) -> list[Slot]:
        """Of the placeholders of each input the first."""
        return list({slot.input: slot for slot in reversed(self.slots)}.values())[::-1]

    def ids_of(self, input: str) -> set[int]:
        """What `pieces` gives for the placeholders of an input."""
        return {-1 - k for k, slot in enumerate(self.slots) if slot.input == input}

    def id(self, token: int | str | None) -> int | None:
        return self.tokenizer.tokens[token] if isinstance(token, str) else token

    def pieces(self, written: Written) -> list[Piece]:
        """The text in pieces; the k-th placeholder of the entry has the id -1 - k, since two of them may share one id."""
        found = []
        for piece in self._encoded(written.text):
            named = written.text[piece.start : piece.end].strip()
            of_id = [k for k, slot in enumerate(self.slots) if slot.id == piece.id]
            k = next((k for k in of_id if self.slots[k].token == named), of_id[0] if of_id else None)
            found.append(piece if k is None else piece._replace(id=-1 - k))
        return found

    def _encoded(self, text: str) -> list[Piece]:
        """The pieces of a text, at their places in it."""
        if not (self.config.gap and self.slots):
            return self.tokenizer.encode(text)
        ends = [m.end() for m in re.finditer("(?:" + "|".join(re.escape(slot.token) for slot in self.slots) + r")(?=[^\s<])", text)]
        parts = [text[a:b] for a, b in zip([0, *ends], [*ends, len(text)])]
        spaces = [end + k for k, end in enumerate(ends)]
        found = self.tokenizer.encode(" ".join(parts))
        return [p._replace(start=p.start - bisect_left(spaces, p.start), end=p.end - bisect_left(spaces, p.end)) for p in found]

    def completed(self, written: Sequence[Written], media: Mapping[str, int], nested: Mapping[str, list[int]]) -> list[Written]:
        """The texts with placeholders for all of their pictures, tagged, where their places say so. Raises VG0708."""
        made = list(written)
        for slot in self.slots:
            given, place = media.get(slot.input, 0), slot.place
            if not given or (place.tag is None and place.complete is None):
                continue
            counts = [said.text.count(slot.token) for said in made]
            if place.complete is not None and sum(counts) != given:
                counts = self._spread(slot, given, len(made), nested.get(slot.input))
            elif len(nested.get(slot.input, ())) == len(made):
                counts = nested[slot.input]
            made = [tagged(said, slot.token, place, n) for said, n in zip(made, counts)]
        return made

    def grouping(self, texts: Sequence[list[Piece]], media: Mapping[str, int], nested: Mapping[str, list[int]]) -> dict[str, list[int]]:
        """How many pictures of each input belong to each text. Raises VG0708 where texts and pictures do not fit."""
        result: dict[str, list[int]] = {}
        for slot in self.first:
            given, own = media.get(slot.input, 0), self.ids_of(slot.input)
            found = [sum(p.id in own for p in pieces) for pieces in texts]
            if not any(found) and given and self.config.at != "inline":
                found = self._spread(slot, given, len(texts), nested.get(slot.input))
            by_text = nested.get(slot.input)
            if sum(found) != given or (by_text is not None and by_text != found):
                raise self._mismatch(slot, found, by_text if by_text is not None and sum(found) == given else given)
            result[slot.input] = found
        return result

    def _spread(self, slot: Slot, given: int, texts: int, nested: list[int] | None) -> list[int]:
        """Pictures without a placeholder: as nested, all to the only text, or one each."""
        if nested is not None and len(nested) == texts:
            return nested
        if texts == 1:
            return [given]
        if texts == given:
            return [1] * texts
        raise problem(
            problems.COUNT,
            f"{given} pictures for {texts} texts: which belongs to which?",
            f"give `{slot.input}` as one list of pictures for each text",
        )

    def _mismatch(self, slot: Slot, found: list[int], given: int | list[int]) -> Exception:
        by_text = found if len(found) > 1 else found[0]
        token = " or ".join(other.token for other in self.slots if other.input == slot.input)
        fix = f"write {token} once for each picture, in their order"
        if self.config.at != "inline":
            fix += ", or leave it out altogether"
        return problem(problems.COUNT, f"`{self.name}` has {by_text} {token} for {given} pictures in `{slot.input}`", fix)

    def rows(
        self,
        texts: Sequence[list[Piece]],
        written: Sequence[Written],
        groups: Mapping[str, list[int]],
        counts: Mapping[str, list[int]],
        lines: Mapping[str, list[int]] | None = None,
        layouts: Mapping[str, list[Layout]] | None = None,
    ) -> dict[str, np.ndarray]:
        """`ids [B, T]`, `mask [B, T]` (True = real), `labels [B, T]` (-100 = ignored) and `media [B, T, M]`.

        `counts`: tokens of each picture by placeholder; `lines`: its rows, where a token ends them; `layouts`: by input, how each was cut.
        """
        rows = []
        at = {slot.input: 0 for slot in self.slots}  # pictures of an input come in the order of all that stand for them
        for index, (pieces, said) in enumerate(zip(texts, written)):
            ahead: list[tuple[int, bool]] = []
            for slot in self.first:
                pictures, own = groups[slot.input][index], self.ids_of(slot.input)
                if pictures and not any(p.id in own for p in pieces):
                    for j in range(at[slot.input], at[slot.input] + pictures):
                        ahead += self._expanded(self._cells(slot, j, counts, lines, layouts), None, None)
                    at[slot.input] += pictures
            body: list[tuple[int, bool]] = []
            for k, piece in enumerate(pieces):
                if piece.id >= 0:
                    body.append((piece.id, self._trains(piece, said)))
                    continue
                found = self.slots[-1 - piece.id]
                cells = self._cells(found, at[found.input], counts, lines, layouts)
                at[found.input] += 1
                before = pieces[k - 1].id if k else None
                after = pieces[k + 1].id if k + 1 < len(pieces) else None
                body += self._expanded(cells, before, after)
            body = [cell for k, cell in enumerate(body) if not (k and cell[0] in self.once and body[k - 1][0] == cell[0])]
            rows.append(self._row(ahead, body, said))
        result = self._padded(rows)
        if "media" in self.config.also.values():
            result["media"] = self._media(result["ids"], max((max(g, default=0) for g in groups.values()), default=0))
        return result

    def _media(self, ids: np.ndarray, most: int) -> np.ndarray:
        """Whether a token may attend to picture m of its text: `[B, T, M]`, M at least 1."""
        seen = np.isin(ids, [slot.id for slot in self.slots])
        number = seen.cumsum(axis=1)
        ended = np.zeros_like(seen)
        for t in range(1, ids.shape[1]):  # behind an end token there is no picture until the next one
            ended[:, t] = (ended[:, t - 1] | np.isin(ids[:, t - 1], self.stop)) & ~seen[:, t]
        number[ended] = 0
        return number[..., None] == np.arange(1, max(most, 1) + 1)

    def _cells(
        self,
        slot: Slot,
        picture: int,
        counts: Mapping[str, list[int]],
        lines: Mapping[str, list[int]] | None,
        layouts: Mapping[str, list[Layout]] | None,
    ) -> list[int]:
        """The ids of one picture: as many placeholders as it has tokens, with ends of rows or part by part where the place says so."""
        n, end = counts[slot.token][picture], self.id(slot.place.row_end)
        layout = layouts[slot.input][picture] if layouts and slot.input in layouts else None
        if layout is not None and slot.place.media is not None and layout.video != (slot.place.media == "video"):
            said = f"{slot.token} stands for {'a video' if slot.place.media == 'video' else 'a picture'}"
            fix = "write placeholders and pictures in one order, each of its kind"
            raise problem(problems.COUNT, f"`{self.name}`: {said}, but entry {picture} of `{slot.input}` is none", fix)
        if layout is not None and layout.counts:
            n = sum(layout.counts)
        if slot.place.expand is not None and layout is not None:
            text = slot.place.expand.written(layout.counted(slot.token), slot.token * (n // layout.entries))
            return [piece.id for piece in self.tokenizer.encode(text)]
        start = self.id(slot.place.fill)
        if start is not None:
            return [Held(start + k) for k in range(n)]
        if end is None or not lines or slot.token not in lines:
            return [slot.id] * n
        rows, last = lines[slot.token][picture], self.id(slot.place.end)
        cells = ([slot.id] * (n // rows) + [end]) * rows
        return cells if last is None else [*cells[:-1], last]

    def _expanded(self, cells: list[int], before: int | None, after: int | None) -> list[tuple[int, bool]]:
        inner = [(i, False) for i in cells]
        if self.wrap is None or (before, after) == self.wrap:
            return inner
        learned = bool(self.silent)
        return [(self.wrap[0], learned), *inner, (self.wrap[1], learned)]  # type: ignore[list-item]

    def _trains(self, piece: Piece, said: Written) -> bool:
        if self.config.train_on == "text":
            return True
        return any(piece.start < end and piece.end > start for start, end in said.answers)

    def _row(self, ahead: list[tuple[int, bool]], body: list[tuple[int, bool]], said: Written) -> list[tuple[int, bool]]:
        """Start token, pictures without a placeholder, text, end token."""
        if self.bos is not None and body and body[0][0] == self.bos:
            body = body[1:]
        bos = [] if self.bos is None else [(self.bos, False)]
        eos = []
        if self.eos is not None and not (body and body[-1][0] == self.eos):
            ends_said = bool(said.answers) and said.answers[-1][1] == len(said.text.rstrip())
            if self.config.train_on == "text" or ends_said:
                eos = [(self.eos, True)]
        room = None if self.config.max_length is None else self.config.max_length - len(bos) - len(eos) - len(ahead)
        if room is not None and len(body) > room:
            body = self._cut(body, len(bos) + len(eos) + len(ahead), room)
        return [*ahead, *bos, *body, *eos] if self.config.at == "start" else [*bos, *ahead, *body, *eos]

    def _cut(self, body: list[tuple[int, bool]], around: int, room: int) -> list[tuple[int, bool]]:
        kept = [] if room <= 0 else body[:room] if self.config.truncate == "right" else body[-room:]
        cut = sum(self._pictures(body)) - sum(self._pictures(kept))
        if self.config.truncate == "error" or cut or room <= 0:
            raise problem(
                problems.TOO_LONG,
                f"`{self.name}` has {around + len(body)} tokens, {sum(self._pictures(body))} of them for pictures; "
                f"max_length is {self.config.max_length}",
                "shorten the text, give fewer or smaller pictures, or raise max_length",
            )
        return kept

    def _padded(self, rows: list[list[tuple[int, bool]]]) -> dict[str, np.ndarray]:
        longest = max((len(row) for row in rows), default=0)
        width = self.config.max_length if self.config.padding == "max" and self.config.max_length else longest
        ids = np.full((len(rows), width), self.pad, dtype=np.int64)
        mask = np.zeros((len(rows), width), dtype=bool)
        labels = np.full((len(rows), width), IGNORE, dtype=np.int64)
        places = np.zeros((len(rows), width), dtype=bool)
        for b, row in enumerate(rows):
            if not row:
                continue
            where = slice(width - len(row), width) if self.config.pad_side == "left" else slice(0, len(row))
            values, trains = (np.array(column) for column in zip(*row))
            ids[b, where], mask[b, where], places[b, where] = values, True, self._pictures(row)
            labels[b, where] = np.where(trains, values, IGNORE)
        if self.silent:
            quiet = np.isin(ids, self.silent) | places
            labels[:, 1:][quiet[:, :-1]] = IGNORE
        return {"ids": ids, "mask": mask, "labels": labels, "types": (labels != IGNORE).astype(np.int64), "places": places}

    def _pictures(self, row: Sequence[tuple[int, bool]]) -> list[bool]:
        """Which ids of a row stand in the places of pictures."""
        slots = {slot.id for slot in self.slots if slot.place.fill is None}
        return [isinstance(i, Held) or i in slots for i, _ in row]
