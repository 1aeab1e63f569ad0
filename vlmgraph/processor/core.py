"""`Processor`: pictures, videos and texts to the inputs of a model, and its outputs back."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..components.base import load_symbol
from ..diagnostics.core import Diagnostic, DiagnosticError
from ..ir.types import Type
from . import chat, problems
from .boxes import BoxCodec
from .canvas import seen_tiles
from .chat import Message, Written
from .check import Entries, Locate, read_tables
from .config import Chat, Padded, Patches
from .expand import Layout
from .fit import restored
from .frames_config import Frames
from .media import as_fitted, listed, listed_videos
from .problems import problem
from .template import fill
from .text import Slot, TextEncoder
from .tokenizer import find_tokenizer

if TYPE_CHECKING:
    import PIL.Image

    from .jinja import ChatTemplate

Counts = Mapping[str, int] | Callable[[str, Mapping[str, np.ndarray]], "int | Sequence[int]"]
"""Tokens that a node makes of a picture: fixed, or one number for each picture of these inputs, in their order."""


class Processor:
    """The processor of one spec. `notes` are warnings worth showing once (a stand-in tokenizer)."""

    def __init__(self, entries: Entries, encoders: Mapping[str, TextEncoder], counts: Counts, notes: Sequence[Diagnostic]) -> None:
        self.entries, self.encoders, self.counts, self.notes = entries, dict(encoders), counts, tuple(notes)
        self.template: ChatTemplate | None = None
        """What writes conversations in place of the spec's roles; set where the model's folder has a template of its own."""
        self.random = np.random.default_rng(0)
        """Draws what a call that trains leaves open; a run that has several processes gives each its own."""
        self.codecs: dict[str, BoxCodec] = {name: load_symbol(config.codec)(config) for name, config in entries.codecs.items()}

    def __call__(
        self,
        text: str | Sequence[str] | None = None,
        images: Any = None,
        videos: Any = None,
        *,
        messages: Sequence[Message] | Sequence[Sequence[Message]] | None = None,
        train: bool = False,
        **inputs: Any,
    ) -> dict[str, np.ndarray]:
        """The inputs of the model by name, as numpy arrays.

        `text` fills `input_ids` (or the only text entry) and may hold placeholders; `messages` is one conversation or a
        list of them in its place. `images` fills `pixel_values` (or the only picture entry), `videos` the first video
        entry; any other entry is given by its name. Lists of lists say which pictures belong to which text.
        `train` adds labels and does not open an answer. Raises DiagnosticError (VG0702 to VG0713).
        """
        given = dict(inputs)
        as_videos = {name for name, config in self.entries.media.items() if isinstance(config, Frames)}
        for what, value in (("images", images), ("videos", videos)):
            if value is None:
                continue
            name = self._media_entry(what)
            if name in given:
                raise problem(problems.CALL, f"`{name}` is given twice", f"give {what} and the others as one list")
            given[name] = value
            if what == "videos":
                as_videos.add(name)
        if text is not None and messages is not None:
            raise problem(problems.CALL, "both text and messages are given", "give one of them")
        if text is not None or messages is not None:
            main = self._text_entry()
            given[main] = self._conversations(main, messages, train) if messages is not None else text
        known = [*self.entries.media, *self.encoders]
        if unknown := [name for name in given if name not in known]:
            raise problem(problems.CALL, f"there is no input `{unknown[0]}`", f"known: {', '.join(known)}")

        media: dict[str, list[Any]] = {}
        nested: dict[str, list[int]] = {}
        for name in self.entries.media:
            items, groups = (listed_videos if name in as_videos else listed)(given.get(name))
            if items:
                media[name] = items
                if groups is not None:
                    nested[name] = groups
        texts = {name: self._written(given[name]) for name in self.encoders if given.get(name) is not None}
        return self._run(media, nested, texts, train)

    def _run(
        self, media: dict[str, list[Any]], nested: dict[str, list[int]], texts: dict[str, list[Written]], train: bool
    ) -> dict[str, np.ndarray]:
        number = {name: len(items) for name, items in media.items()}
        texts = {name: self.encoders[name].completed(written, number, nested) for name, written in texts.items()}
        pieces = {name: [self.encoders[name].pieces(w) for w in written] for name, written in texts.items()}
        grouped = {name: self.encoders[name].grouping(p, number, nested) for name, p in pieces.items()}
        result: dict[str, np.ndarray] = {}
        parts: dict[str, list[int]] = {}  # how many entries of an input each of its pictures became
        layouts: dict[str, list[Layout]] = {}
        there: dict[str, np.ndarray] = {}  # which tiles of its pictures an input has
        for name, items in media.items():
            groups = next((g[name] for g in grouped.values() if name in g), nested.get(name, [len(items)]))
            config = self.entries.media[name]
            if train and isinstance(config, Patches):
                config = config.drawn(self.random.random())
            made = load_symbol(config.module)(name, config, items, groups)
            if f"{name}.layouts" in made:
                layouts[name] = made.pop(f"{name}.layouts")
                parts[name] = [layout.entries for layout in layouts[name]]
            else:
                parts[name] = [int(n) for n in made.pop(f"{name}.pieces", [1] * len(items))]
            if f"{name}.tiles" in made:
                there[name] = made.pop(f"{name}.tiles")
            result |= made
            for other, own in self.entries.derived.items():
                if own.source == name:
                    result |= load_symbol(own.module)(other, own, as_fitted(items, config), groups)
        for name, written in texts.items():
            encoder = self.encoders[name]
            counts = {s.token: self._count(s, number.get(s.input, 0), result, parts.get(s.input)) for s in encoder.slots}
            rows = encoder.rows(pieces[name], written, grouped[name], counts, self._lines(encoder, result), layouts)
            result[name] = rows["ids"]
            for other, what in encoder.config.also.items():
                if what == "tiles":
                    cut = [slot for slot in encoder.slots if slot.input in there]
                    if cut:
                        result[other] = seen_tiles(rows["ids"], {cut[0].id}, there[cut[0].input])
                elif what != "labels" or train:
                    result[other] = rows[what]
        return result

    def _lines(self, encoder: TextEncoder, inputs: Mapping[str, np.ndarray]) -> dict[str, list[int]]:
        """By placeholder, the rows of patches of each picture, where a token ends them."""
        found = {}
        for slot in encoder.slots:
            if slot.place.row_end is not None:
                config = self.entries.media[slot.input]
                given = {what: inputs[name] for name, what in config.also.items() if name in inputs}
                grid = given.get("grid")
                if isinstance(config, Padded) and "sizes" in given:
                    found[slot.token] = [int(height) // config.patch for height, _ in given["sizes"]]
                elif grid is not None:
                    found[slot.token] = [int(t * h) // getattr(config, "merge", 1) for t, h, _ in grid]
        return found

    def _count(self, slot: Slot, pictures: int, inputs: Mapping[str, np.ndarray], parts: Sequence[int] | None = None) -> list[int]:
        if not pictures:
            return []
        if isinstance(slot.place.node, int):
            return [slot.place.node] * pictures
        if not callable(self.counts):
            if slot.place.node not in self.counts:
                missing = f"it is not known how many tokens `{slot.place.node}` makes of a picture"
                raise problem(problems.CALL, missing, "build the processor with a count for this node")
            return [self.counts[slot.place.node] * n for n in parts or [1] * pictures]
        found = self.counts(slot.place.node, inputs)
        counts = [found * n for n in parts or [1] * pictures] if isinstance(found, int) else [int(n) for n in found]
        if len(counts) != pictures:
            raise ValueError(f"{slot.place.node}: {len(counts)} token counts for {pictures} pictures")
        return counts

    def ask(self, prompt: str, images: Any = None, videos: Any = None, **inputs: Any) -> dict[str, np.ndarray]:
        """The inputs for one question about pictures, in the template of the spec.

        `<image>` and `<video>` in the question, or the model's own placeholders, say where pictures stand; without any they come first.
        """
        items: list[dict[str, str]] = []
        for name, value, lister in (("images", images, listed), ("videos", videos, listed_videos)):
            if value is not None:
                entry = self._media_entry(name)
                both = getattr(self.entries.media[entry], "video", None) is not None
                items += [{"type": name.removesuffix("s") if both else entry}] * len(lister(value)[0])
        main = self._text_entry()
        encoder = self.encoders[main]
        media = self._media_texts(encoder)
        said = self._placed(prompt, encoder, media, [item for item in items if item["type"] in media])
        if isinstance(encoder.config, Chat):
            return self(messages=[{"role": "user", "content": said}], images=images, videos=videos, **inputs)
        return self(fill(encoder.config.template, {"text": chat.content(said, media)}), images, videos, **inputs)

    def _placed(
        self, prompt: str, encoder: TextEncoder, media: Mapping[str, str], items: Sequence[Mapping[str, str]]
    ) -> list[Mapping[str, str]]:
        """The question as items of a message."""
        own = [slot.token for slot in encoder.slots]
        if any(token in prompt for token in own):
            return [{"type": "text", "text": prompt}]
        marks = {f"<{kind}>": kind for kind in ("image", "video") if kind in media}
        parts = re.split(f"({'|'.join(map(re.escape, marks))})", prompt) if marks else [prompt]
        if len(parts) == 1:
            return [*items, {"type": "text", "text": prompt}]
        return [{"type": marks[p]} if p in marks else {"type": "text", "text": p} for p in parts if p]

    def apply_chat(self, messages: Sequence[Message], generate: bool = True) -> str:
        """A conversation as text, placeholders not expanded."""
        return self._conversation(self._text_entry(), messages, generate).text

    def prompt(self, name: str, **values: object) -> str:
        """A prompt of the spec by name, filled."""
        return chat.prompt(self.encoders[self._text_entry()].config, name, values)

    def decode(self, ids: Iterable[int], skip_special: bool = True, entry: str | None = None) -> str:
        """Text of ids; tokens of the spec are left out, or written by name."""
        return self.encoders[entry or self._text_entry()].tokenizer.decode(ids, skip_special)

    @property
    def stop(self) -> list[int]:
        """Ids that end an answer."""
        return list(self.encoders[self._text_entry()].stop)

    def pictures(self, values: Any, output: str | None = None) -> list[PIL.Image.Image]:
        """PIL images of an output `[..., 3, H, W]` that the spec declares with `inverse`."""
        name = output or next(iter(self.entries.outputs), None)
        if name not in self.entries.outputs:
            known = ", ".join(self.entries.outputs) or "none"
            raise problem(problems.CALL, f"there is no picture output `{name}`", f"known: {known}")
        return restored(np.asarray(values), self.entries.outputs[name])

    def _media_entry(self, what: str) -> str:
        wanted = [n for n, c in self.entries.media.items() if isinstance(c, Frames) == (what == "videos")]
        if what == "videos" and not wanted:
            wanted = [
                n for n, c in self.entries.media.items() if getattr(c, "batch", "") == "clips" or getattr(c, "video", None) is not None
            ]
        usual = "pixel_values_videos" if what == "videos" else "pixel_values"
        if usual in wanted or len(wanted) == 1:
            return usual if usual in wanted else wanted[0]
        known = ", ".join(wanted) or ", ".join(self.entries.media) or "none"
        raise problem(problems.CALL, f"this model has no one input for {what}", f"give the input by name; picture inputs: {known}")

    def _text_entry(self) -> str:
        if "input_ids" in self.encoders or len(self.encoders) == 1:
            return "input_ids" if "input_ids" in self.encoders else next(iter(self.encoders))
        known = ", ".join(self.encoders) or "none"
        raise problem(problems.CALL, "this model has no one input for text", f"give the input by name; text inputs: {known}")

    def _media_texts(self, encoder: TextEncoder) -> dict[str, str]:
        """What pictures of a message write: by input name, and as `image` and `video`."""
        result: dict[str, str] = {}
        for slot in encoder.slots:
            kind = slot.place.media or ("video" if isinstance(self.entries.media[slot.input], Frames) else "image")
            inline = slot.token if encoder.config.at == "inline" else ""
            written = encoder.config.media.get(slot.input, encoder.config.media.get(kind, inline))
            result.setdefault(slot.input, written)
            result.setdefault(kind, written)
        return result

    def _conversation(self, entry: str, messages: Sequence[Message], generate: bool) -> Written:
        encoder = self.encoders[entry]
        if not isinstance(encoder.config, Chat):
            raise problem(problems.CALL, f"`{entry}` takes text, not messages", "give text=, or use a prompt of the spec")
        if self.template is not None and generate:  # for training it does not say which stretches are answers
            return Written(self.template(self._plain(messages), generate))
        return chat.conversation(encoder.config, messages, self._media_texts(encoder), generate)

    def _plain(self, messages: Sequence[Message]) -> list[dict[str, Any]]:
        """Messages with pictures as `image` and `video`, whichever input they are for."""
        kinds = {name: "video" if isinstance(config, Frames) else "image" for name, config in self.entries.media.items()}
        said = []
        for message in messages:
            items = message.get("content", "")
            parts = [{"type": "text", "text": items}] if isinstance(items, str) else items
            said.append({**message, "content": [{**part, "type": kinds.get(str(part.get("type")), part.get("type"))} for part in parts]})
        return said

    def _conversations(self, entry: str, messages: Any, train: bool) -> list[Written]:
        several = messages if messages and isinstance(messages[0], (list, tuple)) else [messages]
        return [self._conversation(entry, one, generate=not train) for one in several]

    @staticmethod
    def _written(value: Any) -> list[Written]:
        items = [value] if isinstance(value, (str, Written)) else list(value)
        if wrong := next((item for item in items if not isinstance(item, (str, Written))), None):
            raise problem(problems.CALL, f"a {type(wrong).__name__} is not a text", "give a string, or a list of strings")
        return [item if isinstance(item, Written) else Written(item) for item in items]


def build_processor(
    tables: Mapping[str, Any],
    tokens: Mapping[str, int],
    counts: Counts,
    *,
    inputs: Mapping[str, Type] | None = None,
    outputs: Collection[str] | None = None,
    nodes: Collection[str] | None = None,
    vocab: int | Mapping[str, int] | None = None,
    folder: str | Path | None = None,
    locate: Locate = lambda path: None,
) -> Processor:
    """The processor of `[processor]` and `[tokens]`.

    `inputs` are the typed inputs of the spec, which give pictures their size; names are held against `inputs`, `outputs` and `nodes`
    where these are given. `vocab` is the size of the text embedding, or the
    sizes by entry; `folder` is where tokenizers are looked for.
    Raises DiagnosticError with every fault of the tables.
    """
    entries, faults = read_tables(tables, tokens, inputs, outputs, nodes, locate)
    if faults:
        raise DiagnosticError(*faults)
    notes: dict[str, Diagnostic] = {}
    encoders = {}
    tokens = {**tokens, **{name: id for config in entries.codecs.values() for name, id in config.tokens().items()}}
    for name, config in entries.texts.items():
        size = vocab.get(name) if isinstance(vocab, Mapping) else vocab
        tokenizer, note = find_tokenizer(Path(folder) if folder else None, config.tokenizer, tokens, size, config.lower, config.punctuation)
        if note is not None:
            notes[name] = note
        slots = [Slot(t, tokens[t], place, entries.media_of(config, t) or "") for t, place in config.places().items()]
        encoders[name] = TextEncoder(name, config, slots, tokenizer)
    said = notes.get("input_ids") or next(iter(notes.values()), None)  # once, not for every entry
    return Processor(entries, encoders, counts, [said] if said else [])
