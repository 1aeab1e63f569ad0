"""An output folder that appears whole or not at all."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..diagnostics import Diagnostic, DiagnosticError
from .common import unwritable

MARK = "spec.lock.toml"
"""What every folder that vlmgraph writes holds."""


@contextmanager
def replacing(target: str | Path) -> Iterator[Path]:
    """A new folder beside `target` that takes its place when the block ends well, and is removed when it does not.

    Raises DiagnosticError where `target` is something that vlmgraph did not write, or cannot be written.
    """
    from ..diagnostics import codes as C

    target = Path(os.path.abspath(target))
    made = target.with_name(f".{target.name}.{os.getpid()}.part")
    old = target.with_name(f".{target.name}.{os.getpid()}.old")
    try:
        _tidy(target)
        if target.is_symlink() or (target.exists() and not target.is_dir()):
            raise DiagnosticError(Diagnostic(C.OUTPUT, f"{target} is not a folder", fix="choose another name with -o"))
        if target.exists() and any(target.iterdir()) and not (target / MARK).is_file():
            reason = f"{target} holds files that vlmgraph did not write, so it is not replaced"
            raise DiagnosticError(Diagnostic(C.OUTPUT, reason, fix="choose another folder with -o, or remove it"))
        made.mkdir(parents=True)
    except OSError as error:
        raise unwritable(target, error) from error
    try:
        yield made
        try:
            if target.exists():
                target.rename(old)
            made.rename(target)
        except OSError as error:
            raise unwritable(target, error) from error
    finally:
        shutil.rmtree(made, ignore_errors=True)
        if old.exists() and not target.exists():
            old.rename(target)
        shutil.rmtree(old, ignore_errors=True)


def _tidy(target: Path) -> None:
    """Put right what a run that was killed left beside `target`: a half-written folder goes, one moved aside comes back."""
    left = re.compile(rf"\.{re.escape(target.name)}\.(\d+)\.(part|old)")
    for path in sorted(target.parent.glob(f".{glob_escape(target.name)}.*")) if target.parent.is_dir() else []:
        found = left.fullmatch(path.name)
        if found is None or _runs(int(found[1])):
            continue
        if found[2] == "old" and not target.exists():
            path.rename(target)
        else:
            shutil.rmtree(path, ignore_errors=True)


def glob_escape(name: str) -> str:
    return re.sub(r"([*?[])", r"[\1]", name)


def _runs(process: int) -> bool:
    with suppress(OverflowError, ProcessLookupError, PermissionError):
        os.kill(process, 0)
        return True
    return False
