"""The builder's calls, held to the recorded API of TensorRT 10; no engine is made here, and none has been on hardware."""

from __future__ import annotations

import ctypes
import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper

from tests.export.tensorrt.recorded import Api, BuilderFlag, MemoryPoolType, NetworkDefinitionCreationFlag
from vlmgraph.diagnostics import DiagnosticError
from vlmgraph.export.tensorrt.build import BuildError, build
from vlmgraph.export.tensorrt.commands import provider_options, trtexec
from vlmgraph.export.tensorrt.missing import cannot_build, missing
from vlmgraph.export.tensorrt.profiles import Profile
from vlmgraph.export.tensorrt.provider import session

FLAGS = {
    "network": ["STRONGLY_TYPED"],
    "tf32": False,
    "builder_optimization_level": 4,
    "workspace_bytes": 1 << 30,
    "timing_cache": "timing.cache",
}
PROMPT = Profile("prompt", {}, {"ids": ((1, 1), (1, 64), (4, 256)), "past": ((1, 2, 0), (1, 2, 0), (4, 2, 0))})
STEP = Profile("step", {}, {"ids": ((1, 1), (1, 1), (4, 1)), "past": ((1, 2, 1), (1, 2, 64), (4, 2, 255))})


def folder_with(place: Path, profiles: list[Profile]) -> Path:
    ids = helper.make_tensor_value_info("ids", TensorProto.FLOAT, ["B", "T"])
    past = helper.make_tensor_value_info("past", TensorProto.FLOAT, ["B", 2, "past"])
    out = [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in ("a", "b")]
    nodes = [helper.make_node("Identity", ["ids"], ["a"]), helper.make_node("Identity", ["past"], ["b"])]
    onnx.save(helper.make_model(helper.make_graph(nodes, "g", [ids, past], out)), place / "decoder.onnx")
    graph = {"onnx": "decoder.onnx", "engine": "decoder.engine", "profiles": [p.json() for p in profiles]}
    graph["onnxruntime"] = provider_options("decoder", profiles, FLAGS)  # type: ignore[assignment]
    (place / "plan.json").write_text(json.dumps({"flags": FLAGS, "graphs": {"decoder": graph}}))
    return place


def test_every_call_is_of_the_api(tmp_path: Path) -> None:
    api = Api()
    assert build(folder_with(tmp_path, [PROMPT, STEP]), trt=api) == [tmp_path / "decoder.engine"]
    assert (tmp_path / "decoder.engine").read_bytes() == b"engine"
    [(network, config)] = api.built
    assert network.flags == 1 << int(NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    assert config.limits == {MemoryPoolType.WORKSPACE: 1 << 30}
    assert config.builder_optimization_level == 4
    assert BuilderFlag.TF32 not in config.flags
    assert [p.shapes for p in config.profiles] == [PROMPT.shapes, STEP.shapes]


def test_timings_are_kept_and_those_of_another_gpu_are_not_used(tmp_path: Path) -> None:
    folder, cache = folder_with(tmp_path, [PROMPT]), tmp_path / "timing.cache"
    for expected in (b"timed;", b"timed;timed;"):
        build(folder, trt=Api())
        assert cache.read_bytes() == expected
    cache.write_bytes(b"other gpu")
    build(folder, trt=Api())
    assert cache.read_bytes() == b"timed;"


def test_a_step_out_of_step_is_seen(tmp_path: Path) -> None:
    """Two inputs of one dim with two sizes: the recorded builder refuses it, as TensorRT does."""
    wrong = Profile("step", {}, {**STEP.shapes, "past": ((2, 2, 1), (2, 2, 64), (4, 2, 255))})
    with pytest.raises(AssertionError, match="B is 2 and 1"):
        build(folder_with(tmp_path, [wrong]), trt=Api())


@pytest.mark.parametrize(
    ("api", "names", "said"),
    [
        (Api(version="9.3.0"), None, "too old"),
        (Api(refuses=True), None, "node 3: no importer for Thing"),
        (Api(fails=True), None, "could not build"),
        (Api(), ["encoder"], "no graph 'encoder'"),
    ],
)
def test_what_tensorrt_says_is_passed_on(tmp_path: Path, api: Api, names: list[str] | None, said: str) -> None:
    with pytest.raises(BuildError, match=said):
        build(folder_with(tmp_path, [PROMPT]), names, api)
    assert not (tmp_path / "decoder.engine").exists()


def test_a_plan_of_other_inputs(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="has the inputs ids, past; the plan is for ids"):
        build(folder_with(tmp_path, [Profile("call", {}, {"ids": PROMPT.shapes["ids"]})]), trt=Api())


def test_the_script_needs_nothing_of_this_package(tmp_path: Path) -> None:
    """It runs beside the plan with `tensorrt` alone; here a module of that name says which version it is."""
    source = Path(sys.modules[build.__module__].__file__ or "").read_text()
    folder_with(tmp_path, [PROMPT])
    (tmp_path / "build_engines.py").write_text(source)
    (tmp_path / "tensorrt.py").write_text("__version__ = '8.6.1'\n")
    run = subprocess.run([sys.executable, "-I", "-c", SCRIPT, str(tmp_path)], capture_output=True, text=True, check=False)
    assert run.returncode == 1
    assert run.stderr.strip() == "error: TensorRT 8.6.1 is too old: the plan is for 10 or later"


SCRIPT = """
import runpy, sys
sys.path[:0] = [sys.argv[1]]
place = sys.argv.pop(1)
try:
    runpy.run_path(place + "/build_engines.py", run_name="__main__")
finally:
    assert "vlmgraph" not in sys.modules and "torch" not in sys.modules
"""


def test_trtexec() -> None:
    line = shlex.split(trtexec("decoder.onnx", "decoder.engine", [PROMPT, STEP], FLAGS))
    assert line[:5] == ["trtexec", "--onnx=decoder.onnx", "--saveEngine=decoder.engine", "--stronglyTyped", "--skipInference"]
    assert {"--noTF32", "--builderOptimizationLevel=4", "--memPoolSize=workspace:1024M", "--timingCacheFile=timing.cache"} <= set(line)
    assert line[-8:] == [
        "--profile=0", "--minShapes=ids:1x1,past:1x2x0", "--optShapes=ids:1x64,past:1x2x0", "--maxShapes=ids:4x256,past:4x2x0",
        "--profile=1", "--minShapes=ids:1x1,past:1x2x1", "--optShapes=ids:1x1,past:1x2x64", "--maxShapes=ids:4x1,past:4x2x255",
    ]  # fmt: skip


class Runtime:
    """Records the sessions that are asked for."""

    def __init__(self, providers: list[str], starts: list[str] | None = None) -> None:
        self.providers, self.starts, self.made = providers, providers if starts is None else starts, list[Any]()

    def get_available_providers(self) -> list[str]:
        return self.providers

    def InferenceSession(self, path: str, providers: list[Any]) -> Runtime:
        self.made.append((path, providers))
        return self

    def get_providers(self) -> list[str]:
        return self.starts


def test_a_session_of_onnxruntime(tmp_path: Path) -> None:
    """A name that comes again stands for the next profile, as onnxruntime reads the option."""
    runtime = Runtime(["TensorrtExecutionProvider", "CUDAExecutionProvider"])
    assert session(folder_with(tmp_path, [PROMPT, STEP]), "decoder", runtime) is runtime
    [(path, [(name, options), fallback])] = runtime.made
    assert (path, name, fallback) == (str(tmp_path / "decoder.onnx"), "TensorrtExecutionProvider", "CUDAExecutionProvider")
    assert options["trt_profile_max_shapes"] == "ids:4x256,past:4x2x0,ids:4x1,past:4x2x255"
    assert options["trt_profile_min_shapes"] == "ids:1x1,past:1x2x0,ids:1x1,past:1x2x1"
    assert options["trt_engine_cache_path"] == str(tmp_path / "engines")
    assert (tmp_path / "engines").is_dir()
    assert all(isinstance(v, str) for v in options.values())


def test_an_onnxruntime_without_tensorrt(tmp_path: Path) -> None:
    with pytest.raises(DiagnosticError, match="no TensorrtExecutionProvider, only CPUExecutionProvider"):
        session(folder_with(tmp_path, [PROMPT]), "decoder", Runtime(["CPUExecutionProvider"]))


def test_an_onnxruntime_that_goes_on_without_tensorrt(tmp_path: Path) -> None:
    runtime = Runtime(["TensorrtExecutionProvider", "CPUExecutionProvider"], ["CPUExecutionProvider"])
    with pytest.raises(DiagnosticError, match="made decoder for CPUExecutionProvider in the place of TensorrtExecutionProvider"):
        session(folder_with(tmp_path, [PROMPT]), "decoder", runtime)


class Driver:
    def __init__(self, init: int, count: int) -> None:
        self.init, self.count = init, count

    def cuInit(self, flags: int) -> int:
        return self.init

    def cuDeviceGetCount(self, out: Any) -> int:
        ctypes.cast(out, ctypes.POINTER(ctypes.c_int))[0] = self.count
        return 0


def absent(name: str) -> Any:
    raise OSError(name)


@pytest.mark.parametrize(
    ("load", "said"),
    [
        (absent, "no NVIDIA driver: libcuda.so.1 cannot be loaded"),
        (lambda name: Driver(100, 0), "the NVIDIA driver finds no GPU that it can use (cuInit gives 100)"),
        (lambda name: Driver(0, 0), "the NVIDIA driver sees no GPU"),
    ],
)
def test_what_is_missing_is_named(load: Any, said: str) -> None:
    found = missing(load, find=lambda name: None)
    assert found == [said, "the Python package tensorrt (10 or later) is not installed"]
    finding = cannot_build(found)
    assert finding.code == "VG0803"
    assert said in finding.message
    assert "--plan-only" in (finding.fix or "")


def test_with_a_gpu_only_the_package_is_missing() -> None:
    assert missing(lambda name: Driver(0, 1), lambda name: None) == ["the Python package tensorrt (10 or later) is not installed"]
