"""`[processor.INPUT]` tables to configs; every fault of the tables at once."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from ..components.base import Config
from ..diagnostics.core import Collector, Diagnostic, Label, Span
from ..ir.types import Type
from ..plugins import PluginError, registry
from . import problems
from .aspect_config import Aspect
from .canvas_config import Canvas
from .config import AnyResolution, Boxes, Image, Native, Packed, Padded, Pixels, Place, Text, Tiles
from .crops_config import Crops
from .frames_config import Frames
from .kinds import KINDS
from .split_config import Split

if TYPE_CHECKING:
    from ..ir.graph import Graph
    from ..spec import Spec

Locate = Callable[[tuple[str, ...]], "Span | None"]
"""The place of a key below `[processor]` in the spec."""


@dataclass(frozen=True)
class Entries:
    """The valid entries of a spec by role."""

    media: dict[str, Pixels]
    texts: dict[str, Text]
    outputs: dict[str, Image]
    codecs: dict[str, Boxes]
    derived: dict[str, Image]
    """Entries whose pictures are those of another one."""

    def media_of(self, text: Text, token: str) -> str | None:
        """The input whose pictures a placeholder stands for, or None where that is not clear."""
        named = text.places()[token].of
        if named is not None:
            return named if named in self.media else None
        return next(iter(self.media)) if len(self.media) == 1 else None


def read_tables(
    tables: Mapping[str, Any],
    tokens: Mapping[str, int],
    inputs: Mapping[str, Type] | None = None,
    outputs: Collection[str] | None = None,
    nodes: Collection[str] | None = None,
    locate: Locate = lambda path: None,
) -> tuple[Entries, tuple[Diagnostic, ...]]:
    """The entries and all that is wrong with them. Names are checked only against the collections that are given.

    With `inputs` the size of pictures may be left out, and one that differs is a fault.
    """
    found = Collector()
    entries = Entries({}, {}, {}, {}, {})
    broken = False

    def fault(path: tuple[str, ...], message: str, fix: str, code: str = problems.CONFIG) -> None:
        span = locate(path)
        found.add(Diagnostic(code, f"processor.{'.'.join(path)}: {message}", Label(span) if span else None, fix=fix))

    for name, table in tables.items():
        config = _config(name, table, fault)
        broken |= config is None
        if isinstance(config, Image) and config.inverse:
            entries.outputs[name] = config
            _known(name, (name,), "output", outputs, fault)
            continue
        if isinstance(config, Boxes):
            entries.codecs[name] = config
            continue
        if isinstance(config, Image) and config.source is not None:
            entries.derived[name] = _sized(name, config, (inputs or {}).get(name), fault)  # type: ignore[assignment]
        elif isinstance(config, Pixels):
            entries.media[name] = _sized(name, config, (inputs or {}).get(name), fault)
        elif isinstance(config, Text):
            entries.texts[name] = config
        if config is not None:
            _known(name, (name,), "input", inputs, fault)
            for other in getattr(config, "also", {}):
                _known(other, (name, "also", other), "input", inputs, fault)
    for name, image in entries.derived.items():
        root = entries.media.get(image.source or "")
        if not broken and (not isinstance(root, Image) or root.batch != image.batch):
            known = ", ".join(n for n, c in entries.media.items() if isinstance(c, Image) and c.batch == image.batch) or "none"
            said = f"`{image.source}` is no entry of pictures of one size in this batch form that stands by itself"
            fault((name, "source"), said, f"entries that are: {known}")
    for name, text in entries.texts.items():
        _tokens(name, text, tokens, fault)
        for other, what in text.also.items():
            owners = {entries.media_of(text, token) for token in text.place}
            if what == "tiles" and not broken and not any(isinstance(entries.media.get(o or ""), Canvas) for o in owners):
                fault((name, "also", other), "no placeholder stands for pictures in tiles", "take processor.canvas for one of them")
        for token, place in text.places().items():
            if entries.media_of(text, token) is None and not broken:  # else it follows from another fault
                choice = ", ".join(entries.media) or "none"
                fix = f'place."{token}" = {{ node = "{place.node}", of = "INPUT" }} with one of: {choice}'
                fault((name, "place", token), "it is not clear whose pictures this stands for", fix)
            own = entries.media_of(text, token)
            if place.row_end is not None and own is not None and not _rows(entries.media[own]):
                fault((name, "place", token), f"`{own}` gives no grid whose rows could end", f'also = {{ INPUT = "grid" }} of {own}')
            if place.expand is not None and own is not None and not _ends_whole(place, entries.media[own]):
                fix = "take processor.split, and write the whole picture in `end`: it is the last entry"
                fault((name, "place", token, "expand"), f"`{own}` is not cut into what this writes", fix)
            if isinstance(place.node, str):
                _known(place.node, (name, "place", token), "node", nodes, fault)
    return entries, tuple(found.found)


def _rows(config: Pixels) -> bool:
    """Whether the entry says how many rows of patches a picture has."""
    return ("sizes" if isinstance(config, Padded) else "grid") in config.also.values()


def _ends_whole(place: Place, config: Pixels) -> bool:
    """Whether the entry's pictures are cut, and what is written of one ends with the whole picture; videos are cut into their steps."""
    if isinstance(config, Frames):
        return True
    if place.media == "video" and isinstance(config, Split):
        return config.video is not None
    return isinstance(config, (Split, Aspect)) and place.expand is not None and "{tokens}" in place.expand.end


def spec_faults(spec: Spec, graph: Graph, whole: bool = True) -> list[Diagnostic]:
    """What is wrong with a spec's tables, at their places. Names of nodes are checked where the graph is `whole`.

    A token without an id is a warning: the tokenizer beside the weights may know it.
    """
    tables = spec.data.get("processor") or {}

    def locate(path: tuple[str, ...]) -> Span | None:
        label = spec.label(("processor", *path))
        return label.span if label else None

    nodes = graph.types() if whole else None
    _, faults = read_tables(tables, graph.tokens, graph.inputs, graph.outputs, nodes, locate)
    return [replace(d, severity="warning") if d.code == problems.TOKEN else d for d in faults]


Fault = Callable[..., None]


def _config(name: str, table: Any, fault: Fault) -> Config | None:
    if not isinstance(table, Mapping) or not isinstance(table.get("type"), str):
        fault((name,), "an entry is a table with a `type`", f'write [processor.{name}] with type = "processor.image" or another')
        return None
    kind = table["type"]
    cls = _kind(kind, (name, "type"), fault)
    if cls is None:
        return None
    try:
        return cls(**{key: value for key, value in table.items() if key != "type"})
    except ValidationError as error:
        for detail in error.errors(include_url=False, include_input=False, include_context=False):
            where = tuple(str(part) for part in detail["loc"] if str(part) in table or len(detail["loc"]) == 1)
            near = get_close_matches(where[0], cls.model_fields, 1) if where else []
            if detail["type"] == "extra_forbidden" and where:
                known = ", ".join(cls.model_fields)
                fault((name, *where), f"{kind} has no field `{where[0]}`", f"did you mean `{near[0]}`?" if near else f"known: {known}")
            else:
                fault((name, *where), detail["msg"].removeprefix("Value error, "), f"see the fields of {kind}")
        return None


def _kind(kind: str, path: tuple[str, ...], fault: Fault) -> type[Config] | None:
    if kind in KINDS:
        return KINDS[kind]
    try:
        cls = registry().load(kind)
    except PluginError as error:
        near = get_close_matches(kind, KINDS, 1)
        fix = f"did you mean `{near[0]}`?" if near else f"built in: {', '.join(KINDS)}"
        fault(path, f"`{kind}` cannot be used: {error.reason} {error.detail}".strip(), fix)
        return None
    if not isinstance(cls, type) or not issubclass(cls, (Pixels, Text, Boxes)):
        fault(path, f"`{kind}` is not a processor", f"built in: {', '.join(KINDS)}")
        return None
    return cls


def _sized(name: str, config: Pixels, type_: Type | None, fault: Fault) -> Pixels:
    """The entry with the size of its input. Pictures cut into patches have no size, but a patch of so many values."""
    if isinstance(config, Packed):
        wide = type_.dims[-1].constant if type_ and type_.dims else None
        if wide is not None and wide != config.width:
            native = isinstance(config, Native)
            made = f"3 * {f'{config.temporal} * ' if native else ''}{config.patch}^2 = {config.width}"
            fix = f"change patch{' or temporal' if native else ''}, or the input"
            fault((name,), f"makes patches of {made} values, the input is {type_}", fix, problems.SIZE)
        return config
    if not isinstance(config, (Image, Tiles, Split, Crops, Canvas, AnyResolution)):
        return config
    if isinstance(config, Canvas):
        config = _tiled(name, config, type_, fault)
    tall, wide = (d.constant for d in type_.dims[-2:]) if type_ and len(type_.dims) > 2 else (None, None)
    if config.size is None:
        if tall is None or wide is None:
            fault((name,), "the input does not say how large its pictures are", f"write processor.{name}.size = 224", problems.SIZE)
            return config
        if tall != wide and isinstance(config, Image) and config.fit in ("pad", "longest"):
            fault((name, "fit"), f"`{config.fit}` makes a square, the input is {type_}", 'fit = "squash" or "crop"', problems.SIZE)
        if tall != wide and isinstance(config, (Split, Crops)):
            fault((name,), f"makes square tiles, the input is {type_}", f"inputs.{name} with one length for both sides", problems.SIZE)
        return config.model_copy(update={"size": tall if isinstance(config, (Split, Crops)) else (tall, wide)})
    if tall is not None and wide is not None and config.hw() != (tall, wide):
        height, width = config.hw()
        fix = f"leave the size out: it follows the input; or change inputs.{name}"
        fault((name, "size"), f"makes pictures of {height} x {width}, the input is {type_}", fix, problems.SIZE)
    return config


def _tiled(name: str, config: Canvas, type_: Type | None, fault: Fault) -> Canvas:
    """The entry with the number of tiles of its input."""
    room = type_.dims[-4].constant if type_ is not None and len(type_.dims) > 4 else None
    if config.max is None and room is None:
        fault((name,), "the input does not say how many tiles a picture has", f"write processor.{name}.max = 4", problems.SIZE)
    elif config.max is not None and room is not None and config.max != room:
        fix = f"leave it out: it follows the input; or change inputs.{name}"
        fault((name, "max"), f"makes {config.max} tiles of a picture, the input is {type_}", fix, problems.SIZE)
    return config.model_copy(update={"max": config.max or room or 1})


def _known(name: str, path: tuple[str, ...], what: str, among: Collection[str] | None, fault: Fault) -> None:
    if among is None or name in among:
        return
    near = get_close_matches(name, among, 1)
    fix = f"did you mean `{near[0]}`?" if near else f"known: {', '.join(sorted(among)) or 'none'}"
    fault(path, f"there is no {what} `{name}`", fix, problems.NAME)


def _tokens(name: str, text: Text, tokens: Mapping[str, int], fault: Fault) -> None:
    used: dict[tuple[str, ...], str] = {("place", t): t for t in text.place}
    used |= {("place", t, "row_end"): p.row_end for t, p in text.places().items() if isinstance(p.row_end, str)}
    used |= {("place", t, "end"): p.end for t, p in text.places().items() if isinstance(p.end, str)}
    used |= {("place", t, "fill"): p.fill for t, p in text.places().items() if isinstance(p.fill, str)}
    used |= {(key,): value for key in ("bos", "eos", "pad") if isinstance(value := getattr(text, key), str)}
    for key in ("wrap", "stop", "once", "silent"):
        used |= {(key, str(i)): t for i, t in enumerate(getattr(text, key) or ()) if isinstance(t, str)}
    for path, token in used.items():
        if token not in tokens:
            near = get_close_matches(token, tokens, 1)
            fix = f"did you mean `{near[0]}`?" if near else f'write "{token}" = ID in [tokens]'
            fault((name, *path), f"the token `{token}` has no id", fix, problems.TOKEN)
