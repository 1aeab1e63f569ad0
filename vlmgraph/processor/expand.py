"""What a placeholder becomes in the text where a picture is written part by part: tiles with their row and column."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from pydantic import BaseModel, ConfigDict, model_validator

from .template import fields, fill

Values = Mapping[str, object]


class Expand(BaseModel):
    """Templates, put together as `start`, then each row of `part`s with `join` between them and `row_end`, then `end`.

    `{tokens}` are the placeholders of one entry of the input; a part also has `{row}`, `{column}` and `{index}`, counted from 1.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)
    part: str
    join: str = ""
    """Between the parts of a row."""
    start: str = ""
    row_end: str = ""
    end: str = ""
    single: str | None = None
    """Instead of all of it, for a picture that was not cut."""

    @model_validator(mode="after")
    def _tokens(self) -> Expand:
        found = [name for name, _ in fields(self.part)]
        if found.count("tokens") != 1:
            raise ValueError("part must hold {tokens} once")
        if self.single is not None and [n for n, _ in fields(self.single)] != ["tokens"]:
            raise ValueError("single must hold {tokens} once and nothing else")
        if any(name != "tokens" for name, _ in fields(self.row_end + self.end)):
            raise ValueError("row_end and end know no field but {tokens}")
        return self

    def written(self, layout: Layout, tokens: str) -> str:
        """The text of one picture or video, `tokens` being the placeholders of each of its entries."""
        if not layout.rows:
            return fill(self.single if self.single is not None else self.end, {"tokens": tokens})
        text, index = fill(self.start, layout.values), 0
        for row, parts in enumerate(layout.rows, 1):
            for column, values in enumerate(parts, 1):
                index += 1
                text += fill(self.join, {}) if column > 1 else ""
                text += fill(self.part, {"row": row, "column": column, "index": index, "tokens": tokens, **values})
            text += fill(self.row_end, {"tokens": tokens})
        return text + fill(self.end, {"tokens": tokens})


@dataclass(frozen=True)
class Layout:
    """How a picture was cut: what is to be said of each part, row by row, and of all of it. Without rows it was not cut."""

    rows: tuple[tuple[Values, ...], ...] = ()
    values: Values = field(default_factory=dict)
    whole: bool = True
    """An entry for the whole picture behind its parts."""
    counts: tuple[int, ...] = ()
    """Tokens of each part that are there, where some of them are left out."""
    video: bool = False
    """A video in an input that takes pictures too."""

    @classmethod
    def grid(cls, rows: int, columns: int) -> Layout:
        return cls(tuple(tuple({} for _ in range(columns)) for _ in range(rows)))

    def counted(self, token: str) -> Layout:
        """With the placeholders of each part, where `counts` says how many."""
        number = iter(self.counts)
        rows = tuple(tuple({"tokens": token * next(number), **said} for said in parts) for parts in self.rows) if self.counts else self.rows
        return replace(self, rows=rows)

    @property
    def entries(self) -> int:
        """How many entries of the input the picture became."""
        return sum(map(len, self.rows)) + int(self.whole)
