"""Interleaved runs of whole processes, their medians, and the files that results are written to."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
ROOT = Path(__file__).parents[1]
RUNS = 7


def process(command: Sequence[str]) -> dict[str, Any]:
    """Wall seconds, peak resident memory in MB, and what the process printed last as JSON (if it did).

    Raises RuntimeError with the output of a process that fails.
    """
    read, write = os.pipe()
    start = time.perf_counter()
    child = subprocess.Popen(command, stdout=write, stderr=subprocess.PIPE, cwd=ROOT, env=environment())
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
    return {"seconds": seconds, "peak_mb": usage.ru_maxrss / 1024, **inner}


def environment() -> dict[str, str]:
    return {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}


def interleaved(commands: Mapping[str, Sequence[str]], runs: int = RUNS) -> dict[str, dict[str, Any]]:
    """Medians of every number each process gives: one warm-up each, then the processes in turn."""
    for command in commands.values():
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
    found = {"python": platform.python_version(), "machine": f"{platform.machine()}, {os.cpu_count()} cores"}
    for package in ("vlmgraph", "torch", "transformers", "pydantic"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "absent"
    return found


def write(name: str, title: str, result: Mapping[str, Any], header: Sequence[str], rows: Sequence[Sequence[Any]], note: str = "") -> None:
    """`results/NAME.json` with all numbers and `results/NAME.md` with a table."""
    RESULTS.mkdir(exist_ok=True)
    data = {"title": title, "runs": RUNS, "versions": versions(), "result": result}
    (RESULTS / f"{name}.json").write_text(json.dumps(data, indent=2) + "\n")
    lines = [
        f"## {title}",
        "",
        "| " + " | ".join(header) + " |",
        "| " + " | ".join("---" if not i else "---:" for i in range(len(header))) + " |",
    ]
    lines += ["| " + " | ".join(map(str, row)) + " |" for row in rows]
    used = ", ".join(f"{k} {v}" for k, v in versions().items())
    lines += ["", *([note, ""] if note else []), f"Median of {RUNS} interleaved runs; {used}.", ""]
    text = "\n".join(lines)
    (RESULTS / f"{name}.md").write_text(text)
    print(text)


PYTHON = sys.executable
VLMGRAPH = [PYTHON, "-m", "vlmgraph"]
