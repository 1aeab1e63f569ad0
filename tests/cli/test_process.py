"""What only a process of its own can show: imports, signals, pipes, terminals."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "vlmgraph"]


def environment(**extra: str) -> dict[str, str]:
    plain = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "PYTHONIOENCODING")}
    return {**plain, "PYTHONPATH": str(ROOT), "TERM": "xterm-256color", **extra}


def python(source: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", source, *arguments], capture_output=True, text=True, env=environment(), cwd=ROOT)


def test_what_reads_specs_never_imports_torch(tmp_path: Path) -> None:
    """One process runs these verbs one after another; a verb that needs torch is the proof that the check can fail."""
    (tmp_path / "config.json").write_text('{"model_type": "clip"}')
    source = """
import sys
from vlmgraph.cli import main
HEAVY = {"torch", "transformers", "onnx", "onnxruntime", "scipy", "sklearn"}
for line in sys.argv[1].splitlines():
    code = main(line.split())
    print(line.split()[0], code, sorted(HEAVY & set(sys.modules)), file=sys.stderr)
"""
    verbs = ["check cogvlm", "show cogvlm", "show janus --format svg", "show clip --resolved", "diff clip cogvlm", "report qwen2-vl",
             "report blip-2 --format html", "explain VG0301", "list", "list components", "schema", f"import {tmp_path}"]  # fmt: skip
    done = python(source, "\n".join([*verbs, f"compile clip --size tiny -o {tmp_path}/out"]))
    seen = re.findall(r"^(\w+) (\d) (\[.*\])$", done.stderr, re.M)
    assert [verb for verb, _, _ in seen] == [line.split()[0] for line in verbs] + ["compile"], done.stderr
    assert {verb for verb, code, _ in seen if code != "0"} == {"diff"}
    assert all(heavy == "[]" for verb, _, heavy in seen[:-1]), seen
    assert seen[-1][2] == "['torch']"


def interrupted(tmp_path: Path, number: int) -> tuple[int, str]:
    """Stop `vlmgraph compile` by a signal while it builds; the output folder holds an earlier result."""
    source = """
import signal, sys, time
import vlmgraph.api
from vlmgraph.cli import main
signal.signal(signal.SIGINT, signal.default_int_handler)  # a parent in the background leaves it ignored
def slow(*args, **options):
    print("building", flush=True)
    time.sleep(60)
vlmgraph.api.compile = slow
sys.exit(main(sys.argv[1:]))
"""
    command = [sys.executable, "-c", source, "compile", "clip", "--size", "tiny", "-o", str(tmp_path / "out")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment()) as child:
        assert child.stdout and child.stdout.readline() == "building\n"
        child.send_signal(number)
        _, errors = child.communicate(timeout=20)
    return child.returncode, errors


def earlier(folder: Path) -> None:
    folder.mkdir()
    (folder / "spec.lock.toml").write_text("# an earlier result\n")


def test_control_c_says_nothing_and_leaves_what_was(tmp_path: Path) -> None:
    earlier(tmp_path / "out")
    code, errors = interrupted(tmp_path, signal.SIGINT)
    assert (code, errors) == (130, "")
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
    assert (tmp_path / "out/spec.lock.toml").read_text() == "# an earlier result\n"


def test_a_killed_run_leaves_what_was_and_the_next_one_tidies_up(tmp_path: Path) -> None:
    from vlmgraph.cli.folder import replacing

    earlier(tmp_path / "out")
    assert interrupted(tmp_path, signal.SIGKILL)[0] == -signal.SIGKILL
    assert (tmp_path / "out/spec.lock.toml").read_text() == "# an earlier result\n"
    assert len(list(tmp_path.glob(".out.*.part"))) == 1, "a killed process cannot clean up"
    with replacing(tmp_path / "out") as made:
        (made / "spec.lock.toml").write_text("# a later result\n")
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
    assert (tmp_path / "out/spec.lock.toml").read_text() == "# a later result\n"


@pytest.mark.parametrize("arguments", [["explain"], ["show", "cogvlm", "--format", "svg"]])
def test_a_reader_that_goes_away(arguments: list[str]) -> None:
    """`| head -1`: more is printed than a pipe holds, the reader closes it after a line."""
    with subprocess.Popen([*COMMAND, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment()) as child:
        assert child.stdout and child.stderr
        child.stdout.read(10)
        child.stdout.close()
        errors = child.stderr.read().decode()
    assert (child.returncode, errors) == (0, "")


def on_a_terminal(*arguments: str, **variables: str) -> str:
    master, slave = pty.openpty()
    with subprocess.Popen([*COMMAND, *arguments], stdout=slave, stderr=slave, stdin=slave, env=environment(**variables)) as child:
        os.close(slave)
        text = b""
        while True:
            try:
                more = os.read(master, 65536)
            except OSError:  # Linux says so when the other side has closed
                break
            if not more:
                break
            text += more
        child.wait(timeout=20)
    os.close(master)
    return text.decode().replace("\r\n", "\n")


def test_colours_on_a_terminal_unless_they_are_not_wanted() -> None:
    bad = "tests/diagnostics/cases/VG0204-unknown-field.toml"
    assert "\x1b[" in on_a_terminal("check", str(ROOT / bad))
    assert "\x1b[" not in on_a_terminal("check", str(ROOT / bad), NO_COLOR="1")
    assert re.search(r"\x1b\[\d*(;\d+)*m", on_a_terminal("report", "clip", COLUMNS="120"))
    plain = on_a_terminal("report", "clip", COLUMNS="120", NO_COLOR="1")
    assert not re.search(r"\x1b\[[\d;]*3[0-7]m", plain) and "151,277,313" in plain


def test_tables_keep_to_the_width() -> None:
    narrow = re.sub(r"\x1b\[[\d;]*m", "", on_a_terminal("report", "cogvlm", COLUMNS="72"))
    assert max(len(line.rstrip()) for line in narrow.splitlines()) <= 72
    assert "17,639,685,376" in narrow, "numbers are not cut"


def test_a_terminal_without_the_characters() -> None:
    done = subprocess.run([*COMMAND, "report", "clip"], capture_output=True, env=environment(PYTHONIOENCODING="ascii"))
    assert done.returncode == 0 and b"151,277,313" in done.stdout and not done.stderr
