"""Interleaved runs of whole processes, their medians, and the file that results are written to."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
ROOT = Path(__file__).parents[1]
RUNS = 7
PYTHON = sys.executable
VLMGRAPH = [PYTHON, "-m", "vlmgraph"]
IMPORTS = """
import json, sys, time
import torch, vlmgraph, vlmgraph.api, vlmgraph.lower.model
from importlib import import_module
from vlmgraph.plugins import registry
for name in registry().names():
    kind = registry().load(name)
    if getattr(kind, "module", ""):
        import_module(kind.module.partition(":")[0])
"""
"""All that building a model imports, for programs that time what comes after."""


@dataclass(frozen=True)
class Table:
    """One benchmark's outcome. `goals` say what is asked for and whether it was met."""

    name: str
    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[Any]]
    result: Mapping[str, Any]
    goals: Mapping[str, bool] = field(default_factory=dict)
    note: str = ""
    runs: int = RUNS

    def markdown(self) -> str:
        lines = [f"## {self.title}", "", "| " + " | ".join(self.header) + " |"]
        lines.append("| " + " | ".join("---" if not i else "---:" for i in range(len(self.header))) + " |")
        lines += ["| " + " | ".join(map(str, row)) + " |" for row in self.rows]
        lines += ["", f"Medians of {self.runs} interleaved runs." + (f" {self.note}" if self.note else "")]
        lines += ["", *(f"- {'met' if met else '**not met**'}: {goal}" for goal, met in self.goals.items())] if self.goals else []
        return "\n".join([*lines, ""])


def process(command: Sequence[str], **variables: str) -> dict[str, Any]:
    """Wall and processor seconds, peak resident memory in MB, and what the process printed last as JSON (if it did).

    `variables` are of its environment.
    Raises RuntimeError with the output of a process that fails.
    """
    read, write = os.pipe()
    start = time.perf_counter()
    child = subprocess.Popen(command, stdout=write, stderr=subprocess.PIPE, cwd=ROOT, env=environment("cuda" in command) | variables)
    os.close(write)
    with os.fdopen(read) as pipe:
        printed = pipe.read()
    errors = child.stderr.read().decode() if child.stderr else ""
    _, status, usage = os.wait4(child.pid, 0)
    seconds = time.perf_counter() - start
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{printed}{errors}")
    last = printed.strip().splitlines()[-1] if printed.strip() else ""
    inner = json.loads(last) if last.startswith("{") else {}
    return {"seconds": seconds, "cpu_seconds": usage.ru_utime + usage.ru_stime, "peak_mb": usage.ru_maxrss / 1024, **inner}


def environment(cuda: bool = False) -> dict[str, str]:
    """One thread, no network, no CUDA devices unless asked for, and byte code kept between runs, as an installed package has it."""
    kept = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    hidden = {} if cuda else {"CUDA_VISIBLE_DEVICES": ""}
    return {**kept, "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **hidden}


def interleaved(commands: Mapping[str, Sequence[str]], runs: int = RUNS, warm: bool = True) -> dict[str, dict[str, Any]]:
    """Medians of every number each process gives: one warm-up each (of those that take minutes none), then the processes in turn."""
    for command in commands.values() if warm else ():
        process(command)
    seen: dict[str, list[dict[str, Any]]] = {name: [] for name in commands}
    for _ in range(runs):
        for name, command in commands.items():
            seen[name].append(process(command))
    result = {}
    for name, rows in seen.items():
        result[name] = {key: statistics.median(row[key] for row in rows) for key in rows[0]}
        result[name]["all_seconds"] = [round(row["seconds"], 4) for row in rows]
    return result


def versions() -> dict[str, str]:
    found = {"Python": platform.python_version()}
    for package in ("vlmgraph", "torch", "transformers", "pydantic", "onnxruntime", "onnxruntime-genai"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "absent"
    return found


def machine() -> str:
    """The processor and its cores."""
    model = platform.machine()
    try:
        names = [line.partition(":")[2].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
        model = names[0] if names else model
    except OSError:
        pass
    return f"{model}, {os.cpu_count()} cores"


def save(table: Table, load: tuple[float, float], command: str) -> None:
    """`results/NAME.json`: all numbers of a table with where and how they were taken."""
    RESULTS.mkdir(exist_ok=True)
    taken = {"command": command, "versions": versions(), "machine": machine(), "load": [round(n, 1) for n in load]}
    (RESULTS / f"{table.name}.json").write_text(json.dumps({**taken, **asdict(table)}, indent=1) + "\n", encoding="utf-8")


def page(names: Sequence[str]) -> None:
    """README.md from the results that there are."""
    parts = []
    for name in names:
        path = RESULTS / f"{name}.json"
        if not path.is_file():
            continue
        data = json.loads(path.read_text(encoding="utf-8"))
        taken = {key: data.pop(key) for key in ("versions", "machine", "load")}
        ran = f"`{command}`; " if (command := data.pop("command", "")) else ""
        used = ", ".join(f"{k} {v}" for k, v in taken["versions"].items())
        busy = " and ".join(map(str, taken["load"]))
        parts += [Table(**data).markdown(), f"{ran}{used}; {taken['machine']}; load average {busy} before and after.", ""]
    head = [
        "# Benchmarks",
        "",
        "Written by `make bench` (`python -m benchmarks`); not edited by hand. All numbers of every run are in `results/`.",
        "Whole processes are started one after another, each beside its peer, with one thread and byte code in place. Wall times of a",
        "machine that does other things at the time (a load average above its cores) are longer; processor times change less.",
        "",
    ]
    (Path(__file__).parent / "README.md").write_text("\n".join([*head, *parts]).rstrip("\n") + "\n", encoding="utf-8")
