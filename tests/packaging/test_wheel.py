"""What is installed elsewhere: every file that the code reads is in it, and it works without the checkout."""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = ("vlmgraph", "codegen", "specs", "pyproject.toml", "setup.py", "README.md", "LICENSE")
CODE = {"vlmgraph": "vlmgraph", "codegen": "vlmgraph/codegen", "specs": "vlmgraph/specs"}
"""Folder of the checkout → where it is installed."""


def copied(target: Path) -> Path:
    """The sources alone: a build writes into its folder."""
    target.mkdir()
    for name in SOURCES:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, target / name, ignore=shutil.ignore_patterns("__pycache__", ".*"))
        else:
            shutil.copy(source, target)
    return target


def run(site: Path, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """A command of the installed package. Without `site`, so that no editable install of the checkout can help out."""
    paths = [str(site), sysconfig.get_paths()["purelib"], sysconfig.get_paths()["platlib"]]
    source = f"import sys; sys.path[:0] = {paths!r}; from vlmgraph.cli import main; sys.exit(main(sys.argv[1:]))"
    return subprocess.run([sys.executable, "-S", "-c", source, *arguments], capture_output=True, text=True, cwd=cwd)


def wanted() -> set[str]:
    """Every file that belongs to the package: code, and data that the code reads."""
    return {
        f"{place}/{path.relative_to(ROOT / folder).as_posix()}"
        for folder, place in CODE.items()
        for path in (ROOT / folder).rglob("*")
        if path.is_file()
        and "__pycache__" not in path.parts
        and path.name != "ruff.toml"
        and not any(p.startswith(".") for p in path.parts)
    }


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `pip install` would copy, made without pip: the quick half of the proof."""
    folder = tmp_path_factory.mktemp("build")
    source = copied(folder / "source")
    done = subprocess.run(
        [sys.executable, "setup.py", "--quiet", "build_py", "--build-lib", str(folder / "site")], cwd=source, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return folder / "site"


def test_every_file_is_installed(built: Path) -> None:
    have = {p.relative_to(built).as_posix() for p in built.rglob("*") if p.is_file()}
    assert wanted() - have == set()
    assert {name for name in have if name.startswith(("tests", "plugins", "benchmarks", "docs"))} == set()
    assert not any(name.endswith("ruff.toml") for name in have)


def test_it_works_without_the_checkout(built: Path, tmp_path: Path) -> None:
    checked = run(built, "check", "cogvlm", "janus", cwd=tmp_path)
    assert (checked.returncode, checked.stderr) == (0, "cogvlm: no problems\njanus: no problems\n")
    paths = run(built, "list", "--json", cwd=tmp_path).stdout
    assert str(built / "vlmgraph/specs/cogvlm.toml") in paths and str(ROOT) not in paths
    assert run(built, "explain", "VG0301", cwd=tmp_path).stdout.startswith("# VG0301")
    assert "<!doctype html>" in run(built, "report", "llava-1.5", "--format", "html", cwd=tmp_path).stdout


@pytest.mark.slow
def test_a_wheel_installed_elsewhere(tmp_path: Path) -> None:
    """Built and installed by pip; then everything that reads a file of the package runs from there: specs, presets, templates, source."""
    source = copied(tmp_path / "source")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    subprocess.run([*pip, "wheel", str(source), "--no-deps", "--no-build-isolation", "-w", str(tmp_path)], check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert wanted() - names == set()
    site = tmp_path / "site"
    subprocess.run([*pip, "install", "--no-deps", "--target", str(site), str(wheel)], check=True, capture_output=True)
    assert (site / "bin/vlmgraph").is_file()
    shutil.rmtree(source)
    done = run(site, "compile", "cogvlm", "--size", "tiny", "--device", "cpu", "-o", "out", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert {"spec.lock.toml", "graph.txt", "model.py", "report.html", "model.safetensors"} <= {p.name for p in (tmp_path / "out").iterdir()}
    again = run(site, "compile", "out/spec.lock.toml", "--device", "cpu", "-o", "again", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    for path in (tmp_path / "out").iterdir():
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes(), path.name
    assert run(site, "plugins", cwd=tmp_path).returncode == 0
