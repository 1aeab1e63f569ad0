"""Builds the engines of a folder from its plan.json. It needs TensorRT 10 or later and an NVIDIA GPU, and is copied beside the plan.

    python build_engines.py [GRAPH ...]

Networks are strongly typed: every number has the type that the graph gives it, and no flag lets TensorRT choose another.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any


class BuildError(RuntimeError):
    """TensorRT refused something; the message says what, in its own words."""


def build(folder: Path, names: list[str] | None = None, trt: Any = None) -> list[Path]:
    """Build the engines of `names` (all of the plan) and write them beside it. Raises BuildError."""
    if trt is None:
        import tensorrt as trt  # type: ignore[no-redef]
    if int(trt.__version__.split(".")[0]) < 10:
        raise BuildError(f"TensorRT {trt.__version__} is too old: the plan is for 10 or later")
    plan = json.loads((folder / "plan.json").read_text(encoding="utf-8"))
    unknown = [name for name in names or () if name not in plan["graphs"]]
    if unknown:
        raise BuildError(f"the plan has no graph {unknown[0]!r}, but {', '.join(plan['graphs'])}")
    logger = trt.Logger(trt.Logger.WARNING)
    builder = trt.Builder(logger)
    return [engine(trt, logger, builder, folder, plan, plan["graphs"][name]) for name in names or plan["graphs"]]


def engine(trt: Any, logger: Any, builder: Any, folder: Path, plan: dict[str, Any], graph: dict[str, Any]) -> Path:
    """One engine: parse, configure, add a profile for each phase, build, write."""
    network = parsed(trt, logger, builder, folder / graph["onnx"])
    declared(network, graph)
    config = configured(trt, builder, plan["flags"])
    for profile in graph["profiles"]:
        config.add_optimization_profile(optimisation_profile(builder, network, profile["inputs"]))
    cache = timing_cache(config, folder / plan["flags"]["timing_cache"])
    serialized = builder.build_serialized_network(network, config)
    if serialized is None:
        raise BuildError(f"{graph['onnx']}: TensorRT could not build it; its log above says why")
    path = folder / graph["engine"]
    path.write_bytes(serialized)
    keep(cache, folder / plan["flags"]["timing_cache"])
    return path


def parsed(trt: Any, logger: Any, builder: Any, path: Path) -> Any:
    """The graph as a strongly typed network. By path, so that the parser finds the weights beside it."""
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(path)):
        said = [f"node {e.node()}: {e.desc()}" for e in (parser.get_error(i) for i in range(parser.num_errors))]
        raise BuildError(f"{path.name}: the ONNX parser of TensorRT refuses it: {'; '.join(said)}")
    return network


def declared(network: Any, graph: dict[str, Any]) -> None:
    """The network must have the inputs of the plan, and none beside: a profile names each of them."""
    found = [network.get_input(i).name for i in range(network.num_inputs)]
    planned = list(graph["profiles"][0]["inputs"])
    if sorted(found) != sorted(planned):
        raise BuildError(f"{graph['onnx']} has the inputs {', '.join(found)}; the plan is for {', '.join(planned)}")


def configured(trt: Any, builder: Any, flags: dict[str, Any]) -> Any:
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, flags["workspace_bytes"])
    config.builder_optimization_level = flags["builder_optimization_level"]
    if not flags["tf32"]:
        config.clear_flag(trt.BuilderFlag.TF32)
    return config


def optimisation_profile(builder: Any, network: Any, inputs: dict[str, Any]) -> Any:
    """A profile with the shapes of every input that has an open dim. (An input whose values are a shape has none in these graphs.)"""
    profile = builder.create_optimization_profile()
    for i in range(network.num_inputs):
        tensor = network.get_input(i)
        shapes = inputs[tensor.name]
        if any(size == -1 for size in tensor.shape):
            profile.set_shape(tensor.name, tuple(shapes["min"]), tuple(shapes["opt"]), tuple(shapes["max"]))
    return profile


def timing_cache(config: Any, path: Path) -> Any:
    """What was measured before on this kind of GPU; TensorRT itself refuses a cache of another."""
    known = path.read_bytes() if path.is_file() else b""
    cache = config.create_timing_cache(known)
    if not config.set_timing_cache(cache, ignore_mismatch=False):
        cache = config.create_timing_cache(b"")
        config.set_timing_cache(cache, ignore_mismatch=False)
    return cache


def keep(cache: Any, path: Path) -> None:
    part = path.with_suffix(".part")
    part.write_bytes(cache.serialize())
    part.replace(path)


if __name__ == "__main__":
    try:
        for made in build(Path(__file__).parent, sys.argv[1:] or None):
            print(made)
    except BuildError as error:
        sys.exit(f"error: {error}")
