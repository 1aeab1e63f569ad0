"""Which tests prove what of a spec: `pytest --status` notes the outcomes in docs/status.json, and docs/status.md shows them.

A part is proved of a spec when a test that stands for it ran and passed, and none failed. A run of some tests changes only their parts.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

DOCS = Path(__file__).parents[1] / "docs"
LEVELS: dict[str, tuple[str, tuple[str, ...]]] = {
    "L0": ("checks and draws", ("clean", "drawing")),
    "L1": ("runs and trains at `tiny`, mechanisms tested", ("runs", "trains", "mechanisms")),
    "L2": ("published size: parameters, visual tokens", ("counts",)),
    "L3": ("same numbers as the reference", ("numbers",)),
    "L4": (
        "source, compiled, decoding with caches, ONNX and the folder for transformers equal eager; TensorRT has a plan",
        ("source", "compiled", "decoding", "onnx", "transformers", "tensorrt plan"),
    ),
    "L5": ("learns", ("learns",)),
}
"""Proof levels, and the parts of each."""

SWEEPS = {
    "tests/levels/test_levels.py::test_clean": "clean",
    "tests/levels/test_levels.py::test_runs": "runs",
    "tests/levels/test_levels.py::test_trains": "trains",
    "tests/levels/test_levels.py::test_source": "source",
    "tests/levels/test_compiled.py::test_compiled": "compiled",
    "tests/export/test_onnx.py::test_every_spec": "onnx",
    "tests/export/test_transformers.py::test_loads_forwards_and_writes_the_same": "transformers",
    "tests/export/test_transformers.py::test_every_spec": "transformers",
    "tests/export/tensorrt/test_profiles.py::test_every_program_of_every_spec_has_profiles": "tensorrt plan",
    "tests/levels/test_generated.py::test_generated": "decoding",
    "tests/levels/test_generated.py::test_generated_by_variants": "decoding",
    "tests/report/test_drawings.py::TestDrawings": "drawing",
    "tests/report/test_published.py::test_parameters_of_every_component_are_those_built": "counts",
}
"""Tests, or classes of them, with the parameter `name`, a spec's."""
FOLDERS = {"architectures": "mechanisms", "golden": "numbers", "parity": "numbers"}
"""Folders whose files have the name of a spec."""
TOO = {"test_paligemma": "paligemma-2", "test_mantis": "mantis-idefics2"}
"""Files that are of a further spec."""


def proved(item: pytest.Item) -> Iterator[tuple[str, str]]:
    """The specs and parts that a test stands for."""
    function = item.nodeid.partition("[")[0]
    parameters: Mapping[str, Any] = getattr(getattr(item, "callspec", None), "params", {})
    part = next((part for test, part in SWEEPS.items() if function == test or function.startswith(f"{test}::")), None)
    if part is not None:
        if part in asked(parameters["name"]):
            yield parameters["name"], part
    elif function == "tests/parity/test_parity.py::test_same_outputs_and_same_file":
        yield from ((name, "numbers") for name in family_of(parameters["name"]))
    else:
        place = Path(function.partition("::")[0]).parts
        if len(place) == 3 and place[1] in FOLDERS:
            stem = Path(place[2]).stem
            yield from ((name, FOLDERS[place[1]]) for name in (*of_file(stem), *([TOO[stem]] if stem in TOO else [])))


@cache
def specs() -> dict[str, dict[str, Any]]:
    return {p.stem: tomllib.loads(p.read_text(encoding="utf-8")) for p in sorted(DOCS.parent.glob("specs/*.toml"))}


@cache
def entries() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = tomllib.loads((DOCS / "survey.toml").read_text(encoding="utf-8"))["entries"]
    return found


def inherited(name: str, key: str) -> dict[str, Any]:
    """A table of a spec over that of the one it extends."""
    spec = specs()[name]
    below = inherited(spec["extends"].partition(":")[0], key) if "extends" in spec else {}
    return {k: v for k, v in {**below, **spec.get(key, {})}.items() if v != {"remove": True} and k != "remove"}


def asked(name: str) -> set[str]:
    """The parts that a spec can be held to: no counts where none is published, no decoding where it writes nothing."""
    lacking = {"counts"} if "total" not in expected(name) else set()
    if "generate" not in inherited(name, "programs"):
        lacking.add("decoding")
    return {part for _, parts in LEVELS.values() for part in parts} - lacking


def expected(name: str) -> Mapping[str, Any]:
    """Published counts of a spec, its own or those it inherits."""
    found: Mapping[str, Any] = inherited(name, "expect").get("params", {})
    return found


def of_file(stem: str) -> list[str]:
    """`test_qwen2_5_vl` is of qwen2.5-vl, `test_blip_2_counts` of blip-2, `test_fuyu` of fuyu-8b."""
    said = plain(stem.removeprefix("test_"))
    names = {name: plain(name) for name in specs()}
    exact = [n for n, p in names.items() if p == said]
    within = sorted((n for n, p in names.items() if said.startswith(p)), key=len)[-1:]
    return exact or within or [n for n, p in names.items() if p.startswith(said)]


def plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


@cache
def family_of(case: str) -> list[str]:
    """The spec that a parity case stands for: the one its family extends, or one whose name says more (`paligemma_2_window`)."""
    from vlmgraph.weights.import_config import families

    kind = max((k for k in families() if plain(case).startswith(plain(k))), key=len, default="")
    named = [name for name in of_file(case) if plain(case).startswith(plain(name)) and len(plain(name)) > len(plain(kind))]
    return named or [families()[kind][0]["extends"].partition(":")[0]] if kind or named else []


class Recorder:
    """Gathers outcomes, from the workers of a parallel run too."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.outcomes: dict[tuple[str, str], bool] = {}

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
        outcome = yield
        report = outcome.get_result()  # type: ignore[attr-defined]
        report.user_properties += [("proves", list(pair)) for pair in proved(item)]

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed or (report.when == "call" and report.passed):
            for key, pair in report.user_properties:
                if key == "proves":
                    name, part = pair  # type: ignore[misc]
                    self.outcomes[name, part] = report.passed and self.outcomes.get((name, part), True)

    def pytest_sessionfinish(self) -> None:
        kept = read(self.path)
        for (name, part), passed in self.outcomes.items():
            kept.setdefault(name, set()).discard(part)
            if passed:
                kept[name].add(part)
        write(self.path, {name: parts for name, parts in kept.items() if name in specs()})


def read(path: Path) -> dict[str, set[str]]:
    return {name: set(parts) for name, parts in json.loads(path.read_text(encoding="utf-8")).items()} if path.is_file() else {}


def write(path: Path, found: Mapping[str, set[str]]) -> None:
    order = [part for _, parts in LEVELS.values() for part in parts]
    rows = (f"{json.dumps(name)}: {json.dumps(sorted(found[name], key=order.index))}" for name in sorted(found))
    text = "{\n  " + ",\n  ".join(rows) + "\n}\n"
    part = path.with_suffix(".part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)


def table(found: Mapping[str, set[str]]) -> str:
    """docs/status.md."""
    shown = [row(entry, found) for entry in entries()]
    there = [entry for entry in entries() if set(entry["specs"]) & specs().keys()]
    head = ["no.", "survey entry", "spec", *LEVELS]
    lines = [
        "# What is proved of each architecture",
        "",
        "Written from the outcomes of the tests (`make status`); not edited by hand. A level is reached when all of its parts are; of one",
        "reached in part the missing parts are named. An empty cell: nothing is proved. A dash: there is nothing to prove it by.",
        "",
        *(f"- **{level}** {what}: {', '.join(parts)}" for level, (what, parts) in LEVELS.items()),
        "",
        f"{len(there)} of {len(shown)} entries have a spec. "
        + ", ".join(f"{level}: {sum(r[3 + i] == 'yes' for r in shown)}" for i, level in enumerate(LEVELS)),
        "",
        "| " + " | ".join(head) + " |",
        "|" + " --- |" * len(head),
        *("| " + " | ".join(cells) + " |" for cells in shown),
    ]
    return "\n".join(lines) + "\n"


def row(entry: Mapping[str, Any], found: Mapping[str, set[str]]) -> list[str]:
    names = [name for name in entry["specs"] if name in specs()]
    cells = [str(entry["id"]), entry["name"], ", ".join(f"[{n}](../specs/{n}.toml)" for n in names)]
    for level, (_, parts) in LEVELS.items():
        if names:
            parts = tuple(p for p in parts if any(p in asked(n) for n in names))
        if not parts or (level == "L3" and entry["reference"] == "none" and not any("numbers" in found.get(n, ()) for n in names)):
            cells.append("–")
            continue
        have = [p for p in parts if names and all(p in found.get(n, ()) or p not in asked(n) for n in names)]
        lacking = ", ".join(p for p in parts if p not in have)
        cells.append("yes" if not lacking else f"without {lacking}" if have else "")
    return cells


if __name__ == "__main__":
    (DOCS / "status.md").write_text(table(read(DOCS / "status.json")), encoding="utf-8")
