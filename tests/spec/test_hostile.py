"""Specs written to do harm: files that are none, names that are paths, text that a terminal would obey."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import pytest

import vlmgraph
from vlmgraph.diagnostics import codes as C
from vlmgraph.diagnostics.render import FORMATS, render
from vlmgraph.spec.toml import MAX_BYTES

SOUND = """vlmgraph = 1
[inputs]
x = "tokens[B, N, 8]"
[outputs]
out = "tokens[B, N, 4]"
[components]
proj = { type = "connector.linear", out = 4 }
[graph]
edges = ["x -> proj -> out"]
"""


def codes(source, **options):
    return [d.code for d in vlmgraph.check(vlmgraph.read_spec(source, **options))]


# ---- files


@pytest.mark.parametrize("text", ["\ufeff" + SOUND, SOUND.replace("\n", "\r\n"), SOUND.rstrip("\n"), "\ufeff\r\n" + SOUND])
def test_byte_order_marks_and_line_ends_of_other_systems(tmp_path, text):
    (tmp_path / "a.toml").write_bytes(text.encode())
    assert codes(tmp_path / "a.toml") == []
    (tmp_path / "b.toml").write_bytes(text.replace("proj ->", "porj ->").encode())
    (found,) = vlmgraph.check(tmp_path / "b.toml")
    line = text.count("\n", 0, text.index("proj ->")) + 1
    start = text.index("proj ->") - text.rindex("\n", 0, text.index("proj ->"))
    assert (found.primary.span.line, found.primary.span.column) == (line, start)
    assert "porj" in render([found]) and "\r" not in render([found])


def test_files_that_are_no_specs(tmp_path):
    made = {name: tmp_path / f"{name}.toml" for name in ("latin", "utf16", "null", "big", "folder", "loop", "dangling", "absent", "empty")}
    made["latin"].write_bytes('vlmgraph = 1\n[model]\nname = "é"\n'.encode("latin-1"))
    made["utf16"].write_bytes(SOUND.encode("utf-16"))
    made["null"].write_bytes(b"vlmgraph = 1\n\x00\n")
    with made["big"].open("wb") as file:
        file.truncate(MAX_BYTES + 1)
    made["folder"].mkdir()
    made["loop"].symlink_to(made["loop"])
    made["dangling"].symlink_to(tmp_path / "nowhere")
    made["empty"].write_bytes(b"")
    expected = {"latin": C.NOT_TEXT, "utf16": C.NOT_TEXT, "null": C.BAD_TOML, "big": C.BAD_TOML, "empty": C.MISSING_KEY}
    for name, path in made.items():
        found = vlmgraph.check(path)
        assert found[0].code == expected.get(name, C.NOT_FOUND), (name, found)
        assert str(path) in render(found, "json") or path.name in render(found, "json")
    (latin,) = vlmgraph.check(made["latin"])
    assert (latin.primary.span.line, latin.primary.span.column) == (3, 9) and "0xe9" in latin.primary.text


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe_is_not_waited_for(tmp_path):
    """Opening a pipe that nobody writes to would hang for ever; of one that is written to there are no places to show."""
    os.mkfifo(tmp_path / "pipe.toml")
    found = []
    thread = threading.Thread(target=lambda: found.extend(vlmgraph.check(tmp_path / "pipe.toml")), daemon=True)
    thread.start()
    thread.join(5)
    assert not thread.is_alive() and [d.code for d in found] == [C.NOT_FOUND]


def test_devices_are_not_read():
    assert codes("/dev/zero") == [C.NOT_FOUND] or os.name == "nt"


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="the superuser may read everything")
def test_a_file_that_may_not_be_read(tmp_path):
    (tmp_path / "a.toml").write_text(SOUND)
    (tmp_path / "a.toml").chmod(0)
    assert codes(tmp_path / "a.toml") == [C.NOT_FOUND]


# ---- extends


@pytest.mark.parametrize(
    "name",
    [
        "../secret",
        "/etc/passwd",
        "./a",
        "a/b",
        "a\\b",
        "..",
        ".",
        "",
        "-",
        "~/a",
        "a\0b",
        "file:///a",
        "a\nb",
        "\u202ea",
        "a" * 200,
        "%2e%2e",
    ],
)
def test_extends_names_a_spec_and_never_a_path(tmp_path, name):
    (tmp_path / "secret.toml").write_text(SOUND)
    (tmp_path / "inner").mkdir()
    source = {"vlmgraph": 1, "extends": name}
    found = vlmgraph.check(vlmgraph.read_spec(source, search=[tmp_path / "inner"]))
    assert found[0].code == C.BAD_EXTENDS, found
    assert all(line.isprintable() for format in FORMATS for line in render(found, format).split("\n"))


def test_circles_through_links_and_names(tmp_path):
    (tmp_path / "a.toml").write_text('vlmgraph = 1\nextends = "b"\n')
    (tmp_path / "b.toml").symlink_to(tmp_path / "a.toml")
    assert codes(tmp_path / "a.toml") == [C.EXTENDS_CYCLE]
    for i in range(30):
        (tmp_path / f"c{i}.toml").write_text(f'vlmgraph = 1\nextends = "c{i + 1}"\n')
    assert C.BAD_EXTENDS in codes(tmp_path / "c0.toml")
    (tmp_path / "p.toml").write_text('vlmgraph = 1\nextends = "q"\n')
    (tmp_path / "q.toml").write_text('vlmgraph = 1\nextends = "r"\n')
    (tmp_path / "r.toml").write_text('vlmgraph = 1\nextends = "p"\n')
    (found,) = vlmgraph.check(tmp_path / "p.toml")
    assert found.code == C.EXTENDS_CYCLE and "p -> q -> r -> p" in found.message


def test_what_is_wrong_in_an_extended_spec_is_shown_there(tmp_path):
    (tmp_path / "base.toml").write_text(SOUND.replace("proj ->", "porj ->"))
    (tmp_path / "a.toml").write_text('vlmgraph = 1\nextends = "base"\n')
    (found,) = vlmgraph.check(tmp_path / "a.toml")
    assert found.primary.span.file.endswith("base.toml") and found.primary.span.line == 9


# ---- names and values

HOSTILE = [
    "../x", "a.b", "a/b", "A", "é", "\u0430dapter", "a b", "", "class", "self", "__init__", "__class__", "0a", "a-b", "forward",
    "state_dict", "training", "\x1b[31m", "\u202ecba", "a\n", "import os", "x" * 65, "print", "modules", "torch", "nn", "None",
]  # fmt: skip


@pytest.mark.parametrize("table", ["components", "nodes", "inputs", "outputs", "programs", "objectives", "blocks"])
def test_names_are_identifiers_of_generated_code_and_nothing_else(table):
    entry = {
        "components": {"type": "op.add"}, "nodes": {"uses": "proj"}, "inputs": "ids[B, T]", "outputs": "ids[B, T]",
        "programs": {"outputs": ["proj"]}, "objectives": {"type": "loss.sigmoid"}, "blocks": {},
    }[table]  # fmt: skip
    taken_by_modules = {"forward", "state_dict", "training", "modules"}
    for name in HOSTILE:
        if table not in ("components", "nodes") and name in taken_by_modules:
            continue
        spec = vlmgraph.read_spec({"vlmgraph": 1, table: {name: entry}})
        assert C.BAD_NAME in [d.code for d in spec.diagnostics], (table, name)
        assert name not in spec.data.get(table, {}), "what has such a name goes no further"


@pytest.mark.parametrize("table", ["sizes", "variants", "stages"])
def test_names_of_overlays_are_no_paths(table):
    for name in ("../x", "a/b", "A", "", ".hidden", "é", "\x1b[31m", "a b", "x" * 65):
        assert C.BAD_NAME in codes({"vlmgraph": 1, table: {name: {}}}), (table, name)


@pytest.mark.parametrize(
    "value", ["../../etc/passwd", "/etc/passwd", "clip\0", "", "\x1b[2J", "a" * 10_000, "__import__('os')", "{{ 7*7 }}", "‮"]
)
def test_presets_types_layouts_and_hubs_are_names(value):
    """Looked up among what is there, never opened, imported or run."""
    spec = {"vlmgraph": 1, "components": {"a": {"type": "vision.vit", "preset": value}, "b": {"type": value}}, "weights": {"layout": value}}
    found = vlmgraph.check(vlmgraph.read_spec(spec))
    assert {d.code for d in found} >= {C.UNKNOWN_PRESET, C.UNKNOWN_COMPONENT}
    assert all(line.isprintable() for format in FORMATS for line in render(found, format).split("\n"))


@pytest.mark.parametrize("value", ["builtins:eval", "os:system", "vlmgraph.nn.mlp:MLP", "vlmgraph.components.base:Config"])
def test_a_type_is_an_exact_registered_name(value):
    assert C.UNKNOWN_COMPONENT in codes({"vlmgraph": 1, "components": {"a": {"type": value}}})


def test_nothing_reaches_the_terminal_raw(tmp_path):
    text = SOUND.replace("proj ->", "proj\x1b[2J ->").replace("# end", "") + '[model]\nname = "\\u001b]0;owned\\u0007"\nsumm\u202eary = 1\n'
    path = tmp_path / "a\x1b[31m.toml"
    path.write_text(text.replace("\x1b", "\\u001b"))
    run = [sys.executable, "-m", "vlmgraph", "check", str(path), "--format"]
    for format in ("human", "json", "github"):
        made = subprocess.run([*run, format], capture_output=True, text=True)
        assert made.returncode == 1 and made.stdout + made.stderr
        assert all(line.isprintable() for line in (made.stdout + made.stderr).split("\n")), format


# ---- sizes


@pytest.mark.parametrize(
    "change",
    [
        {"layers": 10**9}, {"layers": 10**18}, {"width": 10**18, "heads": 1}, {"vocab": 2**62}, {"max_positions": 10**15},
        {"pattern": ["full*9999"] * 1000}, {"pattern": ["full*99999"]},
        {"insert": [{"name": "a", "every": 1, "block": {"type": "block.gated_cross_attention"}}] * 50, "layers": 9999},
    ],
)  # fmt: skip
def test_huge_numbers_are_refused_or_cost_nothing(change):
    from tests.fuzz.outcome import bounded

    llm = {"type": "decoder.transformer", "layers": 2, "width": 16, "heads": 2, "mlp": 16, "vocab": 32, **change}
    with bounded():
        vlmgraph.check(vlmgraph.read_spec({"vlmgraph": 1, "components": {"llm": llm}}))


def test_blocks_that_multiply_are_refused():
    from tests.fuzz.outcome import bounded

    inner = {"inputs": {"x": "tokens[B, N, d]"}, "outputs": ["c"], "edges": ["x -> c"]}
    blocks = {"b0": {**inner, "components": {"c": {"type": "norm.layer"}}}}
    blocks |= {f"b{i}": {**inner, "components": {"c": {"type": f"blocks.b{i - 1}", "repeat": 50}}} for i in range(1, 9)}
    with bounded():
        found = vlmgraph.check(vlmgraph.read_spec({"vlmgraph": 1, "blocks": blocks, "components": {"use": {"type": "blocks.b8"}}}))
    assert [d.code for d in found] == [C.WRONG_VALUE] and "10,000" in found[0].message


def test_nesting_is_refused_before_anything_recurses(tmp_path):
    for text in (
        "x = " + "[" * 5000 + "]" * 5000,
        "x = " + "{a = " * 3000 + "1" + "}" * 3000,
        "a." * 4000 + "b = 1",
        "[" + "a." * 4000 + "b]",
    ):
        (tmp_path / "a.toml").write_text("vlmgraph = 1\n" + text)
        (found,) = vlmgraph.check(tmp_path / "a.toml")
        assert found.code == C.BAD_TOML and found.primary.span.line == 2
    for edge in ("[" * 5000, "a" + "[" * 3000, "op.pool(" + "[" * 3000 + ")", "a -> " * 5000, "a.b" * 10_000):
        assert C.BAD_EDGE in codes({"vlmgraph": 1, "graph": {"edges": [edge]}})
    for type_ in (
        "ids[" + "(" * 5000,
        "ids[" + "-" * 5000 + "1]",
        "ids[" + "+".join(["a"] * 5000) + "]",
        "ids[" + "*".join(f"(a{i}+b{i})" for i in range(30)) + "]",
        "ids[B, " + "9" * 5000 + "]",
    ):
        assert C.BAD_TYPE in codes({"vlmgraph": 1, "inputs": {"x": type_}}), type_[:20]
