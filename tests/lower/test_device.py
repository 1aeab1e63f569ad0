"""A device that is not there is said, before anything is built, loaded or run; onnxruntime's silent way back to the processor too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import vlmgraph
from tests.levels.models import tiny
from vlmgraph.cli import main
from vlmgraph.diagnostics import DiagnosticError
from vlmgraph.export.onnx import run as graphs
from vlmgraph.weights.lock import lock_text

nowhere = pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")


@nowhere
@pytest.mark.parametrize("device", ["cuda", "cuda:1", "nowhere"])
def test_compile_and_load(device: str, tmp_path: Path) -> None:
    spec = vlmgraph.read_spec("clip", size="tiny")
    with pytest.raises(DiagnosticError, match=f"the device '{device}' cannot be used") as raised:
        vlmgraph.compile(spec, device=device)
    assert raised.value.diagnostics[0].code == "VG0805" and raised.value.diagnostics[0].fix
    tiny("clip")[0].save(tmp_path / "clip")
    with pytest.raises(DiagnosticError, match="cannot be used"):
        vlmgraph.load(tmp_path / "clip", device=device)
    vlmgraph.compile(spec, device="meta")


@nowhere
def test_the_command_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compile", "clip", "--size", "tiny", "--device", "cuda", "-o", str(tmp_path / "clip")]) == 1
    assert "VG0805" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_folder_of_graphs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`run` on an exported folder."""
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime was built for CUDA")
    model = tiny("clip")[0]
    (folder_with(tmp_path) / "spec.lock.toml").write_text(lock_text(model.spec, model.graph))
    assert main(["run", str(tmp_path), "--prompt", "a", "--device", "cuda"]) == 1
    said = capsys.readouterr()
    assert "VG0805" in said.err and "onnxruntime has" in said.err and not said.out


class Runtime:
    """An onnxruntime that was built for CUDA, on a machine where it does not start: it goes on with the processor."""

    def __init__(self, starts: bool) -> None:
        self.starts, self.asked = starts, list[Any]()

    def get_available_providers(self) -> list[str]:
        return ["CUDAExecutionProvider", "CPUExecutionProvider"]

    class SessionOptions:
        log_severity_level = intra_op_num_threads = 0

    def InferenceSession(self, path: str, options: Any, providers: list[str]) -> Any:
        self.asked.append(providers)
        self.made = [p for p in providers if self.starts or p != "CUDAExecutionProvider"]
        return self

    def get_providers(self) -> list[str]:
        return self.made


def folder_with(place: Path) -> Path:
    (place / "manifest.json").write_text('{"graphs": {"forward": {"file": "forward.onnx"}}, "programs": {}}')
    return place


@pytest.mark.parametrize("starts", [True, False])
def test_onnxruntime_that_goes_back_to_the_processor(starts: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = Runtime(starts)
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", runtime)
    exported = graphs.Exported(folder_with(tmp_path), device="cuda")
    if starts:
        assert exported.session("forward") is runtime
    else:
        with pytest.raises(DiagnosticError, match="made forward for CPUExecutionProvider in its place"):
            exported.session("forward")
        assert not exported.sessions
    assert runtime.asked == [["CUDAExecutionProvider", "CPUExecutionProvider"]]


@pytest.mark.parametrize(("device", "said"), [("cuda", "this onnxruntime has"), ("mps", "graphs run on cpu or cuda")])
def test_onnxruntime_of_another_build(device: str, said: str, tmp_path: Path) -> None:
    import onnxruntime

    if device == "cuda" and "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime was built for CUDA")
    with pytest.raises(DiagnosticError, match=said):
        graphs.Exported(folder_with(tmp_path), device=device)
