"""Whatever stands in a spec, checking it ends in findings that can be shown, or in a graph."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.mutate import BASES, mutant, mutate_values, tomllib, value
from tests.fuzz.outcome import outcome
from vlmgraph.diagnostics.render import render

ROOT = Path(__file__).parents[2]
EXAMPLES = {"text": 750, "values": 1200, "dicts": 150, "twice": 60}
"""Mutated specs of each test; together more than 2,000."""


def examples(kind: str):
    checks = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example]
    return settings(derandomize=True, database=None, deadline=None, max_examples=EXAMPLES[kind], suppress_health_check=checks)


randomness = st.randoms(use_true_random=False, note_method_calls=False)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz") / "mutant.toml"


def written(file, rng: Random, level: str = ""):
    text, options = mutant(rng, level)
    file.write_bytes(text.encode("utf-8", "surrogatepass"))
    return options


@pytest.mark.parametrize("name", sorted(BASES))
def test_what_is_mutated_is_sound(name, file):
    file.write_text(BASES[name], encoding="utf-8")
    data = tomllib.loads(BASES[name])
    for size in (None, *[n for n, table in data.get("sizes", {}).items() if not table.get("remove")]):
        found, graph = outcome(file, {"size": size})
        assert found == [] and graph is not None


@pytest.mark.parametrize("level", ["text", "values"])
def test_files(file, level):
    ran = []

    @examples(level)
    @given(rng=randomness)
    def run(rng):
        options = written(file, rng, level)
        outcome(file, options)
        ran.append(options)

    run()
    assert len(ran) >= EXAMPLES[level]


@examples("twice")
@given(rng=randomness)
def test_two_runs_say_the_same(file, rng):
    options = written(file, rng)
    first, second = (render(outcome(file, options)[0], "json") for _ in range(2))
    assert first == second


@examples("dicts")
@given(rng=randomness)
def test_dicts(rng):
    """Python values that no file can hold, too."""
    data = tomllib.loads(BASES[rng.choice(sorted(BASES))])
    for _ in range(rng.choice([1, 2, 4])):
        mutate_values(data, rng)
    odd = [None, b"x", object(), {1: 2}, {None: {}}, {"a"}, (1, "a"), value(rng)]
    data[rng.choice(["x", "model", "components", 3, *data])] = rng.choice(odd)
    outcome(data, {})


def test_none_of_this_loads_torch(file):
    file.write_text(BASES["small"], encoding="utf-8")
    code = "import sys; from tests.fuzz.outcome import outcome; outcome(sys.argv[1], {}); print('torch' in sys.modules)"
    made = subprocess.run([sys.executable, "-c", code, str(file)], cwd=ROOT, capture_output=True, text=True, check=True)
    assert made.stdout == "False\n"
