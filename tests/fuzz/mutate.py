"""Ways to break a spec: of its text, and of the values in it. All choices come from one source of randomness."""

from __future__ import annotations

import copy
import json
import math
import random
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

HERE = Path(__file__).parent
BASES = {
    path.stem: path.read_text(encoding="utf-8")
    for folder in (HERE / "bases", HERE.parents[1] / "specs")
    for path in sorted(folder.glob("*.toml"))
}

ODD = [
    "\x00",
    "\x1b[2J",
    "\u202e",
    "\ufeff",
    "é",
    "東",
    "\U0001f600",
    "\t",
    "\r",
    "\\",
    '"',
    "'",
    '"""',
    "[",
    "]",
    "{",
    "}",
    "=",
    "#",
    ",",
    ".",
    "$",
]
STRINGS = [
    "",
    " ",
    "x",
    "llm",
    "all",
    "none",
    "../../etc/passwd",
    "/dev/zero",
    "a" * 5000,
    "\x1b]0;t\x07",
    "\u202etxt",
    "__import__('os')",
    "{{ 7*7 }}",
    "$width",
    "%s%n",
    "class",
    "None",
    "nan",
    "-1",
    "vision -> llm",
    "vision.hidden[99] -> llm",
    "[a, b] -> c",
    "->",
    "a ->",
    "-> a",
    "a -> a",
    "loop",
    "tokens[B, N, d]",
    "image[B, 3, 0, 0]",
    "image[B, 3, H/0, W]",
    "tokens[B, " + "(" * 300 + "N" + ")" * 300 + ", 4]",
    "tokens[9**9]",
    "x[B]",
    "tokens[B, " + "*".join(["(a+b+c)"] * 40) + ", d]",
    "ids[]",
    "ids[B, T]*3",
    "image[N in B, 3, H, W]?",
    "tokens[..., d]",
    "ids[B, T]",
    "1" * 400,
    "decoder.transformer",
    "attention.mha",
    "op.splice",
    "vision.vit",
    "loss.next_token",
    "text.embedding",
    "blocks.inner",
    "vicuna-7b-v1.5",
    "nope",
    "linear*9999",
    "q.k.v",
    "a.b.c.d",
    "op.normalize",
    "op.pool(mode='mean')",
    "input_ids",
    "labels",
    "logits",
    "objective.lm",
    "llm.layers",
]
NUMBERS: list[Any] = [
    0,
    1,
    -1,
    2,
    3,
    7,
    13,
    40,
    10**6,
    10**9,
    2**31,
    2**63 - 1,
    -(2**63),
    2**63,
    10**30,
    10**4000,
    0.0,
    -0.0,
    0.5,
    -1.5,
    1e308,
    1e-308,
    math.nan,
    math.inf,
    -math.inf,
]
SCALARS = [*NUMBERS, *STRINGS, True, False]
_SECTIONS = """
    inputs outputs tokens components nodes blocks graph programs objectives stages processor inference recipe weights expect
    sizes variants model extends vlmgraph edges ties nothing
"""
SECTIONS = _SECTIONS.split()
_FIELDS = """
    type preset of like copy update uses layers width heads kv_heads mlp hidden depth vocab patch image_size attention norm
    position order cross insert pattern kinds norms max_positions out act bias token tokens mask modality edges ties outputs
    inputs cache carry from without train freeze after objectives set init optimizer data remove repeat fields params
    visual_tokens when weight extends components nodes graph
"""
FIELDS = _FIELDS.split()


def deep(levels: int, table: bool) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = {"a": value} if table else [value]
    return value


def value(rng: random.Random) -> Any:
    """Any value that TOML can hold, mostly unwelcome."""
    kind = rng.randrange(12)
    if kind < 7:
        return copy.deepcopy(rng.choice(SCALARS))
    if kind == 7:
        return [value(rng) for _ in range(rng.randrange(4))]
    if kind == 8:
        return {rng.choice(FIELDS): value(rng) for _ in range(rng.randrange(4))}
    if kind == 9:
        return deep(rng.choice([3, 90, 150]), rng.random() < 0.5)
    if kind == 10:
        return rng.choice([[], {}, [[]], [{}], {"remove": True}, {"type": 3}, {"type": "norm.rms"}, list(range(1000))])
    return {"type": rng.choice(STRINGS), rng.choice(FIELDS): rng.choice(NUMBERS)}


# ---- values


def places(data: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    items = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, child in items:
        yield (*path, key)
        yield from places(child, (*path, key))


def at(data: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        data = data[key]
    return data


def mutate_values(data: dict[str, Any], rng: random.Random) -> None:
    """One change, in place."""
    found = list(places(data))
    if not found:
        data[rng.choice(SECTIONS)] = value(rng)
        return
    path = rng.choice(found)
    holder, key = at(data, path[:-1]), path[-1]
    kind = rng.randrange(14)
    if kind < 4:
        holder[key] = value(rng)
    elif kind == 4:
        del holder[key]
    elif kind == 5:
        other = rng.choice(found)
        holder[key] = copy.deepcopy(at(data, other))
    elif kind == 6 and isinstance(holder, dict):
        holder[rng.choice([*FIELDS, *STRINGS, *holder, *names_of(data, "components")])] = holder.pop(key)
    elif kind == 7 and isinstance(holder, dict):
        holder[rng.choice(FIELDS)] = value(rng)
    elif kind == 8:
        data[rng.choice(SECTIONS)] = value(rng)
    elif kind == 9:
        texts = [p for p in found if isinstance(at(data, p), str)]
        if len(texts) > 1:
            one, two = rng.choice(texts), rng.choice(texts)
            a, b = at(data, one), at(data, two)
            at(data, one[:-1])[one[-1]], at(data, two[:-1])[two[-1]] = b, a
    elif kind == 10:
        texts = [p for p in found if isinstance(at(data, p), str)]
        if texts:
            one = rng.choice(texts)
            at(data, one[:-1])[one[-1]] = mutate_words(at(data, one), rng)
    elif kind == 11:
        numbers = [p for p in found if isinstance(at(data, p), (int, float))]
        if numbers:
            one = rng.choice(numbers)
            at(data, one[:-1])[one[-1]] = rng.choice([*NUMBERS, at(data, one) * 2, at(data, one) + 1, -at(data, one)])
    elif kind == 12:
        edges = data.get("graph", {}).get("edges") if isinstance(data.get("graph"), dict) else None
        if isinstance(edges, list):
            edges.append(edge(data, rng))
    elif isinstance(data.get("components"), dict):
        data["components"][rng.choice(["extra", "llm", "vision", "a"])] = {"type": rng.choice(STRINGS[40:]), rng.choice(FIELDS): value(rng)}


def names_of(data: dict[str, Any], section: str) -> list[str]:
    table = data.get(section)
    return list(table) if isinstance(table, dict) else []


def edge(data: dict[str, Any], rng: random.Random) -> str:
    """An edge between names that are mostly there."""
    names: list[str] = []
    for section in ("components", "nodes", "inputs", "outputs"):
        names += names_of(data, section)
    tails = ["", "", "", ".x", ".out", ".mask", "[0]", "[1:]", "[-2:3]", ".hidden[-1]", ".ids", ".vision"]
    ends = [rng.choice(names or ["a"]) + rng.choice(tails) for _ in range(rng.randrange(1, 5))]
    if rng.random() < 0.2:
        ends[0] = f"[{ends[0]}, {ends[-1]}]"
    if rng.random() < 0.2:
        ends.insert(1, rng.choice(["op.normalize", "op.pool('mean')", "op.transpose", "op.pixel_shuffle(2)", "op.rearrange(-1)"]))
    return " -> ".join(ends)


def mutate_words(text: str, rng: random.Random) -> str:
    """One word, number or sign of a text changed."""
    words = re.findall(r"\w+|\W", text)
    if not words:
        return rng.choice(STRINGS)
    i, kind = rng.randrange(len(words)), rng.randrange(5)
    if kind == 0:
        del words[i]
    elif kind == 1:
        words.insert(i, words[rng.randrange(len(words))])
    elif kind == 2:
        words[i] = rng.choice(["0", "-1", "99999999999999999999", "7", "->", "[", "]", ".", "*", "/", "(", "?", "x", ",", ":", "hidden"])
    elif kind == 3:
        words[i] = words[i][::-1]
    else:
        j = rng.randrange(len(words))
        words[i], words[j] = words[j], words[i]
    return "".join(words)


def written(value: Any) -> str:
    """A value as TOML on one line."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=True).replace("\x7f", "\\u007f")
    if isinstance(value, float):
        return "nan" if math.isnan(value) else ("inf" if value > 0 else "-inf") if math.isinf(value) else repr(value)
    if isinstance(value, int):
        return digits(value)
    if isinstance(value, list):
        return "[" + ", ".join(map(written, value)) + "]"
    return "{" + ", ".join(f"{written(str(k))} = {written(v)}" for k, v in value.items()) + "}"


def digits(number: int) -> str:
    if abs(number) < 10**40:
        return str(number)
    return ("-" if number < 0 else "") + "1" + "0" * 4000  # beyond what int() reads back


def as_toml(data: dict[str, Any]) -> str:
    """Tables two levels deep as sections, what is below inline."""
    plain, tables = [], []
    for key, child in data.items():
        if isinstance(child, dict) and all(isinstance(v, dict) for v in child.values()) and child:
            tables += [f"[{written(key)}.{written(name)}]\n" + rows(inner) for name, inner in child.items()]
        elif isinstance(child, dict):
            tables.append(f"[{written(key)}]\n" + rows(child))
        else:
            plain.append(f"{written(key)} = {written(child)}\n")
    return "".join([*plain, *tables])


def rows(table: dict[str, Any]) -> str:
    return "".join(f"{written(str(k))} = {written(v)}\n" for k, v in table.items())


# ---- text


def mutate_text(text: str, rng: random.Random) -> str:
    lines = text.splitlines(keepends=True)
    kind = rng.randrange(12)
    i = rng.randrange(len(lines)) if lines else 0
    j = rng.randrange(len(lines)) if lines else 0
    at = rng.randrange(len(text) + 1)
    if kind == 0 and lines:
        del lines[i]
    elif kind == 1 and lines:
        lines.insert(j, lines[i])
    elif kind == 2 and lines:
        lines[i], lines[j] = lines[j], lines[i]
    elif kind == 3:
        return text[:at]
    elif kind == 4:
        return text[:at] + rng.choice(ODD) + text[at:]
    elif kind == 5:
        return text[:at] + text[at + rng.randrange(1, 30) :]
    elif kind == 6:
        found = list(re.finditer(r"\d+", text))
        if found:
            match = rng.choice(found)
            return (
                text[: match.start()]
                + rng.choice(["0", "-1", "1e9", "1000000000", "nan", "0x7", "1979-05-27", "9" * 30, "3"])
                + text[match.end() :]
            )
    elif kind == 7:
        found = list(re.finditer(r"[\"']", text))
        if found:
            match = rng.choice(found)
            return text[: match.start()] + text[match.end() :]
    elif kind == 8:
        found = list(re.finditer(r"\w+", text))
        if found:
            one, two = rng.choice(found), rng.choice(found)
            return text[: one.start()] + two.group() + text[one.end() :]
    elif kind == 9:
        return text + rng.choice(
            ["\n[[graph]]\n", "\n[a.b.c]\nx=1\n", "\nx = " + "[" * 200, "\n[components]\n", '\n"" = 1\n', "\n[graph.edges]\na=1\n"]
        )
    elif kind == 10:
        return text.replace("\n", "\r\n") if rng.random() < 0.5 else "\ufeff" + text
    elif lines:
        lines[i] = mutate_words(lines[i].rstrip("\n"), rng) + "\n"
    return "".join(lines)


# ---- whole specs


def mutant(rng: random.Random, level: str = "") -> tuple[str, dict[str, Any]]:
    """The text of a spec broken in its `text` or its `values`, and how to read it."""
    text = BASES[rng.choice(sorted(BASES))]
    if (level or rng.choice(["text", "values", "values"])) == "text":
        for _ in range(rng.choice([1, 1, 2, 4])):
            text = mutate_text(text, rng)
    else:
        data = tomllib.loads(text)
        for _ in range(rng.choice([1, 1, 1, 2, 3, 6])):
            mutate_values(data, rng)
        text = as_toml(data)
    return text, reading(text, rng)


def reading(text: str, rng: random.Random) -> dict[str, Any]:
    """A size, variant and stage that are mostly there, and overrides."""
    try:
        data = tomllib.loads(text)
    except ValueError:
        data = {}
    options: dict[str, Any] = {}
    for option, section in (("size", "sizes"), ("variant", "variants"), ("stage", "stages")):
        names = list(data[section]) if isinstance(data.get(section), dict) else []
        if rng.random() < (0.5 if option == "size" else 0.2):
            options[option] = rng.choice(names if names and rng.random() < 0.9 else STRINGS)
    if rng.random() < 0.15:
        found = [".".join(map(str, p)) for p in places(data)] or ["llm.layers"]
        options["overrides"] = {
            rng.choice([*found, *found, *STRINGS, "components.llm", "llm.mlp.hidden"]): value(rng) for _ in range(rng.choice([1, 1, 2]))
        }
    return options
