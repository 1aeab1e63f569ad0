"""The package under plugins/, really installed by pip into a folder of its own: its specs, its tests, spawned workers, its README."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.pages import ROOT, execute

PACKAGE = ROOT / "plugins" / "vlmgraph-abstractor"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `pip install` leaves, without an index: the build backend is the one at hand."""
    folder = tmp_path_factory.mktemp("plugin")
    shutil.copytree(PACKAGE, folder / "source", ignore=shutil.ignore_patterns("__pycache__", "build", "*.egg-info"))  # a build writes there
    pip = [
        sys.executable,
        "-m",
        "pip",
        "--disable-pip-version-check",
        "install",
        "--quiet",
        "--no-index",
        "--no-deps",
        "--no-build-isolation",
    ]
    done = subprocess.run([*pip, "--no-compile", "--target", folder / "site", folder / "source"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder / "site"


def run(site: Path | None, *command: str | Path) -> subprocess.CompletedProcess[str]:
    paths = {"PYTHONPATH": str(site)} if site else {}
    return subprocess.run([sys.executable, *command], capture_output=True, text=True, cwd=ROOT, env={**os.environ, **paths})


def test_its_specs_are_found_and_clean_and_without_it_they_are_not_there(site):
    source = "import vlmgraph, vlmgraph.spec as s; print(sorted({'honeybee', 'cyclip'} & set(s.installed_specs())))"
    source += "; print([str(d) for n in ('honeybee', 'cyclip') for d in vlmgraph.check(n)])"
    assert run(site, "-c", source).stdout == "['cyclip', 'honeybee']\n[]\n"
    without = run(None, "-c", source).stdout
    assert without.startswith("[]\n") and without.count("VG0003") == 2


def test_its_own_tests_pass(site):
    done = run(site, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", PACKAGE, PACKAGE / "tests")
    assert done.returncode == 0, done.stdout
    assert int(re.search(r"(\d+) passed", done.stdout)[1]) >= 5 and "skipped" not in done.stdout


SPAWN = """
import multiprocessing, sys

def names(_):
    import vlmgraph
    from vlmgraph.plugins import registry
    found = vlmgraph.check(vlmgraph.read_spec("honeybee", size="tiny"))
    return [str(d) for d in found], registry().load("connector.c_abstractor").__module__, "torch" in sys.modules

if __name__ == "__main__":
    sys.path.insert(0, sys.argv[1])  # found by the parent alone: a worker gets its path from it
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        assert pool.map(names, range(2)) == [names(0)] * 2
    print(names(0))
"""


def test_a_spawned_worker_sees_the_same_plugins(site, tmp_path):
    script = tmp_path / "main.py"
    script.write_text(SPAWN, encoding="utf-8")
    done = run(None, script, site)
    assert done.stdout == "([], 'vlmgraph_abstractor.components', False)\n", done.stderr


def test_the_readme_writes_a_plugin(tmp_path, update):
    """Its files are written, the package is built and installed, and the commands print what is shown."""
    differences = execute(PACKAGE / "README.md", tmp_path, update)
    assert update or differences == [], "\n\n".join(differences)
    source = "import vlmgraph, torch; m = vlmgraph.compile(vlmgraph.read_spec('scaled.toml', size='tiny'))"
    source += "; print(m.scale.scale.unique().tolist(), sum(m.graph.components['scale'].parameters().values()) == m.scale.scale.numel())"
    done = subprocess.run(
        [sys.executable, "-c", source],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": f"{tmp_path}/site:{ROOT}"},
    )
    assert done.stdout == "[0.10000000149011612] True\n", done.stderr


def test_the_declaration_of_the_readme_is_twenty_lines(tmp_path):
    [declaration] = re.findall(r"```python file=channel_scale.py\n(.*?)```", (PACKAGE / "README.md").read_text(encoding="utf-8"), re.S)
    assert len([line for line in declaration.splitlines() if line.strip()]) <= 20
