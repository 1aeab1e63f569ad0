"""Where keys and values stand: the place of each is the text of each, in whole and in broken files."""

from __future__ import annotations

import pytest

from vlmgraph.spec.toml import read_toml

TEXT = """\
# a comment = "no key"
top = 1
"quoted key" = 'literal'
dotted.inner . "last" = [1, "two",
  { three = 3 },   # within a list
  [4, 5]]
[table]
text = \"\"\"
two "lines"
\"\"\"
inline = { a = 1, b.c = true, "é" = [] }
date = 1979-05-27 07:32:00
\t tabbed\t=\t-0.5e-3
[ table . "in.ner" ]
x = "\\u00e9 \\" # no comment"
[[many]]
name = "first"
[[many]]
name = "second"
sub = { k = 1 }
[[many.deep]]
z = 1
[many.under]
y = '''a'''
"""


def texts(document, part):
    lines = document.text.split("\n")

    def cut(span):
        if span.line == span.end_line:
            return lines[span.line - 1][span.column - 1 : span.end_column - 1]
        middle = lines[span.line : span.end_line - 1]
        return "\n".join([lines[span.line - 1][span.column - 1 :], *middle, lines[span.end_line - 1][: span.end_column - 1]])

    return {path: cut(getattr(places, part)) for path, places in document.spans.items()}


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("start", ["", "\ufeff"])
def test_every_key_and_value_is_found_where_it_stands(newline, start):
    document = read_toml(start + TEXT.replace("\n", newline), "a.toml")
    assert document.diagnostics == []
    keys = texts(document, "key")
    values = {path: text.replace("\r\n", "\n") for path, text in texts(document, "value").items()}
    expected = {
        ("top",): ("top", "1"),
        ("quoted key",): ('"quoted key"', "'literal'"),
        ("dotted", "inner", "last", 1): ('"two"', '"two"'),
        ("dotted", "inner", "last", 2, "three"): ("three", "3"),
        ("dotted", "inner", "last", 3): ("[4, 5]", "[4, 5]"),
        ("dotted", "inner", "last", 3, 1): ("5", "5"),
        ("table",): ("table", "[table]"),
        ("table", "text"): ("text", '"""\ntwo "lines"\n"""'),
        ("table", "inline"): ("inline", '{ a = 1, b.c = true, "é" = [] }'),
        ("table", "inline", "b", "c"): ("c", "true"),
        ("table", "inline", "é"): ('"é"', "[]"),
        ("table", "date"): ("date", "1979-05-27 07:32:00"),
        ("table", "tabbed"): ("tabbed", "-0.5e-3"),
        ("table", "in.ner", "x"): ("x", '"\\u00e9 \\" # no comment"'),
        ("many", 0): ("many", "[[many]]"),
        ("many", 1, "name"): ("name", '"second"'),
        ("many", 1, "sub", "k"): ("k", "1"),
        ("many", 1, "deep", 0, "z"): ("z", "1"),
        ("many", 1, "under", "y"): ("y", "'''a'''"),
    }
    for path, (key, value) in expected.items():
        assert (keys[path], values[path]) == (key, value), path
    lines = TEXT.split("\n")
    assert document.spans["many", 1].key.line == 1 + [i for i, line in enumerate(lines) if line == "[[many]]"][1]


def test_every_value_has_a_place():
    document = read_toml(TEXT, "a.toml")

    def paths(value, path=()):
        if path:
            yield path
        for key, child in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
            yield from paths(child, (*path, key))

    assert set(paths(document.data)) <= set(document.spans)


@pytest.mark.parametrize(
    ("fault", "line", "column", "words"),
    [
        ('name = "open', 25, 13, "not closed"),
        ("name = ", 25, 8, "value"),
        ("= 3", 25, 1, ""),
        ("name 3", 25, 6, ""),
        ("name = 3 4", 25, 10, ""),
        ("top = [1,, 2]", 25, 10, ""),
        ("[table", 25, 7, ""),
        ("x = 0x", 25, 6, ""),
        ("y = 1", 25, 1, "twice"),
        ("[table]", 25, 2, "twice"),
        ('z = "\\q"', 25, 8, ""),
        ("z = 1_", 25, 6, ""),
    ],
)
def test_a_broken_file_keeps_the_places_before_its_fault(fault, line, column, words):
    document = read_toml(TEXT + fault + "\n[after]\nb = 1\n", "a.toml")
    (found,) = document.diagnostics
    assert (found.primary.span.line, found.primary.span.column) == (line, column), found
    assert words in found.message
    lines = TEXT.split("\n")
    assert document.spans["many", 1, "name"].key.line == lines.index('name = "second"') + 1
    assert document.spans["table", "inline", "b", "c"].value.line == next(i for i, x in enumerate(lines) if "b.c" in x) + 1
    if words == "twice":
        assert found.secondary and found.secondary[0].span.line < line


def test_values_and_places_agree_on_arrays_of_tables_inside_arrays_of_tables():
    text = "[[a]]\n[[a.b]]\nc = 1\n[[a.b]]\nc = 2\n[[a]]\n[[a.b]]\nc = 3\n"
    document = read_toml(text, "a.toml")
    where = {path: span.value.line for path, span in document.spans.items() if path[-1] == "c"}
    assert where == {("a", 0, "b", 0, "c"): 3, ("a", 0, "b", 1, "c"): 5, ("a", 1, "b", 0, "c"): 8}
    for path, line in where.items():
        value = document.data
        for key in path:
            value = value[key]
        assert f"c = {value}" == text.split("\n")[line - 1]


@pytest.mark.parametrize("later", ["a.b.d = 2", "[a.b.d]\ne = 1", "a.l.d = 2"])
def test_what_is_written_in_one_piece_cannot_be_added_to(later):
    document = read_toml("a = { b = { c = 1 }, l = [1] }\n" + later, "a.toml")
    (found,) = document.diagnostics
    assert "in one piece" in found.message or "whole" in found.message
    assert found.primary.span.line == 2 and found.secondary[0].span.line == 1 and found.fix
