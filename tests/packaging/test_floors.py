"""Each folder imports only from the folders that stand below it, and torch only where modules are built."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "vlmgraph"

# folder → folders of the package that it may import at any level
FLOORS: dict[str, set[str]] = {
    "diagnostics": set(),
    "nn": set(),
    "ir": {"diagnostics", "components", "plugins"},
    "spec": {"diagnostics", "ir", "components", "presets", "plugins"},
    "components": {"diagnostics", "ir", "plugins"},
    "presets": {"diagnostics"},
    "processor": {"diagnostics", "components", "plugins", "spec", "ir"},
    "elaborate": {"diagnostics", "spec", "ir", "components", "presets", "plugins", "passes", "processor"},
    "passes": {"diagnostics", "ir", "components", "plugins", "processor"},
    "report": {"diagnostics", "ir", "components", "passes", "processor", "spec", "plugins"},
}
# loaded without torch, whatever a function inside may import later
NO_TORCH = (
    "diagnostics",
    "spec",
    "ir",
    "passes",
    "components",
    "presets",
    "elaborate",
    "report",
    "processor",
    "cli",
    "plugins.py",
    "api.py",
)
HEAVY = {"torch", "torchvision", "transformers", "onnx", "onnxruntime", "scipy", "sklearn"}


def files(folder: str) -> list[Path]:
    path = PACKAGE / folder
    return [path] if path.suffix == ".py" else sorted(path.rglob("*.py"))


def imports(path: Path, top_level: bool = False) -> set[str]:
    """Absolute names of the modules that a file imports. TYPE_CHECKING blocks import nothing."""
    return names(ast.parse(path.read_text(encoding="utf-8")), path.relative_to(ROOT).with_suffix("").parts, top_level)


def names(tree: ast.AST, parts: tuple[str, ...], top_level: bool) -> set[str]:
    found: set[str] = set()
    for node in walk(tree, top_level):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            # the package a relative import starts from; for __init__.py that is its own folder
            base = ".".join(parts[: len(parts) - node.level]) if node.level else ""
            module = ".".join(filter(None, (base, node.module)))
            found |= {f"{module}.{alias.name}" for alias in node.names} | {module}
    return found


def walk(tree: ast.AST, top_level: bool):
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            continue
        if top_level and isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            continue
        yield node
        yield from walk(node, top_level)


def folder_of(module: str) -> str | None:
    parts = module.split(".")
    return parts[1] if parts[0] == "vlmgraph" and len(parts) > 1 else None


@pytest.mark.parametrize("folder", FLOORS)
def test_imports_come_from_below(folder: str) -> None:
    known = {p.name for p in PACKAGE.iterdir() if p.is_dir()} | {p.stem for p in PACKAGE.glob("*.py")}
    wrong = [
        f"{path.relative_to(ROOT)} imports {module}"
        for path in files(folder)
        for module in sorted(imports(path))
        if (target := folder_of(module)) in known and target != folder and target not in FLOORS[folder]
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("folder", NO_TORCH)
def test_loads_without_torch(folder: str) -> None:
    wrong = [
        f"{path.relative_to(ROOT)} imports {module}"
        for path in files(folder)
        for module in sorted(imports(path, top_level=True))
        if module.split(".")[0] in HEAVY
    ]
    assert not wrong, "\n".join(wrong)


def test_every_folder_has_a_floor() -> None:
    above = {"cli", "lower", "weights", "export", "train"}
    folders = {p.name for p in PACKAGE.iterdir() if p.is_dir() and (p / "__init__.py").exists()}
    assert folders - above == set(FLOORS)


def test_the_checker_sees_forbidden_imports() -> None:
    source = (
        "from ..ir import dims\nfrom ..lower.model import CompiledModel\nif TYPE_CHECKING:\n    import torch\ndef f():\n    import onnx\n"
    )
    found = names(ast.parse(source), ("vlmgraph", "spec", "read"), False)
    assert {"vlmgraph.ir.dims", "vlmgraph.lower.model", "onnx"} <= found and "torch" not in found
    assert "onnx" not in names(ast.parse(source), ("vlmgraph", "spec", "read"), True)
