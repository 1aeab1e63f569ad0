"""What a user can hand over that is wrong: one finding each, no traceback, and before a model is loaded where it can be seen before."""

from __future__ import annotations

import json
import struct
import zlib
from pathlib import Path
from typing import Any

import PIL.Image
import pytest

from vlmgraph.cli import run as verb


def bomb(path: Path) -> Path:
    """A small PNG that says it has 10^10 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b""))
    return path


def corrupt(path: Path, photo: Path) -> Path:
    data = photo.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    return path


@pytest.fixture
def files(tmp_path: Path, photos: list[Path]) -> dict[str, Path]:
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "words.png").write_text("not a picture at all")
    made = {"empty": tmp_path / "empty.png", "words": tmp_path / "words.png", "folder": tmp_path, "missing": tmp_path / "gone.png"}
    return made | {"bomb": bomb(tmp_path / "bomb.png"), "corrupt": corrupt(tmp_path / "half.png", photos[0])}


@pytest.mark.parametrize(
    ("kind", "code", "says"),
    [
        ("missing", "VG0702", "does not exist"),
        ("folder", "VG0702", "is a directory"),
        ("words", "VG0703", "not an image"),
        ("corrupt", "VG0704", "cannot be decoded"),
        ("bomb", "VG0705", "too large"),
        ("empty", "VG0706", "empty file"),
    ],
)
def test_pictures(kind: str, code: str, says: str, files: dict[str, Path], run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verb, "opened", lambda args: pytest.fail("a model was loaded first"))
    for option in ("--image", "--video"):
        said = run("llava-1.5", "--size", "tiny", option, files[kind], "--prompt", "What?")
        assert said.code == 1 and said.out == ""
        assert said.err.startswith(f"error[{code}]: {files[kind]}") and says in said.err and "help:" in said.err
    said = run("llava-1.5", "--image", files[kind], "--prompt", "What?", "--json")
    (finding,) = json.loads(said.out)["diagnostics"] if isinstance(json.loads(said.out), dict) else json.loads(said.out)
    assert finding["code"] == code


@pytest.mark.parametrize(
    ("model", "options", "code", "says"),
    [
        ("llava-1.5", ["--image", "IMAGE", "--prompt", " "], "VG0712", "empty"),
        ("llava-1.5", ["--image", "IMAGE", "--prompt", "<image> <image>"], "VG0708", "2 <image> for 1 pictures"),
        ("llava-1.5", ["--image", "IMAGE", "--image", "IMAGE", "--prompt", "<image>"], "VG0708", "1 <image> for 2 pictures"),
        ("llava-1.5", ["--prompt", "<image>"], "VG0708", "1 <image> for 0 pictures"),
        ("qwen2-vl", ["--image", "IMAGE", "--prompt", "<image> <video>"], "VG0708", "1 <|video_pad|> for 0 pictures"),
        ("idefics", ["--image", "IMAGE", "--prompt", "<image> <image>"], "VG0708", "2 <image> for 1 pictures"),
        ("cogvlm", ["--image", "IMAGE", "--prompt", "<image><image>"], "VG0708", "2 <image> for 1 pictures"),
        ("llava-1.5", ["--video", "IMAGE", "--prompt", "x"], "VG0713", "no one input for videos"),
        ("qwen2-vl", ["--video", "IMAGE", "OTHER", "--prompt", "x"], "VG0707", "differ in size"),
        ("clip", ["--image", "IMAGE", "--video", "IMAGE", "--prompt", "x"], "VG0713", "no one input for videos"),
        ("llava-1.5", ["--prompt", "x", "-o", "x.png"], "VG0725", "draws no pictures"),
        ("nothing", ["--prompt", "x"], "VG0003", "no spec"),
        ("blip-2", ["--image", "IMAGE", "--prompt", "long " * 50], "VG0709", "max_length is 128"),
    ],
)
def test_what_does_not_fit(model: str, options: list[str], code: str, says: str, run: Any, photos: list[Path]) -> None:
    paths = {"IMAGE": photos[0], "OTHER": photos[2]}
    said = run(model, "--size", "tiny", *(paths.get(o, o) for o in options))
    assert said.code == 1 and said.out == ""
    assert f"error[{code}]" in said.err and says in said.err, said.err
    assert "Traceback" not in said.err


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ([], "give a --prompt"),
        (["--prompt", "x", "--temperature", "0"], "not a number above 0"),
        (["--prompt", "x", "--temperature", "nan"], "not a number above 0"),
        (["--prompt", "x", "--top-p", "1.5"], "above 1"),
        (["--prompt", "x", "--num-beams", "0"], "not a number above 0"),
        (["--prompt", "x", "--max-new-tokens", "-1"], "below 0"),
        (["--prompt", "x", "--max-new-tokens", "many"], "invalid"),
        (["--prompt", "x", "--device", "meta"], "holds no numbers"),
        (["--prompt", "x", "--dtype", "int8"], "invalid choice"),
        (["--prompt", "x", "-o", "x.gif"], "is a PNG"),
        (["--prompt", "x", "--prompt", "y", "-o", "x.png"], "one picture is drawn"),
        (["--prompt", "x", "--image", "IMAGE", "-o", "x.png"], "from words alone"),
    ],
)
def test_command_lines_that_cannot_be_meant(options: list[str], says: str, run: Any, photos: list[Path]) -> None:
    said = run("janus", "--size", "tiny", *(photos[0] if o == "IMAGE" else o for o in options))
    assert said.code == 2 and says in said.err, said.err


def test_a_device_that_is_not_there(run: Any) -> None:
    said = run("janus", "--size", "tiny", "--prompt", "x", "--device", "toaster")
    assert said.code == 1 and "VG0805" in said.err and "'toaster' cannot be used" in said.err, said.err


def test_a_picture_that_cannot_be_written(run: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    said = run("janus", "--size", "tiny", "--prompt", "x", "-o", tmp_path / "file" / "x.png")
    assert said.code == 1 and "error[VG0901]" in said.err


@pytest.mark.parametrize("name", ["clip", "llava-1.5", "cogvlm", "blip-2", "flamingo", "idefics", "qwen2-vl", "janus"])
def test_published_sizes_need_weights(name: str, run: Any, photos: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    said = run(name, "--image", photos[0], "--prompt", "What?")
    assert said.code == 1 and "error[VG0902]" in said.err and "--random-weights" in said.err
    monkeypatch.setattr(verb, "memory", lambda: 10_000_000)
    said = run(name, "--image", photos[0], "--prompt", "What?", "--random-weights")
    assert said.code == 1 and "of memory" in said.err


def test_random_weights_of_a_larger_size_when_asked_for(run: Any, photos: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verb, "SMALL", 1000)
    arguments = ("llava-1.5", "--size", "tiny", "--image", photos[0], "--prompt", "What?", "--max-new-tokens", 2)
    assert run(*arguments).code == 1
    said = run(*arguments, "--random-weights")
    assert said.code == 0 and "they are random here" in said.err


def test_answers_end_with_the_table_of_positions(run: Any, photos: list[Path]) -> None:
    """OPT has learned positions, at this size 128; the last of them is used."""
    said = run("blip-2", "--size", "tiny", "--image", photos[0], "--prompt", "x" * 80, "--max-new-tokens", 100, "--json")
    (result,) = said.results
    assert result["prompt_tokens"] + len(result["ids"]) == 129 and "128 positions" in said.err
    free = run("llava-1.5", "--size", "tiny", "--prompt", "x", "--max-new-tokens", 60, "--json")
    assert "positions" not in free.err


def test_letters_come_whole_and_once() -> None:
    """Bytes of one letter are held back until all are there; control characters are written out."""
    from vlmgraph.processor import build_processor

    processor = build_processor({"input_ids": {"type": "processor.text"}}, {}, {})
    text = "né€ \x1b[31m😀 \xa0."
    ids = processor(text)["input_ids"][0].tolist()
    parts: list[str] = []
    stream = verb.Stream(processor, silent=False)
    stream.print = lambda shown: parts.append(shown)  # type: ignore[method-assign]
    for i in ids:
        stream([i])
    assert "".join(parts) == text == stream.text
    assert all(len(p) < 2 for p in parts) and len(parts) == len(ids) > len(text)
    assert verb.printable(text) == "né€ \\x1b[31m😀 \\xa0."


def test_unicode_prompts(run: Any, photos: list[Path], tmp_path: Path) -> None:
    odd = tmp_path / "été 写真.png"
    PIL.Image.open(photos[0]).save(odd)
    (result,) = run("llava-1.5", "--size", "tiny", "--image", odd, "--prompt", "Qu'est-ce? 何 {text} {x", "--json").results
    assert result["prompt"] == "Qu'est-ce? 何 {text} {x"
