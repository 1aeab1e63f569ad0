"""What a block declares of its inputs is held against what feeds them."""

from __future__ import annotations

import pytest

import vlmgraph
from vlmgraph.api import elaborate

SPEC = """
vlmgraph = 1
[inputs]
x = "tokens[B, N, 6]"
z = "tokens[B, 3, 8]?"
[outputs]
y = "tokens[B, N, 8]"
[components]
a = {{ type = "connector.linear"{out} }}
c = {{ type = "blocks.pair"{use} }}
[graph]
edges = [{edges}]
[programs]
forward = {{ outputs = ["y"] }}
[blocks.pair]
inputs  = {{ {inputs} }}
outputs = {{ p = "s" }}
edges   = ["[p, q] -> s"]
[blocks.pair.components]
s = {{ type = "op.add" }}
"""
PARTS = {
    "out": ", out = 8",
    "use": "",
    "edges": '"x -> a -> c.p", "z -> op.normalize -> c.q", "c.p -> y"',
    "inputs": 'p = "tokens[B, N, 8]", q = "tokens[B, M, 8]?"',
}
JUST_P = {"edges": '"x -> a -> c.p", "z -> op.normalize", "c.p -> y"'}


def check(tmp_path, **change):
    path = tmp_path / "spec.toml"
    path.write_text(SPEC.format(**{**PARTS, **JUST_P, **change}), encoding="utf-8")
    return vlmgraph.check(path)


@pytest.mark.parametrize(
    ("inputs", "code", "said"),
    [
        ('p = "tokens[B, N, 7]", q = "tokens[B, N, 7]?"', "VG0405", "a is tokens[B, N, 8], but c.p is declared tokens[B, N, 7]"),
        ('p = "image[B, 3, N, 8]", q = "tokens[B, N, 8]?"', "VG0403", "a is tokens[B, N, 8], but c.p is declared image[B, 3, N, 8]"),
        ('p = "tokens[B, M, N, 8]", q = "tokens[B, N, 8]?"', "VG0404", "a is tokens[B, N, 8], but c.p is declared tokens[B, M, N, 8]"),
        ('p = "tokens[B, 4, 8]", q = "tokens[B, N, 8]?"', "VG0406", "a is tokens[B, N, 8], but c.p is declared tokens[B, 4, 8]"),
    ],
)
def test_both_parties_are_shown(tmp_path, inputs, code, said):
    (found,) = check(tmp_path, inputs=inputs)
    lines = SPEC.format(**{**PARTS, **JUST_P, "inputs": inputs}).splitlines()
    assert (found.code, found.message) == (code, said)
    assert lines[found.primary.span.line - 1].startswith("edges = [") and found.secondary[0].text == "declared here"
    assert lines[found.secondary[0].span.line - 1].startswith("inputs  = ")


def test_a_name_is_one_length_in_all_inputs_of_a_use(tmp_path):
    both = {"edges": PARTS["edges"], "inputs": 'p = "tokens[B, N, 8]", q = "tokens[B, N, 8]?"'}
    (found,) = check(tmp_path, **both)
    assert found.code == "VG0406" and "but c.q is declared tokens[B, N, 8]" in found.message
    assert check(tmp_path, inputs='p = "tokens[B, K, w]", q = "tokens[B, L, w]?"') == []


def test_a_declared_width_decides_what_nothing_else_does(tmp_path):
    (tmp_path / "s.toml").write_text(SPEC.format(**{**PARTS, **JUST_P, "out": ""}), encoding="utf-8")
    assert elaborate(tmp_path / "s.toml").components["a"].out == 8


def test_fields_of_a_use_and_rows_of_them(tmp_path):
    inputs = {"inputs": 'p = "tokens[B, N, $w]", q = "tokens[B, N, $w]?"'}
    assert check(tmp_path, use=", w = 8", **{**inputs, "inputs": inputs["inputs"] + " }\nfields = { w = 7"}) == []
    (found,) = check(tmp_path, use=", repeat = 3", **{**inputs, "inputs": inputs["inputs"] + " }\nfields = { w = 7"})
    assert found.code == "VG0405" and found.message == "a is tokens[B, N, 8], but c.0.p is declared tokens[B, N, 7]"


def test_leading_dims_fold_and_lists_have_their_length(tmp_path):
    assert check(tmp_path, inputs='p = "tokens[N, 8]", q = "tokens[N, 8]?"') == []
    listed = {"edges": '"x -> a", "[a, a, a] -> c.p -> y", "z -> op.normalize"'}
    (found,) = check(tmp_path, inputs='p = "tokens[B, K, 8]*2", q = "tokens[B, K, 8]?"', **listed)
    assert found.code == "VG0306" and found.message == "c.p takes 2 values, 3 are given"
