"""MetaCLIP's curation of texts: captions a second, counted and drawn, beside a loop over the entries and an automaton of all of them."""

from __future__ import annotations

import tempfile
from importlib.util import find_spec
from pathlib import Path

from .common import PYTHON, Table, interleaved, process

ENTRIES, TEXTS = 500_000, 100_000
# words by Zipf's law, entries of one to three of them, captions of about fourteen
MAKE = """
import sys
import numpy as np
folder, entries, texts = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
draw = np.random.default_rng(0)
letters = np.array(list("etaoinshrdlucmfwygpb"))
words = sorted({"".join(draw.choice(letters, n)) for n in draw.integers(2, 9, 120_000)})
draw.shuffle(words)
rank = lambda n: np.minimum((len(words) + 1) ** draw.random(n) - 1, len(words) - 1).astype(int)
found = {}
while len(found) < entries:
    for place, length in zip(rank(30_000 * 3).reshape(-1, 3), draw.integers(1, 4, 30_000)):
        found[" ".join(words[i] for i in place[:length])] = None
open(f"{folder}/entries.txt", "w").write("\\n".join(list(found)[:entries]))
lengths = draw.integers(4, 25, texts)
place = rank(int(lengths.sum()))
with open(f"{folder}/texts.txt", "w") as file:
    start = 0
    for length in lengths:
        file.write(" ".join(words[i] for i in place[start : start + length]) + "\\n")
        start += length
"""
READ = """
import json, sys, time
folder, limit = sys.argv[1], int(sys.argv[2])
entries = open(f"{folder}/entries.txt").read().split("\\n")
def lines():
    with open(f"{folder}/texts.txt") as file:
        for number, line in enumerate(file):
            if number == limit:
                return
            yield line.rstrip("\\n")
"""
OURS = """
from vlmgraph.train.curation import Metadata, balance, counts
start = time.perf_counter()
metadata = Metadata(entries)
built = time.perf_counter()
counted = counts(lines(), metadata)
first = time.perf_counter()
kept = sum(1 for _ in balance(lines(), metadata, counted, 200))
drawn = time.perf_counter()
print(json.dumps({"build_seconds": built - start, "texts_a_second": limit / (first - built), "drawn_a_second": limit / (drawn - first),
                  "matches": int(counted.sum()), "kept": kept}))
"""
LOOP = """
from vlmgraph.train.curation import SPACES
start = time.perf_counter()
spaced = [f" {entry} " for entry in entries]
built = time.perf_counter()
matches = 0
for text in lines():
    text = f" {text.translate(SPACES)} "
    matches += sum(entry in text for entry in spaced)
end = time.perf_counter()
print(json.dumps({"build_seconds": built - start, "texts_a_second": limit / (end - built), "matches": matches}))
"""
AUTOMATON = """
import ahocorasick
from vlmgraph.train.curation import SPACES
start = time.perf_counter()
automaton = ahocorasick.Automaton()
for place, entry in enumerate(entries):
    automaton.add_word(f" {entry} ", place)
automaton.make_automaton()
built = time.perf_counter()
matches = 0
for text in lines():
    matches += len({place for _, place in automaton.iter(f" {text.translate(SPACES)} ")})
end = time.perf_counter()
print(json.dumps({"build_seconds": built - start, "texts_a_second": limit / (end - built), "matches": matches}))
"""
FEW = 100
"""Texts for the loop, which looks at every entry of each."""


def measure(runs: int = 3) -> Table:
    with tempfile.TemporaryDirectory(prefix="vlmgraph-curation-") as folder:
        process([PYTHON, "-c", MAKE, folder, str(ENTRIES), str(TEXTS)])
        size = (Path(folder) / "texts.txt").stat().st_size / 2**20
        commands = {"vlmgraph": [PYTHON, "-c", READ + OURS, folder, str(TEXTS)]}
        if find_spec("ahocorasick"):
            commands["pyahocorasick"] = [PYTHON, "-c", READ + AUTOMATON, folder, str(TEXTS)]
        commands["each entry in each text"] = [PYTHON, "-c", READ + LOOP, folder, str(FEW)]
        result = interleaved(commands, runs)
        (few,) = [process([PYTHON, "-c", READ + OURS, folder, str(FEW)])]
    rows = [
        [name, f"{r['texts_a_second']:,.0f}", f"{r['drawn_a_second']:,.0f}" if "drawn_a_second" in r else "", f"{r['build_seconds']:.2f}",
         f"{r['peak_mb']:.0f}"]
        for name, r in result.items()
    ]  # fmt: skip
    slow = result["each entry in each text"]
    goals = {
        "the same matches as the loop": few["matches"] == slow["matches"],
        "at least 100 times the loop": result["vlmgraph"]["texts_a_second"] >= 100 * slow["texts_a_second"],
    }
    if "pyahocorasick" in result:
        goals["the same matches as the automaton"] = result["vlmgraph"]["matches"] == result["pyahocorasick"]["matches"]
    note = f"{ENTRIES:,} entries, {TEXTS:,} captions drawn by Zipf's law ({size:.0f} MB, read line by line); the loop reads {FEW} of them."
    header = ["matcher", "texts/s counted", "texts/s drawn", "build, s", "peak MB"]
    return Table("curation", "MetaCLIP's curation", header, rows, result, goals, note, runs)
