"""An output folder that appears whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..diagnostics import Diagnostic, DiagnosticError

MARK = "spec.lock.toml"
"""What every folder that vlmgraph writes holds."""


@contextmanager
def replacing(target: str | Path) -> Iterator[Path]:
    """A new folder beside `target` that takes its place when the block ends well, and is removed when it does not.

    Raises DiagnosticError where `target` is something that vlmgraph did not write.
    """
    from ..diagnostics import codes as C

    target = Path(target)
    if target.is_symlink() or (target.exists() and not target.is_dir()):
        raise DiagnosticError(Diagnostic(C.OUTPUT, f"{target} is not a folder", fix="choose another name with -o"))
    if target.exists() and any(target.iterdir()) and not (target / MARK).is_file():
        reason = f"{target} holds files that vlmgraph did not write, so it is not replaced"
        raise DiagnosticError(Diagnostic(C.OUTPUT, reason, fix="choose another folder with -o, or remove it"))
    made = target.with_name(f".{target.name}.{os.getpid()}.part")
    old = target.with_name(f".{target.name}.{os.getpid()}.old")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        made.mkdir()
    except OSError as error:
        raise DiagnosticError(Diagnostic(C.OUTPUT, f"cannot write {target}: {error.strerror or error}")) from error
    try:
        yield made
        if target.exists():
            target.rename(old)
        made.rename(target)
    finally:
        shutil.rmtree(made, ignore_errors=True)
        if old.exists() and not target.exists():
            old.rename(target)
        shutil.rmtree(old, ignore_errors=True)
