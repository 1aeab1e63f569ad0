"""docs/status.md is what docs/status.json, docs/survey.toml and the specs give."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests import status


def test_the_page_is_current(update: bool) -> None:
    page = status.DOCS / "status.md"
    made = status.table(status.read(status.DOCS / "status.json"))
    if update:
        page.write_text(made, encoding="utf-8")
    assert page.read_text(encoding="utf-8") == made, "make status, or python -m tests.status"


def test_every_spec_is_in_the_survey_table() -> None:
    """Those of an entry have its number, and every one but parts of others stands somewhere."""
    listed = {name: entry["id"] for entry in status.entries() for name in entry["specs"]}
    assert len(status.entries()) == 95
    for name, spec in status.specs().items():
        if name in listed:
            assert status.inherited(name, "model").get("survey") == listed[name], name
        else:
            assert spec["model"]["survey"] in listed.values(), name


@pytest.mark.parametrize(
    ("stem", "names"),
    [
        ("test_qwen2_5_vl", ["qwen2.5-vl"]), ("test_blip_2_counts", ["blip-2"]), ("test_fuyu", ["fuyu-8b"]), ("test_llava", ["llava"]),
        ("test_minimax", ["minimax-text-01", "minimax-vl-01"]), ("llava_next_text_only", ["llava-next"]), ("test_key_value", []),
    ],
)  # fmt: skip
def test_files_by_the_name_of_a_spec(stem: str, names: list[str]) -> None:
    assert status.of_file(stem) == names


@pytest.mark.parametrize("workers", [0, 2])
def test_outcomes_are_noted(tmp_path: Path, workers: int) -> None:
    """What passes is proved, what fails no longer is, what did not run stays as it was."""
    (tmp_path / "tests/levels").mkdir(parents=True)
    (tmp_path / "tests/levels/test_levels.py").write_text(
        "import pytest\n"
        "@pytest.mark.parametrize('name', ['clip', 'siglip'])\ndef test_runs(name):\n    assert name == 'clip'\n"
        "@pytest.mark.parametrize('name', ['clip'])\n@pytest.mark.skip(reason='as elsewhere')\ndef test_source(name):\n    pass\n"
    )
    root = status.DOCS.parent
    (tmp_path / "conftest.py").write_text(
        f"import sys\nsys.path.insert(0, {str(root)!r})\nfrom pathlib import Path\nfrom tests.status import Recorder\n"
        "def pytest_configure(config):\n    config.pluginmanager.register(Recorder(Path('status.json')))\n"
    )
    status.write(tmp_path / "status.json", {"siglip": {"clean", "runs"}})
    run = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"-n{workers}", "tests/levels/test_levels.py"]
    done = subprocess.run(run, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    assert status.read(tmp_path / "status.json") == {"clip": {"runs"}, "siglip": {"clean"}}
