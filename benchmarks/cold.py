"""The first call of a 24-layer decoder under torch.compile: block by block, as `mode="compile"` does it, beside the whole model at once.

Each in a process of its own with empty caches, one after another. What a first compilation takes at all, whatever it compiles, is measured
by compiling a sum, and taken off.
"""

from __future__ import annotations

import statistics
import tempfile

from .common import PYTHON, Table, process

ROUNDS = 3
FIXED, WHOLE, BLOCKS, NATIVE = "a sum", "whole model", "vlmgraph, by blocks", "vlmgraph, by blocks, and its own kernels"
SUM = """
import json, time, torch
x = torch.randn(64)
start = time.perf_counter()
torch.compile(lambda x: x.sin() + x)(x)
print(json.dumps({"first_seconds": time.perf_counter() - start}))
"""
DECODER = """
import json, sys, time, torch, vlmgraph
mode, layers, length = sys.argv[1], int(sys.argv[2]), 228
model = vlmgraph.compile({
    "vlmgraph": 1,
    "model": {"name": "decoder"},
    "inputs": {"x": "tokens[B, T, 896]"},
    "outputs": {"y": "tokens[B, T, 896]"},
    "components": {"llm": {"type": "decoder.transformer", "preset": "qwen2-1.5b", "layers": layers, "width": 896, "heads": 14,
                           "kv_heads": 2, "mlp": 4864, "vocab": 64}},
    "graph": {"edges": ["x -> llm -> y"]},
    "programs": {"forward": {"outputs": ["y"]}},
}, mode="compile" if mode == "blocks" else "eager")
x = torch.randn(1, length, 896)
run = model.programs["forward"]
with torch.no_grad():
    if mode == "whole":
        _, module = run.lowered(frozenset({"x"}))
        call = torch.compile(module, dynamic=True)
        run = lambda x: call(x)
    start = time.perf_counter()
    run(x=x) if mode == "blocks" else run(x)
    first = time.perf_counter() - start
    start = time.perf_counter()
    run(x=x) if mode == "blocks" else run(x)
    again = time.perf_counter() - start
kinds = model.compiled_regions.report() if model.compiled_regions else []
print(json.dumps({"first_seconds": first - again, "again_seconds": again, "compilations": sum(k["compilations"] for k in kinds)}))
"""


def cold(program: str, *arguments: str, native: bool = False) -> dict[str, float]:
    """A process that finds nothing compiled before."""
    with tempfile.TemporaryDirectory() as cache:
        own = {} if native else {"VLMGRAPH_LOWBIT": "torch"}
        return process([PYTHON, "-c", program, *arguments], TORCHINDUCTOR_CACHE_DIR=f"{cache}/torch", XDG_CACHE_HOME=cache, **own)


def measure(rounds: int = ROUNDS, layers: int = 24) -> Table:
    seen: dict[str, list[dict[str, float]]] = {FIXED: [], WHOLE: [], BLOCKS: [], NATIVE: []}
    for _ in range(rounds):
        seen[FIXED].append(cold(SUM))
        seen[WHOLE].append(cold(DECODER, "whole", str(layers)))
        seen[BLOCKS].append(cold(DECODER, "blocks", str(layers)))
    seen[NATIVE].append(cold(DECODER, "blocks", str(layers), native=True))
    first = {name: statistics.median(r["first_seconds"] for r in runs) for name, runs in seen.items()}
    net = {name: first[name] - first[FIXED] for name in first}
    rows = []
    for name, runs in seen.items():
        times = f"{net[WHOLE] / net[name]:.2f}" if net[name] else ""
        rows.append([name, f"{first[name]:.1f}", f"{net[name]:.1f}", times, f"{runs[0]['cpu_seconds']:.0f}"])
    goals = {"by blocks at least 3.5 times faster than the whole, net of the sum": net[WHOLE] >= 3.5 * net[BLOCKS]}
    note = (
        f"{layers} layers of width 896, 228 positions, open sizes, float32, one thread: the first call less the second. The kernels"
        " (`docs/lowbit.md`) are compiled once a machine; their row is one run."
    )
    header = ["what is compiled", "seconds", "net of the sum", "times faster than the whole", "processor seconds"]
    return Table("cold", "Compiling a decoder for the first time", header, rows, {"runs": seen, "net": net}, goals, note, rounds)
