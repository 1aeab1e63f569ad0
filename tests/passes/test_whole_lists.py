"""Joined channels need every part: a program without one of them has none of what follows."""

from __future__ import annotations

import pytest

from vlmgraph.components.op.tokens import Concat
from vlmgraph.ir.graph import Graph, Node, Program
from vlmgraph.ir.types import parse_type
from vlmgraph.passes.slice import MissingInput, slice_program


def graph(axis: str) -> Graph:
    inputs = {"a": parse_type("tokens[B, 3, 4]?"), "b": parse_type("tokens[B, 3, 4]?")}
    node = Node("join", component="join", inputs={"x": ("a", "b")}, outputs={"out": parse_type("tokens[B, 3, 8]")})
    return Graph("lists", inputs, {"join": Concat(axis=axis)}, (node,), programs={"forward": Program(("join",))})  # type: ignore[arg-type]


def test_channels() -> None:
    assert slice_program(graph("channels"), "forward", {"a", "b"}).nodes[0].inputs == {"x": ("a", "b")}
    with pytest.raises(MissingInput):
        slice_program(graph("channels"), "forward", {"b"})


def test_tokens_do_without() -> None:
    assert slice_program(graph("tokens"), "forward", {"b"}).nodes[0].inputs == {"x": ("b",)}
