"""Numbers of a report against sums done by hand."""

from __future__ import annotations

import json

import pytest

from tests.report.toys import toy
from vlmgraph.passes.expect import count_parameters
from vlmgraph.report import report
from vlmgraph.report.html import render_html
from vlmgraph.report.measure import addressed
from vlmgraph.report.numbers import operations, short, size


def test_parameters_by_component_and_total() -> None:
    made = report(toy(extra=True))
    assert {p.id: p.total for p in made.parts} == {
        "vision": 1636, "adapter": 32, "embed": 40, "splice": 0, "llm": 1507, "head": 40, "lm": 0, "spare": 32,
    }  # fmt: skip
    assert made.total == 1636 + 32 + 40 + 1507 + 40, "a component that no node uses does not count"
    assert [p.id for p in made.parts if not p.used] == ["spare"]


def test_operations_of_each_program() -> None:
    made = report(toy(), dims={"B": 2, "T": 100})
    forward, encode = made.programs
    vision, adapter, llm = 2 * 16 * 2 * 3 * 64 * 8, 2 * 16 * 2 * 8 * 4, 100 * 100 * 3 + 100 * 2000
    assert forward.by_node == {"vision": vision, "adapter": adapter, "llm": llm}
    assert forward.flops == vision + adapter + llm
    assert encode.flops == vision + adapter and encode.inputs.keys() == {"pixel_values"}
    assert set(forward.uncounted) == {"embed", "head"}, "components with parameters but without a formula are named"


def test_memory() -> None:
    made = report(toy(), dtype="float16", dims={"B": 1, "T": 20})
    forward, encode = made.programs
    assert encode.values_bytes == 2 * (16 * 8 + 16 * 4) and encode.peak_bytes == encode.values_bytes
    assert forward.peak_bytes is not None and forward.values_bytes is not None and forward.peak_bytes < forward.values_bytes
    assert forward.cache_bytes_per_token == 24 and encode.cache_bytes_per_token == 0
    assert made.json()["programs"][0]["cache_bytes"] == 24 * 20


def test_a_prompt_is_as_long_as_its_visual_tokens_and_a_text() -> None:
    assert report(toy()).dims == {"B": 1, "T": 16 + 64}


def test_visual_tokens() -> None:
    made = report(toy(), images=[(640, 480)])
    assert made.visual_tokens == {"splice.vision": "16"}
    assert made.by_image == ({"width": 640, "height": 480, "tokens": {"splice.vision": 16}},)


def test_stages() -> None:
    stages = {s.stage: s for s in report(toy()).stages}
    assert stages["align"].by_component == {"adapter": 32}
    assert stages["tune"].trainable == 32 + 500
    assert stages["all"].by_component == {"llm": 507, "head": 40}


def test_addresses() -> None:
    graph = toy()
    counts = count_parameters(graph)
    assert addressed(graph, counts, "llm.vision") == {("llm", "vision")}
    assert addressed(graph, counts, "llm.nothing") is None
    assert addressed(graph, counts, "nothing") is None


def test_expected_numbers_are_compared() -> None:
    rows = {row.what: (row.expected, row.actual) for row in report(toy()).expected}
    assert rows["total"][0] == rows["total"][1]
    assert rows["llm.vision"] == (501, 500)
    assert rows["visual_tokens"] == (16, 16)


def test_json_keys_are_stable() -> None:
    data = json.loads(json.dumps(report(toy()).json()))
    assert list(data) == ["format", "model", "dtype", "dims", "parameters", "programs", "visual_tokens", "expect", "stages"]
    assert list(data["parameters"]["components"][0]) == ["id", "kind", "role", "total", "parts", "used"]
    assert list(data["programs"][0]) == [
        "name", "inputs", "outputs", "flops", "flops_formula", "flops_by_node", "uncounted", "values_bytes", "peak_values_bytes",
        "cache_bytes_per_token", "cache_bytes",
    ]  # fmt: skip
    assert data["stages"][0] == {
        "name": "align",
        "trainable": 32,
        "share": round(32 / 3255, 6),
        "by_component": {"adapter": 32},
        "uncounted": [],
    }


def test_html_is_offline_and_escaped() -> None:
    text = render_html(report(toy()), "<svg></svg>", summary="<script>alert(1)</script>")
    assert "<script>alert" not in text and "&lt;script&gt;alert" in text
    assert "http://" not in text and "https://" not in text and "@import" not in text
    assert "prefers-color-scheme" in text and "1,636" in text and "<svg></svg>" in text


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (short(17_639_685_376), "17.64 B"),
        (short(999), "999"),
        (size(34_500_000_000), "34.50 GB"),
        (size(12), "12 B"),
        (operations(2_000_000_000_000), "2.00 TFLOP"),
        (operations(7), "7 FLOP"),
    ],
)
def test_numbers_for_people(text: str, wanted: str) -> None:
    assert text == wanted
