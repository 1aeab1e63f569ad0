"""Types of values: a kind and its symbolic dimensions, `tokens[B, N, 1024]`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from .dims import MAX_TEXT, Dim, DimError, Symbol, parse_dim

KINDS = (
    "image", "video", "audio", "patches", "map", "maps", "ids", "mask", "positions", "tokens", "embedding",
    "grid", "boxes", "points", "regions", "masks", "logits", "scores", "index", "loss", "scalar",
)  # fmt: skip
INTEGER_KINDS = frozenset({"ids", "positions", "grid", "index"})

# A value of the left kind may enter a port of any kind on the right.
COMPATIBLE: Mapping[str, frozenset[str]] = {
    "video": frozenset({"image"}),  # frames fold into the batch
    "index": frozenset({"ids", "positions"}),
    "ids": frozenset({"index"}),
    "scores": frozenset({"logits"}),
    "logits": frozenset({"scores"}),
}


@dataclass(frozen=True)
class Type:
    """`dims` read outermost first. `rest` stands for any leading dims (written `...`).

    `owners` maps a packed dim's name to its owner: `image[N in B, 3, H, W]`.
    `count` > 1 marks a list of such values (`maps[...]*4`).
    """

    kind: str
    dims: tuple[Dim, ...]
    optional: bool = False
    rest: bool = False
    owners: tuple[tuple[str, str], ...] = ()
    list: bool = False
    count: Dim | None = None

    def __str__(self) -> str:
        owners = dict(self.owners)
        shown = [f"{d} in {owners[str(d)]}" if str(d) in owners else str(d) for d in self.dims]
        text = f"{self.kind}[{', '.join((['...'] if self.rest else []) + shown)}]"
        if self.list:
            text += f"*{self.count}" if self.count is not None else "*"
        return text + ("?" if self.optional else "")

    @property
    def optional_(self) -> Type:
        return replace(self, optional=True)

    @property
    def many(self) -> Type:
        """A port that takes an ordered list of values of this type."""
        return replace(self, list=True)

    def with_dims(self, dims: tuple[Dim, ...]) -> Type:
        return replace(self, dims=dims, rest=False)

    def substitute(self, values: Mapping[Symbol, Dim]) -> Type:
        return replace(self, dims=tuple(d.substitute(values) for d in self.dims))

    def rename(self, prefix: str, constants: Mapping[str, int]) -> Type:
        """The type with its symbols made flexible and private to `prefix`, known names replaced by numbers."""

        def value(symbol: Symbol) -> Dim:
            if symbol.name in constants:
                return Dim.of(constants[symbol.name])
            return Dim.of(Symbol(f"{prefix}.{symbol.name}", flexible=True))

        return replace(self, dims=tuple(d.substitute({s: value(s) for s in d.symbols()}) for d in self.dims))


@dataclass(frozen=True)
class Kind:
    """Builds types in component declarations: `tokens["B", "N", "d_in"]`."""

    name: str

    def __getitem__(self, dims: str | int | tuple[str | int, ...]) -> Type:
        listed = dims if isinstance(dims, tuple) else (dims,)
        rest = bool(listed) and listed[0] == "..."
        return Type(self.name, tuple(Dim.of(d) for d in (listed[1:] if rest else listed)), rest=rest)


(image, video, audio, patches, map_, maps, ids, mask, positions, tokens, embedding,
 grid, boxes, points, regions, masks, logits, scores, index, loss, scalar) = (Kind(k) for k in KINDS)  # fmt: skip

_TYPE = re.compile(r"\s*([a-z]+)\s*\[(.*)\]\s*(?:\*\s*([A-Za-z0-9_]*))?\s*(\?)?\s*", re.DOTALL)


def parse_type(text: str, unknowns: bool = False) -> Type:
    """Read the text form of a type. Raises DimError, whose message names the offending part."""
    match = _TYPE.fullmatch(text) if len(text) <= MAX_TEXT else None
    if not match:
        raise DimError(f"{text[:80]!r} is not a type; write kind[dim, ...], for example tokens[B, N, 1024]")
    kind, body, count, optional = match.groups()
    if kind not in KINDS:
        import difflib

        near = difflib.get_close_matches(kind, KINDS, 1)
        raise DimError(f"there is no kind {kind!r}" + (f"; did you mean {near[0]!r}?" if near else f"; kinds: {', '.join(KINDS)}"))
    dims: list[Dim] = []
    owners: list[tuple[str, str]] = []
    parts = _split(body)
    rest = bool(parts) and parts[0] == "..."
    for part in parts[rest:]:
        name, _, owner = part.partition(" in ")
        dim = parse_dim(name, unknowns)
        if owner:
            owners.append((str(dim), owner.strip()))
        dims.append(dim)
    length = parse_dim(count) if count else None
    is_list = re.search(r"\]\s*\*", text) is not None
    return Type(kind, tuple(dims), bool(optional), rest, tuple(owners), is_list, length)


def _split(body: str) -> list[str]:
    parts, depth, current = [], 0, ""
    for char in body:
        depth += (char == "(") - (char == ")")
        if char == "," and depth == 0:
            parts.append(current.strip())
            current = ""
        else:
            current += char
    if current.strip() or parts:
        parts.append(current.strip())
    return parts
