"""Parameters that take part for a token: what a router leaves out does not count."""

from __future__ import annotations

import io

import pytest

import vlmgraph
from tests.architectures.common import measured
from vlmgraph.diagnostics import codes
from vlmgraph.report.text import print_report


@pytest.mark.parametrize(
    ("name", "size", "active"),
    [("minimax-text-01", None, 45_944_920_064 + 2 * 200_064 * 6144), ("aria", "tiny", None), ("llava-1.5", "tiny", None)],
)
def test_experts_that_do_not_run_are_left_out(name: str, size: str | None, active: int | None) -> None:
    """Of 32 experts 30 in 80 layers; of five three in two layers; of a dense model nothing."""
    report = measured(name, size)
    idle = {"aria": 2 * 3 * 3 * 48 * 20, "llava-1.5": 0}.get(name, 0)
    assert report.active == (report.total - idle if active is None else active)
    assert report.json()["parameters"]["active"] == report.active
    said = io.StringIO()
    print_report(report, said)
    assert ("for a token" in said.getvalue()) == (report.active != report.total)


def test_a_published_number_is_held_against_them() -> None:
    spec = {"extends": "aria", "expect": {"active_params": {"llm": 3_601_349_121, "tower": 5}}}
    found = vlmgraph.check(spec)
    assert [d.code for d in found] == [codes.EXPECT_PARAMS] * 2
    assert "llm has 3,601,349,120 parameters that take part for a token, 3,601,349,121 are expected" in found[0].message
    assert "'tower' addresses nothing" in found[1].message
