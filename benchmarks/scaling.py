"""How the cost grows with layers (of CogVLM's decoder) and with edges (a chain of connectors): 10, 100, 1000 of each."""

from __future__ import annotations

import math

from .common import PYTHON, Table, interleaved

LAYERS = """
import json, time, torch, vlmgraph, vlmgraph.api, vlmgraph.lower.model
vlmgraph.compile("cogvlm", device="meta")
start = time.perf_counter()
spec = vlmgraph.read_spec("cogvlm", overrides={{"llm.layers": {n}, "expect": {{"remove": True}}}})
graph = vlmgraph.elaborate(spec)
checked = time.perf_counter()
model = vlmgraph.compile(spec, device="meta")
programs = [model.programs[name].fx for name in model.graph.programs]
print(json.dumps({{"check_seconds": checked - start, "build_seconds": time.perf_counter() - checked}}))
"""
EDGES = """
import json, time, torch, vlmgraph, vlmgraph.api, vlmgraph.lower.model
def spec(n):
    return {{
        "vlmgraph": 1,
        "model": {{"name": "chain"}},
        "inputs": {{"x": "tokens[B, N, 64]"}},
        "outputs": {{"y": "tokens[B, N, 64]"}},
        "components": {{f"c{{i}}": {{"type": "connector.linear", "out": 64}} for i in range(n)}},
        "graph": {{"edges": ["x -> c0", *(f"c{{i}} -> c{{i + 1}}" for i in range(n - 1)), f"c{{n - 1}} -> y"]}},
        "programs": {{"forward": {{"outputs": ["y"]}}}},
    }}
vlmgraph.compile(spec(2), device="meta")
start = time.perf_counter()
made = vlmgraph.read_spec(spec({n}))
graph = vlmgraph.elaborate(made)
checked = time.perf_counter()
model = vlmgraph.compile(made, device="meta")
programs = [model.programs[name].fx for name in model.graph.programs]
print(json.dumps({{"check_seconds": checked - start, "build_seconds": time.perf_counter() - checked}}))
"""
SIZES = (10, 100, 1000)


def measure(runs: int = 3) -> Table:
    commands = {f"{n} {what}": [PYTHON, "-c", source.format(n=n)] for what, source in (("layers", LAYERS), ("edges", EDGES)) for n in SIZES}
    result = interleaved(commands, runs)
    rows = [[n, f"{r['check_seconds']:.3f}", f"{r['build_seconds']:.3f}", f"{r['peak_mb']:.0f}"] for n, r in result.items()]
    slopes = {}
    for what in ("layers", "edges"):
        for step in ("check_seconds", "build_seconds"):
            small, large = result[f"100 {what}"][step], result[f"1000 {what}"][step]
            slopes[f"{what}, {step.removesuffix('_seconds')}"] = round(math.log10(large / small), 2)
    note = "Exponent of growth from 100 to 1000 (1 is linear): " + "; ".join(f"{k} {v}" for k, v in slopes.items()) + "."
    goals = {"no exponent above 1.15": max(slopes.values()) <= 1.15}
    header = ["model", "read and check, seconds", "build and lower, seconds", "peak MB"]
    return Table("scaling", "Growth with layers and edges", header, rows, {**result, "exponents": slopes}, goals, note, runs)
