"""What a generated file is made of. Texts are finished source, already wrapped; the templates only place them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, order=True)
class Import:
    """`import module`, or `from module import name`, perhaps under another name."""

    module: str
    name: str = ""
    alias: str = ""

    @property
    def binds(self) -> str:
        return self.alias or self.name or self.module.partition(".")[0]

    @property
    def text(self) -> str:
        return (f"from {self.module} import {self.name}" if self.name else f"import {self.module}") + (
            f" as {self.alias}" if self.alias else ""
        )


@dataclass(frozen=True)
class Constant:
    """A module-level assignment and the string behind it that says what it is."""

    name: str
    lines: tuple[str, ...]


@dataclass(frozen=True)
class Function:
    """A module-level function, signature, docstring and body."""

    name: str
    lines: tuple[str, ...]


@dataclass(frozen=True)
class Method:
    name: str
    lines: tuple[str, ...]


@dataclass(frozen=True)
class Class:
    """`head` is the line `class ...:`, `doc` its docstring."""

    name: str
    head: str
    doc: tuple[str, ...]
    methods: tuple[Method, ...]


@dataclass(frozen=True)
class Module:
    """A file: docstring, imports, then definitions, each before its first use; the model's class comes last."""

    doc: tuple[str, ...]
    imports: tuple[tuple[str, ...], ...]
    definitions: tuple[Constant | Function | Class, ...]
