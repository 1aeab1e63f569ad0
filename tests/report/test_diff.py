"""Differences of graphs, section by section."""

from __future__ import annotations

from tests.report.toys import toy
from vlmgraph.report import diff, format_diff


def test_nothing_differs_from_itself() -> None:
    assert diff(toy(), toy()) == []
    assert format_diff([], "a", "b") == "a and b have the same graph\n"


def test_a_wider_encoder() -> None:
    changes = diff(toy(), toy(width=16))
    found = {(c.section, c.what): (c.left, c.right) for c in changes}
    assert found["fields", "vision.width"] == (8, 16)
    assert found["fields", "adapter.d_in"] == (8, 16)
    assert found["parameters", "vision"] == (1636, 3172)
    assert found["types", "vision"] == ("tokens[B, 16, 8]", "tokens[B, 16, 16]")
    assert not any(c.section in ("components", "edges", "programs", "stages") for c in changes)
    text = format_diff(changes, "left", "right")
    assert "  ~ vision: 1,636 -> 3,172 (+1,536)" in text


def test_a_component_more() -> None:
    changes = diff(toy(), toy(extra=True))
    assert [(c.section, c.what, c.left) for c in changes] == [("components", "spare", None), ("parameters", "spare", None)]
    assert "  + spare: connector.toy" in format_diff(changes, "a", "b")
