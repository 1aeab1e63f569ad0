"""A spec is data: nothing in it becomes code."""

from __future__ import annotations

import ast

import pytest
import torch
from vlmgraph.codegen.printer import flat
from vlmgraph.codegen.statements import docstring
from vlmgraph.codegen.trees import NotLiteral, constant, name

import vlmgraph
from vlmgraph import codegen
from vlmgraph.diagnostics import DiagnosticError

HOSTILE = (
    '"""\nimport os; os.system("x")\n"""',
    '""""',
    'ends with a quote"',
    'ends with a backslash and a quote\\"',
    "ends with a backslash\\",
    "\\",
    "\\\\\\",
    'mixed \\""" and \\\\""" and ""',
    "'''; __import__('os').system('x') #",
    "{{ 7 * 7 }} {% for x in y %} {# no #}",
    "{__import__('os').system('x')}",
    "\x00 \x1b[31m \u2028 \u2029 \x85 \x0c \r\n \t end",
    "é → 日本 \U0001f600 \ud800",
    "x" * 500,
    ("long words and more " * 40) + '"""' + "\\" * 7,
)


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("indent", [0, 4, 8])
def test_a_docstring_stays_one_string(text, indent):
    body = "\n".join(docstring(text, indent))
    source = "".join(f"{' ' * i}if 1:\n" for i in range(0, indent, 4)) + body + "\n"
    tree = ast.parse(source)
    while isinstance(tree.body[0], ast.If):
        tree = tree.body[0]
    assert len(tree.body) == 1
    assert isinstance(tree.body[0], ast.Expr)
    assert isinstance(tree.body[0].value, ast.Constant)
    assert isinstance(tree.body[0].value.value, str)
    assert source.isascii() or "\u2028" not in source


@pytest.mark.parametrize("text", HOSTILE)
def test_a_string_literal_is_that_string(text):
    assert ast.literal_eval(flat(constant(text))) == text
    joined = ast.JoinedStr(values=[ast.Constant(value=text), ast.FormattedValue(value=name("x"), conversion=-1)])
    assert eval(flat(joined), {"x": 5, "__builtins__": {}}) == text + "5"


def test_only_literals_are_literals():
    class Sly(str):
        def __repr__(self):
            return "__import__('os')"

    class Number(int):
        def __repr__(self):
            return "__import__('os')"

    for value in (Sly("x"), Number(3), object(), print, [Sly("x")], {"a": Number(1)}):
        with pytest.raises(NotLiteral):
            constant(value)
    with pytest.raises(AssertionError):
        name("x; import os")


def hostile_spec(text: str) -> dict:
    return {
        "vlmgraph": 1,
        "extends": "llava-1.5",
        "model": {"name": text, "summary": text, "paper": text, "family": text},
        "weights": {"hub": text},
    }


@pytest.fixture(scope="module")
def plain():
    return bare(codegen.source(vlmgraph.compile(vlmgraph.read_spec("llava-1.5", size="tiny"), device="meta")))


@pytest.mark.parametrize("text", [HOSTILE[i] for i in (0, 3, 4, 7, 10, 11)])
def test_texts_of_a_spec_stay_in_docstrings(text, plain):
    """The file of a spec full of such texts is the file of the plain one, its docstrings aside."""
    made = codegen.source(vlmgraph.compile(vlmgraph.read_spec(hostile_spec(text), size="tiny"), device="meta"))
    assert bare(made) == plain


def bare(text: str) -> str:
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(node) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return ast.dump(tree)


@pytest.mark.parametrize("bad", ["os.system", "a b", "class", "x=1", "__class__", "a;b", "", "import"])
def test_names_that_are_no_names_never_reach_the_file(bad):
    spec = {
        "vlmgraph": 1,
        "inputs": {"pixel_values": "image[B, 3, 42, 42]"},
        "outputs": {"out": "tokens[B, N, 40]"},
        "components": {bad: {"type": "vision.vit", "image_size": 42, "patch": 14, "layers": 1, "width": 40, "heads": 5, "mlp": 72}},
        "graph": {"edges": [f"pixel_values -> {bad} -> out"]},
        "programs": {"forward": {"outputs": ["out"]}},
    }
    with pytest.raises(DiagnosticError):
        codegen.source(vlmgraph.compile(spec, device="meta"))


def test_a_dtype_is_written_by_name():
    assert flat(constant(torch.float16)) == "torch.float16"
