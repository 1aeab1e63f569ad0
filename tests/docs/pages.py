"""Runs what a Markdown page shows: files, commands and Python, from top to bottom in one folder.

    ```toml file=name.toml      written to the folder
    ```console                  each line after `$ ` is run; what it prints must be what stands below it
    ```python                   executed, one namespace a page; `>>>` examples must print what stands below them
    ```sh, ```text, ...         shown only

A line `...` stands for any number of lines. Other blocks are left alone.
"""

from __future__ import annotations

import doctest
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
FENCE = re.compile(r"^```(\w+)[ ]?([^\n]*)\n(.*?)^```$", re.M | re.S)


@dataclass(frozen=True)
class Block:
    language: str
    option: str
    text: str
    start: int
    end: int


def blocks(page: str) -> list[Block]:
    return [Block(m[1], m[2].strip(), m[3], m.start(3), m.end(3)) for m in FENCE.finditer(page)]


def commands(text: str) -> list[tuple[str, str]]:
    """The commands of a console block, each with the output shown below it."""
    found: list[tuple[str, str]] = []
    for line in text.splitlines(keepends=True):
        if line.startswith("$ "):
            found.append((line[2:].rstrip("\n"), ""))
        else:
            found[-1] = (found[-1][0], found[-1][1] + line)
    return found


def run(command: str, folder: Path) -> str:
    """What a shell prints for a command, both streams, without trailing spaces; paths of this checkout are relative to it."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path, "COLUMNS": "100", "NO_COLOR": "1", "PYTHONIOENCODING": "utf-8"}
    done = subprocess.run(command, shell=True, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    return clean(done.stdout + done.stderr).replace(f"{ROOT}{os.sep}", "")


def clean(text: str) -> str:
    lines = "\n".join(line.rstrip() for line in text.splitlines()).strip("\n")
    return f"{lines}\n" if lines else ""


def matches(shown: str, got: str) -> bool:
    """Whether the output is as shown; `...` alone on a line stands for any lines."""
    pieces = [re.escape(line) if line.strip() != "..." else None for line in clean(shown).splitlines()]
    pattern = "".join("(?:.*\n)*?" if piece is None else piece + "\n" for piece in pieces)
    return re.fullmatch(pattern, got) is not None


def console(block: Block, folder: Path) -> tuple[str, list[str]]:
    """The block with what was really printed, and what differs from what it shows."""
    made, differences = "", []
    for command, shown in commands(block.text):
        got = run(command, folder)
        same = matches(shown, got)
        made += f"$ {command}\n" + (shown if same else got)
        if not same:
            differences.append(f"$ {command}\nshown:\n{shown}printed:\n{got}")
    return made, differences


def python(block: Block, names: dict[str, object], folder: Path) -> list[str]:
    """Executes a block in `folder`; what differs from the `>>>` examples."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        if ">>> " not in block.text:
            exec(compile(block.text, "<page>", "exec"), names)
            return []
        test = doctest.DocTestParser().get_doctest(block.text, names, "page", None, 0)
        report: list[str] = []
        runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
        runner.run(test, out=report.append, clear_globs=False)
        names.update(test.globs)
        return ["".join(report)] if runner.failures else []
    finally:
        os.chdir(before)


def execute(page: Path, folder: Path, update: bool = False) -> list[str]:
    """Runs a page; what it shows wrongly. With `update` the page gets what was printed."""
    text = page.read_text(encoding="utf-8")
    differences: list[str] = []
    names: dict[str, object] = {}
    changed: list[tuple[Block, str]] = []
    for block in blocks(text):
        if block.option.startswith("file="):
            (folder / block.option.partition("=")[2]).write_text(block.text, encoding="utf-8")
        elif block.language == "console":
            made, found = console(block, folder)
            differences += found
            changed.append((block, made))
        elif block.language == "python":
            differences += python(block, names, folder)
    if update:
        for block, made in reversed(changed):
            text = text[: block.start] + made + text[block.end :]
        page.write_text(text, encoding="utf-8")
    return differences
