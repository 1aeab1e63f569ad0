"""The processor of a model as files of its own: the modules of `vlmgraph.processor` that it uses, its settings as JSON.

The modules are copied as they stand, their imports turned to their neighbours; what they take of the rest of vlmgraph and of pydantic is in
`processing_base.py`.
"""

from __future__ import annotations

import ast
import importlib.util
import inspect
import re
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...components.base import Component
from ...diagnostics import Diagnostic, DiagnosticError
from ...diagnostics import codes as C
from ...ir.dims import Call, Dim, Symbol
from ...ir.graph import CALL, Graph

if TYPE_CHECKING:
    from ...processor.core import Processor

SETTINGS = "processor_config.json"
START = ("core", "text", "tokenizer", "jinja", "config")
OWN = "vlmgraph.processor"
ROLES = ("media", "texts", "outputs", "codecs", "derived")


@dataclass(frozen=True)
class Processing:
    """What the templates fill in, and the files."""

    title: str
    prefix: str
    symbols: list[tuple[str, str]]
    counts: dict[str, str]
    helpers: list[str]
    """Classes of components that say how many tokens a picture has."""
    settings: str
    stored: dict[str, Any]
    files: dict[str, str]


def processing(processor: Processor, graph: Graph, prefix: str) -> Processing:
    """Raises DiagnosticError where the processor cannot stand alone."""
    entries = {role: stored(getattr(processor.entries, role), graph) for role in ROLES}
    configs = [c for role in ROLES for c in getattr(processor.entries, role).values()]
    symbols = sorted({s for c in configs for s in named(c, graph)})
    tokens: dict[str, int] = {}
    for encoder in processor.encoders.values():
        tokens |= encoder.tokenizer.tokens
    stored_ = {
        "entries": entries, "tokens": tokens,
        "vocabularies": {name: e.tokenizer.size for name, e in processor.encoders.items()},
    }  # fmt: skip
    nodes = [s.place.node for e in processor.encoders.values() for s in e.slots if isinstance(s.place.node, str)]
    helpers: dict[str, str] = {}
    counts = {node: count(node, graph, helpers) for node in dict.fromkeys(nodes)}
    symbols += [s for text in helpers.values() for s in loaded(text)]
    files = dict(sources([*START, *(m for m, _ in symbols)]))
    symbols += [s for text in files.values() for s in loaded(text)]
    return Processing(graph.name, prefix, list(dict.fromkeys(symbols)), counts, list(helpers.values()), SETTINGS, stored_, files)


def named(config: Any, graph: Graph) -> Iterator[tuple[str, str]]:
    """Module and name of the class of a setting, of the function that reads pictures, of a codec."""
    for path in (f"{type(config).__module__}:{type(config).__name__}", getattr(config, "module", ""), getattr(config, "codec", "")):
        module, _, name = path.partition(":")
        if path and not module.startswith(f"{OWN}."):
            raise refused(graph, f"{module} is of another package")
        if path:
            yield module.removeprefix(f"{OWN}."), name


def stored(value: Any, graph: Graph) -> Any:
    """A setting as JSON from which it can be made again."""
    if isinstance(value, Mapping):
        return {"table": {k: stored(v, graph) for k, v in value.items()}}
    if isinstance(value, tuple):
        return {"tuple": [stored(v, graph) for v in value]}
    if isinstance(value, list):
        return [stored(v, graph) for v in value]
    if hasattr(type(value), "model_fields"):
        names = type(value).model_fields
        return {
            "class": f"{type(value).__module__}:{type(value).__name__}",
            "fields": {k: stored(getattr(value, k), graph) for k in names},
        }
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise refused(graph, f"a setting is a {type(value).__name__}")


def refused(graph: Graph, why: str) -> DiagnosticError:
    text = f"the processor of {graph.name} cannot be written as files of its own: {why}"
    return DiagnosticError(Diagnostic(C.CANNOT_EXPORT, text, fix="make the inputs with vlmgraph's processor: the model loads without"))


# ---- token counts


def count(node: str, graph: Graph, helpers: dict[str, str]) -> str:
    """An expression for the tokens that a node makes of a picture, over the arrays `inputs`; a class that it needs goes to `helpers`."""
    types = graph.types()
    type_ = types.get(graph.resolve(node), types.get(node))
    assert type_ is not None
    length = type_.dims[-2]
    if length.constant is not None:
        return str(length.constant)
    owners = {dim: owner for t in graph.inputs.values() for dim, owner in t.owners}
    places = {s: f'inputs["{name}"].shape[{axis}]' for name, t in graph.inputs.items() if t.kind in ("image", "mask")
              for axis, dim in enumerate(t.dims) if axis and dim.plain for s in dim.symbols()}  # fmt: skip
    left = [s for s in length.symbols() if s not in places]
    if not left:
        return expression(length, places)
    if len(left) == 1 and left[0].name not in owners and (told := by_component(left[0], graph, helpers)):
        return f"[{expression(length, {**places, left[0]: 'n'})} for n in {told}]"
    if len(left) > 1 or left[0].name not in owners:
        raise refused(graph, f"how many tokens `{node}` makes of a picture follows from no input's shape")
    owner = owners[left[0].name]
    return f'[{expression(length, {**places, left[0]: "n"})} for n in inputs["{owner}"].prod(axis=1).tolist()]'


def by_component(symbol: Symbol, graph: Graph, helpers: dict[str, str]) -> str:
    """The call that gives the length of each picture, where a component says it: its method `lengths` and what that reads."""
    for node in graph.nodes:
        if node.op != CALL or not any(symbol in dim.symbols() for t in node.outputs.values() for dim in t.dims[:1]):
            continue
        config = graph.config(node)
        ports = {port: source for port, source in node.inputs.items() if isinstance(source, str) and source in graph.inputs}
        if type(config).lengths is Component.lengths or not ports:
            continue
        name = "".join(part.capitalize() for part in node.component.split(".")) + "Lengths"
        helpers[name] = alone(name, config, graph)
        given = ", ".join(f'"{port}": "{source}"' for port, source in ports.items())
        return f"{name}().lengths({{port: inputs[name] for port, name in {{{given}}}.items() if name in inputs}})"
    return ""


def alone(name: str, config: Any, graph: Graph) -> str:
    """The class with `lengths`, the methods it calls, and the fields that they read as literals."""
    methods: dict[str, str] = {}
    fields: dict[str, Any] = {}
    todo = ["lengths"]
    while todo:
        method = todo.pop()
        text = textwrap.dedent(inspect.getsource(getattr(type(config), method)))
        methods[method] = textwrap.indent(text, "    ")
        for node in ast.walk(ast.parse(text)):
            if not (isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "self"):
                continue
            if inspect.isfunction(getattr(type(config), node.attr, None)):
                todo += [node.attr] if node.attr not in methods else []
            else:
                fields[node.attr] = getattr(config, node.attr)
    lines = []
    for field, value in fields.items():
        try:
            assert ast.literal_eval(repr(value)) == value
        except (ValueError, SyntaxError, AssertionError):
            raise refused(graph, f"`{field}` of {config.kind} has no literal") from None
        lines.append(f"    {field} = {value!r}")
    doc = f'    """Tokens of each picture, as {config.kind} counts them."""'
    return "\n".join([f"class {name}:", doc, "", *lines, "", *(m.rstrip() + "\n" for m in methods.values())]).rstrip()


def loaded(text: str) -> list[tuple[str, str]]:
    """File and name of what a text takes by its path. transformers copies a file only where another imports it."""
    found = re.findall(r'load_symbol\("vlmgraph\.([\w.]+):(\w+)"', text)
    return [(f.removeprefix("processor.").replace(".", "_"), name) for f, name in found]


def expression(dim: Dim, names: Mapping[Symbol, str]) -> str:
    """A dim in Python."""
    sums = []
    for monomial, factor in dim.terms:
        factors = [*([str(factor)] if factor != 1 or not monomial else []), *(atom(a, names) for a in monomial)]
        sums.append("*".join(factors))
    return f"({' + '.join(sums)})" if len(sums) > 1 else sums[0] if sums else "0"


def atom(of: Symbol | Call, names: Mapping[Symbol, str]) -> str:
    if isinstance(of, Symbol):
        return names[of]
    left, right = (expression(a, names) for a in of.args)
    if of.op in ("max", "min"):
        return f"{of.op}({left}, {right})"
    return f"({left} {'//' if of.op == '/' else of.op} {right})"


# ---- sources


def sources(start: list[str]) -> Iterator[tuple[str, str]]:
    """Modules of the processor, each with what it imports: (name, text)."""
    todo, done = list(dict.fromkeys(start)), set[str]()
    while todo:
        module = todo.pop(0)
        if module in done:
            continue
        done.add(module)
        text = entries_alone() if module == "check" else turned(module, source_of(module))
        todo += [m for m in (*neighbours(text), *(f for f, _ in loaded(text))) if m != "base"]
        yield module, text


def source_of(module: str) -> str:
    place = f"vlmgraph.nn.{module.removeprefix('nn_')}" if module.startswith("nn_") else f"{OWN}.{module}"
    spec = importlib.util.find_spec(place)
    assert spec is not None and spec.origin is not None
    return Path(spec.origin).read_text(encoding="utf-8")


def neighbours(text: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and node.level == 1:
            names = [node.module or ""] if node.module else [a.name for a in node.names]
            yield from (n.removeprefix("processing_") for n in names)


def turned(module: str, text: str) -> str:
    """The text with imports from the files beside it."""
    lines = text.splitlines()
    for node in sorted((n for n in ast.walk(ast.parse(text)) if isinstance(n, ast.ImportFrom)), key=lambda n: -n.lineno):
        source = "." * node.level + (node.module or "")
        indent = " " * node.col_offset
        given = ", ".join(a.name if a.asname is None else f"{a.name} as {a.asname}" for a in node.names)
        if source == "pydantic" or source.startswith(".."):
            made = f"from .processing_base import {given}"
        elif node.level == 1 and node.module:
            made = f"from .processing_{node.module} import {given}"
        elif node.level == 1:
            made = "from . import " + ", ".join(f"processing_{a.name} as {a.asname or a.name}" for a in node.names)
        else:
            continue
        lines[node.lineno - 1 : node.end_lineno] = [indent + made]
    return "\n".join(lines) + "\n"


def entries_alone() -> str:
    """Of the checks of tables, which are done, what a processor holds."""
    from ...processor import check

    tree = ast.parse(source_of("check"))
    found = next(n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == check.Entries.__name__)
    text = ast.get_source_segment(source_of("check"), found)
    return (
        '"""The entries of a processor by role."""\n\nfrom __future__ import annotations\n\nfrom dataclasses import dataclass\n'
        "from typing import Any\n\nfrom .processing_config import Boxes, Image, Pixels, Text  # noqa: F401\n\nLocate = Any\n\n\n"
        f'def read_tables(*tables: Any) -> Any:\n    raise NotImplementedError("the tables were read when this was written")\n\n\n'
        f"@dataclass(frozen=True)\n{text}\n"
    )
