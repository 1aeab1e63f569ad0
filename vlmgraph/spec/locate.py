"""Where specs are found: the bundled folder, plugins, and folders given by the caller. A name never becomes a path."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..diagnostics import Diagnostic, Label
from ..diagnostics import codes as C
from ..plugins import PluginError, registry

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


def specs_dir() -> Path:
    """The folder of the bundled specs: inside an installed package, beside the package in a checkout."""
    package = Path(__file__).parents[1]
    installed = package / "specs"
    return installed if installed.is_dir() else package.parent / "specs"


def installed_specs() -> dict[str, Path]:
    """Bundled specs and those of plugins that load, by name."""
    found = {path.stem: path for path in sorted(specs_dir().glob("*.toml"))}
    for name in registry("vlmgraph.specs").names():
        try:
            path = _folder(registry("vlmgraph.specs").load(name)) / f"{name}.toml"
        except (PluginError, TypeError):
            continue  # `find` says why when the name is asked for
        if path.is_file():
            found.setdefault(name, path)
    return found


def _folder(provided: Any) -> Path:
    """A plugin gives a folder, or a function that returns it."""
    return Path(provided() if callable(provided) else provided)


def find(name: str, search: Sequence[Path], at: Label | None, code: str = C.NOT_FOUND) -> Path | Diagnostic:
    """The file of a spec by its name, or why there is none."""
    if not NAME.fullmatch(name):
        note = "a spec is named by letters, digits, dots and dashes; paths are for the command line"
        return Diagnostic(code, f"{name!r} cannot be the name of a spec", at, notes=(note,))
    for folder in (*search, specs_dir()):
        path = folder / f"{name}.toml"
        if path.is_file():
            return path
    plugins = registry("vlmgraph.specs")
    if name in plugins.points:
        try:
            path = _folder(plugins.load(name)) / f"{name}.toml"
        except PluginError as error:
            broken = {"clash": C.PLUGIN_CLASH, "api": C.PLUGIN_API}.get(error.reason, C.PLUGIN_IMPORT)
            return Diagnostic(broken, f"the plugin that provides spec {name!r} does not load: {error.detail}", at)
        except Exception as error:  # whatever the plugin's function raises is its author's message
            return Diagnostic(C.PLUGIN_IMPORT, f"the plugin that provides spec {name!r} fails: {type(error).__name__}: {error}", at)
        if path.is_file():
            return path
        return Diagnostic(C.PLUGIN_IMPORT, f"the plugin that provides spec {name!r} has no file {path.name}", at)
    import difflib

    known = sorted({*(p.stem for folder in (*search, specs_dir()) for p in folder.glob("*.toml")), *plugins.points})
    near = difflib.get_close_matches(name, known, 1, 0.5)
    fix = f"did you mean {near[0]!r}?" if near else "`vlmgraph list` shows all names"
    return Diagnostic(code, f"there is no spec {name!r}", at, fix=fix)
