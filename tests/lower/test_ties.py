"""Ties of whole parts: which parameters become one, what is counted, what does not fit."""

from __future__ import annotations

from typing import Any

import pytest

import vlmgraph
from vlmgraph.api import elaborate
from vlmgraph.diagnostics import DiagnosticError
from vlmgraph.diagnostics import codes as C
from vlmgraph.lower.build import tie_pairs
from vlmgraph.passes.expect import count_parameters, parameters_of

STACK = {"layers": 2, "width": 8, "heads": 2, "mlp": 12, "cross": "attention.cross", "order": "post"}


def spec(*ties: str, **other: Any) -> dict[str, Any]:
    """An encoder that reads media and a decoder that reads the same."""
    return {
        "vlmgraph": 1,
        "model": {"name": "two"},
        "inputs": {"x": "tokens[B, N, 8]", "media": "tokens[B, M, 6]"},
        "outputs": {"y": "tokens[B, N, 8]", "z": "tokens[B, N, 8]"},
        "components": {
            "first": {"type": "text.transformer", **STACK},
            "second": {"type": "text.transformer", **STACK, "mask": "causal", **other},
        },
        "graph": {"edges": ["x -> first -> y", "x -> second -> z", "media -> [first.media, second.media]"], "ties": list(ties)},
        "programs": {"forward": {"outputs": ["y", "z"]}},
    }


@pytest.mark.parametrize("device", ["meta", "cpu"])
def test_parts_are_shared_with_their_norms_and_nothing_else(device: str) -> None:
    model = vlmgraph.compile(spec("second.cross = first.cross", "second.mlp = first.mlp"), device=device)
    names = [name for name, _ in model.first.named_parameters()]
    assert len(names) == 2 * (8 + 8 + 4 + 3 * 2)
    for name in names:
        shared = model.first.get_parameter(name) is model.second.get_parameter(name)
        assert shared == any(part in name.split(".") for part in ("cross", "mlp")), name


def test_what_is_shared_counts_once() -> None:
    graph = elaborate(vlmgraph.read_spec(spec("second.cross = first.cross", "second.mlp = first.mlp")))
    counts = count_parameters(graph)
    own = sum(counts["first"][part] for part in ("attention", "norms.attention"))
    assert parameters_of(graph, counts, "second") == own == 2 * (4 * (8 * 8 + 8) + 16)
    model = vlmgraph.compile(spec("second.cross = first.cross", "second.mlp = first.mlp"), device="meta")
    assert parameters_of(graph, counts, "total") == sum(p.numel() for p in model.parameters())


def test_one_layer_of_a_part() -> None:
    model = vlmgraph.compile(spec("second.layers.1.mlp = first.layers.1.mlp"), device="meta")
    assert model.second.layers[1].mlp.fc1.weight is model.first.layers[1].mlp.fc1.weight
    assert model.second.layers[0].mlp.fc1.weight is not model.first.layers[0].mlp.fc1.weight
    assert tie_pairs(model, "second.layers.1.mlp", "first.layers.1.mlp")[0] == (
        "second.layers.1.norms.mlp.weight",
        "first.layers.1.norms.mlp.weight",
    )


@pytest.mark.parametrize(
    ("tie", "other", "code", "said"),
    [
        ("second.mlp = first.mlp", {"layers": 3}, C.BAD_TIE, "layers.2."),
        ("second.mlp = first.mlp", {"mlp": 13}, C.TIE_SHAPES, "second.layers.0.mlp.fc1.weight"),
        ("second.gate = first.mlp", {}, C.BAD_TIE, "'second.gate' means no parameter"),
        ("second.mlp = first.layers.0.mlp.fc1.weight", {}, C.BAD_TIE, "no counterparts"),
    ],
)
def test_what_does_not_fit_is_a_finding(tie: str, other: dict[str, Any], code: str, said: str) -> None:
    with pytest.raises(DiagnosticError) as caught:
        vlmgraph.compile(spec(tie, **other), device="meta")
    (found,) = caught.value.diagnostics
    assert found.code == code and said in found.message
