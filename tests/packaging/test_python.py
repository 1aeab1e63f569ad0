"""Python 3.10 is enough: no newer syntax, no newer standard library."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[2]
FLOOR = (3, 10)
FOLDERS = ("vlmgraph", "codegen", "plugins", "benchmarks", "scripts", "tests")
FILES = sorted(p for folder in FOLDERS for p in (ROOT / folder).rglob("*.py"))

# what came with 3.11 and later, by the module it is imported from
NEWER = {
    "typing": {
        "Self", "Never", "assert_never", "assert_type", "reveal_type", "LiteralString", "Required", "NotRequired", "Unpack", "TypeVarTuple",
        "dataclass_transform", "override", "TypeAliasType", "ReadOnly", "TypeIs", "NoDefault", "get_overloads", "get_protocol_members",
    },
    "enum": {"StrEnum", "ReprEnum", "EnumType", "verify", "member", "nonmember", "property"},
    "datetime": {"UTC"},
    "contextlib": {"chdir"},
    "itertools": {"batched"},
    "hashlib": {"file_digest"},
    "math": {"exp2", "cbrt", "sumprod", "fma"},
    "operator": {"call", "is_none", "is_not_none"},
    "asyncio": {"TaskGroup", "Runner", "timeout", "Barrier"},
    "collections.abc": {"Buffer"},
    "functools": {"Placeholder"},
    "inspect": {"getmembers_static", "markcoroutinefunction", "BufferFlags"},
    "importlib.resources": {"abc"},
    "warnings": {"deprecated"},
    "types": {"get_original_bases", "CapsuleType"},
    "copy": {"replace"},
    "logging": {"getLevelNamesMapping", "getHandlerByName"},
    "builtins": {"ExceptionGroup", "BaseExceptionGroup", "PythonFinalizationError"},
}  # fmt: skip
MODULES = {
    "tomllib",
    "wsgiref.types",
    "importlib.resources.abc",
    "annotationlib",
    "compression",
    "concurrent.interpreters",
    "string.templatelib",
}
OLDER = {module: set(names) for module, names in NEWER.items()}


def guarded(node: ast.AST) -> bool:
    """An `if sys.version_info` or a `try` around an import: the fallback stands beside it."""
    return (isinstance(node, ast.If) and "version_info" in ast.dump(node.test)) or isinstance(node, ast.Try)


def newer(tree: ast.AST) -> Iterator[str]:
    for node in ast.iter_child_nodes(tree):
        if guarded(node):
            continue
        if isinstance(node, ast.Import):
            yield from (f"{node.lineno}: {a.name}" for a in node.names if a.name in MODULES)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            if node.module in MODULES:
                yield f"{node.lineno}: {node.module}"
            yield from (f"{node.lineno}: {node.module}.{a.name}" for a in node.names if a.name in NEWER.get(node.module, ()))
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.attr in NEWER.get(node.value.id, ()):
            yield f"{node.lineno}: {node.value.id}.{node.attr}"
        elif isinstance(node, ast.Name) and node.id in NEWER["builtins"]:
            yield f"{node.lineno}: {node.id}"
        yield from newer(node)


def test_syntax_and_library_are_old_enough() -> None:
    assert len(FILES) > 200
    wrong = []
    for path in FILES:
        tree = ast.parse(path.read_text(encoding="utf-8"), str(path), feature_version=FLOOR)
        wrong += [f"{path.relative_to(ROOT)}:{place}" for place in newer(tree)]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import tomllib", ["1: tomllib"]),
        ("from typing import Self", ["1: typing.Self"]),
        ("import itertools\nfor x in itertools.batched(y, 2): pass", ["2: itertools.batched"]),
        ("def f():\n    raise ExceptionGroup('x', [])", ["2: ExceptionGroup"]),
        ("try:\n    import tomllib\nexcept ModuleNotFoundError:\n    import tomli as tomllib", []),
        ("import sys\nif sys.version_info >= (3, 11):\n    import tomllib", []),
        ("from ..typing import Self", []),
    ],
)
def test_the_checker_sees_newer_names(source: str, found: list[str]) -> None:
    assert list(newer(ast.parse(source))) == found


@pytest.mark.parametrize("source", ["try: pass\nexcept* ValueError: pass", "type X = int", "def f[T](x: T): pass"])
def test_the_parser_refuses_newer_syntax(source: str) -> None:
    with pytest.raises(SyntaxError):
        ast.parse(source, feature_version=FLOOR)


def test_every_tool_is_told_the_same_floor() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert project["project"]["requires-python"] == ">=3.10"
    assert project["tool"]["ruff"]["target-version"] == "py310" and project["tool"]["mypy"]["python_version"] == "3.10"
    assert "tomli>=2; python_version < '3.11'" in project["project"]["dependencies"]
    for plugin in (ROOT / "plugins").glob("*/pyproject.toml"):
        assert tomllib.loads(plugin.read_text(encoding="utf-8"))["project"]["requires-python"] == ">=3.10", plugin


def test_the_kind_of_a_class_statement_stops_at_our_metaclass() -> None:
    """`ABCMeta.__new__` of Python 3.10 takes its class name as `name`: a keyword of that name must not come so far."""
    from vlmgraph.components.base import Config

    seen: list[str] = []

    class Probe(Config):
        def __init_subclass__(cls, **options: object) -> None:
            seen.extend(options)
            super().__init_subclass__(**options)

    class Part(Probe, name="probe.part"):
        width: int = 3

    assert (Part.kind, Probe.kind, seen) == ("probe.part", "", [])
    assert Part().model_dump() == {"width": 3}
