"""Renderers: places, carets, safety, and the forms for programs."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from vlmgraph.diagnostics import Diagnostic, Label, Span
from vlmgraph.diagnostics.render import FORMATS, render


@pytest.fixture
def file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.toml").write_text('one = 1\n\ttwo = "zwei"\nthree = "東京" # 3\nfour = 4\n', encoding="utf-8")
    return "a.toml"


def span(file, line, start, end):
    return Span(file, line, start, line, end)


def test_primary_and_secondary_labels_notes_and_fix(file):
    d = Diagnostic(
        "VG0405", "widths disagree", Label(span(file, 4, 1, 5), "48 here"), (Label(span(file, 1, 1, 4), "40 here"),), ("a note",), "mend it"
    )
    assert render([d]) == (
        "error[VG0405]: widths disagree\n"
        " --> a.toml:4:1\n"
        "  |\n"
        "1 | one = 1\n"
        "  | --- 40 here\n"
        "...\n"
        "4 | four = 4\n"
        "  | ^^^^ 48 here\n"
        "  |\n"
        "  = note: a note\n"
        "  = help: mend it\n"
        "\n"
        "1 error; `vlmgraph explain VG0405` tells more\n"
    )


def carets(text):
    rows = text.splitlines()
    i = next(i for i, row in enumerate(rows) if "^" in row)
    return rows[i - 1], rows[i]


def test_tabs_and_wide_characters_keep_the_caret_in_place(file):
    source, marks = carets(render([Diagnostic("VG0101", "m", Label(span(file, 2, 2, 5)))]))
    assert source[marks.index("^") : marks.rindex("^") + 1] == "two"
    source, marks = carets(render([Diagnostic("VG0101", "m", Label(span(file, 3, 10, 12)))]))
    assert marks.count("^") == 4 and marks.index("^") == source.index("東")


def test_two_files(file, tmp_path):
    (tmp_path / "b.toml").write_text("base = 1\n")
    text = render([Diagnostic("VG0107", "m", Label(span(file, 1, 1, 4)), (Label(span("b.toml", 1, 1, 5), "from here"),))])
    assert " --> a.toml:1:1\n" in text and " ::: b.toml:1:1\n" in text and "---- from here" in text


def test_a_place_outside_the_file_or_in_no_file(file):
    for place in (span(file, 99, 1, 2), span(file, 1, 500, 900), span("gone.toml", 3, 1, 2), span("\0", 1, 1, 2)):
        assert "error[VG0001]: m" in render([Diagnostic("VG0001", "m", Label(place))])


def test_a_span_of_several_lines_is_marked_on_its_first(file):
    _, marks = carets(render([Diagnostic("VG0103", "m", Label(Span(file, 1, 5, 3, 2)))]))
    assert marks.count("^") == len("= 1")


def test_nothing_forges_what_the_terminal_shows(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.toml").write_bytes(b"a = '\x1b[2J\xe2\x80\xae'\n")
    text = render([Diagnostic("VG0101", "\x1b]0;title\x07\r\nerror[VG0000]: forged", Label(span("x.toml", 1, 1, 2), "\x9b"))])
    assert all(c.isprintable() or c == "\n" for c in text)
    assert not any(line.startswith("error[VG0000]") for line in text.splitlines())


def test_very_long_lines_are_cut_around_the_mark(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.toml").write_text("a = [" + "1, " * 3000 + "here, " + "2, " * 3000 + "]\n")
    source, marks = carets(render([Diagnostic("VG0001", "m", Label(span("x.toml", 1, 9006, 9010)))]))
    assert source[marks.index("^") : marks.index("^") + 4] == "here" and len(source) < 200


def test_colour_only_when_asked_for(file):
    d = Diagnostic("VG0101", "m", Label(span(file, 1, 1, 4)), severity="warning")
    assert "\x1b" not in render([d]) and "\x1b[1;33mwarning[VG0101]" in render([d], color=True)


def test_one_line_each(file):
    found = [Diagnostic("VG0101", "m", Label(span(file, 1, 2, 4))), Diagnostic("VG0107", "n", severity="warning")]
    assert render(found, "concise") == "a.toml:1:2: error[VG0101]: m\nwarning[VG0107]: n\n"


def test_json_carries_everything(file):
    d = Diagnostic("VG0101", "m", Label(span(file, 1, 2, 4), "x"), (Label(span(file, 2, 1, 2), "y"),), ("n",), "f")
    (made,) = json.loads(render([d], "json"))
    assert made["primary"] == {"file": "a.toml", "start": {"line": 1, "column": 2}, "end": {"line": 1, "column": 4}, "text": "x"}
    assert (made["code"], made["title"], made["notes"], made["fix"], made["severity"]) == ("VG0101", "unknown key", ["n"], "f", "error")
    assert made["secondary"][0]["text"] == "y"


def test_sarif_points_its_results_at_its_rules(file):
    found = [Diagnostic("VG0405", "m", Label(span(file, 1, 2, 4))), Diagnostic("VG0101", "n", severity="warning")]
    (run,) = json.loads(render(found, "sarif"))["runs"]
    rules = run["tool"]["driver"]["rules"]
    for d, result in zip(found, run["results"]):
        assert rules[result["ruleIndex"]]["id"] == result["ruleId"] == d.code
        assert result["level"] == d.severity
    region = run["results"][0]["locations"][0]["physicalLocation"]["region"]
    assert region == {"startLine": 1, "startColumn": 2, "endLine": 1, "endColumn": 4}


def test_github_escapes_what_would_end_a_command(file):
    d = Diagnostic("VG0101", "100%\n::error::forged", Label(span("a,b:c.toml", 1, 2, 4)))
    text = render([d], "github")
    assert text == "::error file=a%2Cb%3Ac.toml,line=1,col=2,endLine=1,endColumn=4,title=VG0101::100%25%0A::error::forged\n"


def test_no_findings_and_unknown_forms():
    assert render([]) == "" == render([], "concise") and json.loads(render([], "json")) == []
    with pytest.raises(ValueError, match="human, concise"):
        render([], "xml")
    assert len(FORMATS) == 5


def test_rendering_loads_neither_rich_nor_torch():
    code = "import sys, vlmgraph.diagnostics.render, vlmgraph.spec; print([m for m in ('rich', 'torch', 'numpy') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
