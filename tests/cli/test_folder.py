"""The compiled folder: what is in it, that it appears whole or not at all, and that its lock file alone makes it again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Command
from vlmgraph.cli import CLEAN, FINDINGS
from vlmgraph.cli.folder import replacing
from vlmgraph.diagnostics import DiagnosticError
from vlmgraph.weights.digests import package_digest, text_digest

ALWAYS = {"spec.lock.toml", "graph.txt", "report.json", "report.html"}


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.parametrize(
    ("spec", "options"),
    [
        ("cogvlm", ()),
        ("blip-2", ("--variant", "flan-t5", "--size", "tiny")),
        ("llava-1.5", ("--size", "tiny", "--device", "cpu", "--set", "llm.layers=3")),
        ("qwen2-vl", ("--size", "tiny", "--dtype", "bfloat16", "--device", "cpu", "--seed", "5")),
        ("janus", ("--size", "tiny")),
        ("flamingo", ()),
        ("clip", ("--size", "tiny", "--device", "cpu")),
    ],
)
def test_the_lock_file_alone_gives_the_same_folder(vlmgraph: Command, tmp_path: Path, spec: str, options: tuple[str, ...]) -> None:
    said = vlmgraph("compile", spec, *options, "-o", tmp_path / "a")
    assert said.code == CLEAN and not said.out and "spec.lock.toml" in said.err
    made = contents(tmp_path / "a")
    assert set(made) >= ALWAYS and ("model.safetensors" in made) == ("--device" in options)
    kept = [o for pair in zip(options[::2], options[1::2]) if pair[0] in ("--device", "--dtype", "--seed") for o in pair]
    lock = tmp_path / "spec.lock.toml"
    lock.write_bytes(made["spec.lock.toml"])
    assert vlmgraph("compile", lock, *kept, "-o", tmp_path / "b").code == CLEAN
    again = contents(tmp_path / "b")
    assert set(again) == set(made)
    assert [name for name in made if made[name] != again[name]] == []


def test_what_is_in_the_folder(vlmgraph: Command, tmp_path: Path) -> None:
    from vlmgraph.ir.text import parse_graph, print_graph

    vlmgraph("compile", "llava-1.5", "--size", "tiny", "--set", "llm.layers=3", "-o", tmp_path / "out")
    files = {name: data.decode() for name, data in contents(tmp_path / "out").items()}
    graph = parse_graph(files["graph.txt"])
    assert print_graph(graph) == files["graph.txt"] and graph.components["llm"].layers == 3
    assert json.loads(files["report.json"])["parameters"]["total"] > 0
    assert "<svg " in files["report.html"] and "splice" in files["report.html"]


def test_digests_of_spec_and_tool(vlmgraph: Command, tmp_path: Path) -> None:
    from vlmgraph import __version__

    def lock(name: str, *options: str) -> tuple[dict[str, str], str]:
        vlmgraph("compile", name, "--size", "tiny", *options, "-o", tmp_path / "out")
        head, _, body = (tmp_path / "out/spec.lock.toml").read_text().partition("\n\n")
        lines = [line.split(" ", 3) for line in head.splitlines() if line.startswith("# sha256 ")]
        return {what: digest for _, _, digest, what in lines}, body

    first, body = lock("clip")
    assert first == {"spec": text_digest(body), f"vlmgraph {__version__}": package_digest("vlmgraph")}
    other, _ = lock("clip", "--set", "text.layers=1")
    assert other["spec"] != first["spec"]


def test_digest_of_a_package_sees_its_sources_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "some_plugin_package"
    package.mkdir()
    (package / "__init__.py").write_text("x = 1\n")
    monkeypatch.syspath_prepend(tmp_path)

    def digest() -> str:
        package_digest.cache_clear()
        return package_digest("some_plugin_package")

    first = digest()
    (package / "notes.txt").write_text("no source")
    assert digest() == first
    (package / "data.toml").write_text("x = 2\n")
    second = digest()
    assert second != first
    (package / "data.toml").rename(package / "date.toml")
    assert digest() not in (first, second)


def test_default_names(vlmgraph: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    vlmgraph("compile", "clip", "--size", "tiny")
    vlmgraph("compile", "build/clip-tiny/spec.lock.toml")
    assert {p.name for p in (tmp_path / "build").iterdir()} == {"clip-tiny", "clip-vit-b-32"}


@pytest.mark.parametrize("name", ["../../outside", "/tmp/outside", "a/b", "..", ""])
def test_a_name_is_no_path(vlmgraph: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    monkeypatch.chdir(inner)
    (inner / "x.lock.toml").write_text(f'vlmgraph = 1\nextends = "clip"\nmodel = {{ name = "{name}" }}\n')
    vlmgraph("compile", "x.lock.toml", "--size", "tiny")
    assert {p.name for p in (inner / "build").iterdir()} == {"x.lock-tiny"} and [p.name for p in tmp_path.iterdir()] == ["inner"]


class TestOutput:
    """Where nothing can be written: a finding, and nothing that was there is touched."""

    def test_a_file_in_the_way(self, vlmgraph: Command, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("mine")
        for output in ("file", "file/inner", "file/inner/folder"):
            for command in (("compile", "clip", "--size", "tiny"), ("show", "clip"), ("report", "clip", "--json"), ("schema",)):
                if (command[0], output) in (("show", "file"), ("report", "file"), ("schema", "file")):
                    continue  # a file over a file: that is what -o is for
                said = vlmgraph(*command, "-o", tmp_path / output)
                assert said.code == FINDINGS and "VG0901" in said.out + said.err and "Traceback" not in said.err, (command, output)
        assert contents(tmp_path) == {"file": b"mine"}

    def test_somebody_elses_folder(self, vlmgraph: Command, tmp_path: Path) -> None:
        (tmp_path / "thesis").mkdir()
        (tmp_path / "thesis/chapter.tex").write_text("mine")
        said = vlmgraph("compile", "clip", "--size", "tiny", "-o", tmp_path / "thesis")
        assert said.code == FINDINGS and "VG0901" in said.err and contents(tmp_path) == {"thesis/chapter.tex": b"mine"}
        assert vlmgraph("show", "clip", "-o", tmp_path / "thesis").code == FINDINGS
        assert contents(tmp_path) == {"thesis/chapter.tex": b"mine"}

    def test_a_link_is_not_followed(self, vlmgraph: Command, tmp_path: Path) -> None:
        (tmp_path / "real").mkdir()
        (tmp_path / "link").symlink_to(tmp_path / "real")
        assert vlmgraph("compile", "clip", "--size", "tiny", "-o", tmp_path / "link").code == FINDINGS
        assert not list((tmp_path / "real").iterdir())

    def test_a_full_disk(self, vlmgraph: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        import errno

        from vlmgraph.report import html

        def full(*_: object) -> str:
            raise OSError(errno.ENOSPC, "No space left on device")

        vlmgraph("compile", "clip", "--size", "tiny", "-o", tmp_path / "out")
        before = contents(tmp_path)
        monkeypatch.setattr(html, "page", full)
        said = vlmgraph("compile", "clip", "--size", "tiny", "--set", "text.layers=1", "-o", tmp_path / "out")
        assert said.code == FINDINGS and "No space left on device" in said.err
        assert contents(tmp_path) == before

    def test_a_spec_with_errors_writes_nothing(self, vlmgraph: Command, broken: Path, tmp_path: Path) -> None:
        assert vlmgraph("compile", broken, "-o", tmp_path / "new/out").code == FINDINGS
        assert not list(tmp_path.iterdir())


class TestReplacing:
    def test_an_error_inside(self, tmp_path: Path) -> None:
        with pytest.raises(ZeroDivisionError), replacing(tmp_path / "out") as made:
            (made / "spec.lock.toml").write_text("half")
            raise ZeroDivisionError
        assert not list(tmp_path.iterdir())

    def test_the_old_folder_goes_as_a_whole(self, tmp_path: Path) -> None:
        for name in ("a", "b"):
            with replacing(tmp_path / "out") as made:
                (made / "spec.lock.toml").touch()
                (made / name).touch()
        assert {p.name for p in (tmp_path / "out").iterdir()} == {"spec.lock.toml", "b"}

    def test_killed_between_the_two_renames(self, tmp_path: Path) -> None:
        """The folder was moved aside and the new one not yet in its place: the next run brings it back, even if it fails."""
        gone = 2**22 + 1  # above the largest process number Linux gives
        (tmp_path / f".out.{gone}.old").mkdir()
        (tmp_path / f".out.{gone}.old/spec.lock.toml").write_text("old")
        with pytest.raises(ZeroDivisionError), replacing(tmp_path / "out"):
            raise ZeroDivisionError
        assert contents(tmp_path) == {"out/spec.lock.toml": b"old"}

    def test_folders_of_a_process_that_runs_are_left(self, tmp_path: Path) -> None:
        other = tmp_path / ".out.1.part"
        other.mkdir()
        with replacing(tmp_path / "out") as made:
            (made / "spec.lock.toml").touch()
        assert other.is_dir()

    @pytest.mark.parametrize("name", ["a[b]", "a*", "q?"])
    def test_names_are_no_patterns(self, tmp_path: Path, name: str) -> None:
        gone = 2**22 + 1
        (tmp_path / f".{name}.{gone}.part").mkdir()
        (tmp_path / f".ab.{gone}.part").mkdir()
        with replacing(tmp_path / name) as made:
            (made / "spec.lock.toml").touch()
        assert {p.name for p in tmp_path.iterdir()} == {name, f".ab.{gone}.part"}

    def test_what_it_refuses(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(DiagnosticError, match="VG0901"), replacing(tmp_path / "file"):
            raise AssertionError("never entered")
