"""Outputs that exist only when their input is fed: what needs them is left out of the program."""

from __future__ import annotations

import torch
from torch import nn

from vlmgraph.components.connector.linear import LinearConnector
from vlmgraph.components.connector.qformer import QFormer
from vlmgraph.ir.graph import Graph, Node, Program
from vlmgraph.ir.types import parse_type
from vlmgraph.lower.program import lower_program
from vlmgraph.passes.slice import slice_program


def make():
    qformer = QFormer(d_image=6, queries=3, layers=2, width=8, heads=2, mlp=10, vocab=20, max_positions=9)
    parts = {"qformer": qformer, "image_proj": LinearConnector(d_in=8, out=5), "text_proj": LinearConnector(d_in=8, out=5)}
    outputs = {"queries": parse_type("tokens[B, 3, 8]"), "text": parse_type("tokens[C, T, 8]")}
    nodes = (
        Node("alone", component="qformer", inputs={"image": "image", "ids": "ids"}, outputs=outputs, options={"mask": "unimodal"}),
        Node("image_proj", component="image_proj", inputs={"x": "alone"}, outputs={"out": parse_type("tokens[B, 3, 5]")}),
        Node("text_proj", component="text_proj", inputs={"x": "alone.text"}, outputs={"out": parse_type("tokens[C, T, 5]")}),
    )
    inputs = {"image": parse_type("tokens[B, V, 6]?"), "ids": parse_type("ids[C, T]?")}
    graph = Graph("both", inputs, parts, nodes, programs={"contrast": Program(("image_proj", "text_proj"))})
    root = nn.Module()
    for name, config in parts.items():
        root.add_module(name, config.build())
    return graph, root.eval()


def test_each_side_runs_by_itself():
    graph, root = make()
    given = {"image": torch.randn(2, 4, 6), "ids": torch.randint(0, 20, (3, 7))}
    both = slice_program(graph, "contrast", given)
    wanted = lower_program(graph, both, root)(*given.values())
    assert set(wanted) == {"image_proj", "text_proj"}
    for name, output in (("image", "image_proj"), ("ids", "text_proj")):
        program = slice_program(graph, "contrast", {name})
        assert set(program.outputs) == {output} and {n.id for n in program.nodes} == {"alone", output}
        out = lower_program(graph, program, root)(given[name])
        torch.testing.assert_close(out, {output: wanted[output]}, rtol=1e-5, atol=1e-6)
