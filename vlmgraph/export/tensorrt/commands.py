"""The same builds without Python: command lines of trtexec, and options of ONNX Runtime's TensorRT provider."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Any

from .profiles import Profile

POINTS = ("min", "opt", "max")


def dims_text(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))


def shapes_text(profile: Profile, at: int) -> str:
    """`input_ids:1x577,attention_mask:1x577`; inputs without dims have no shape to give."""
    return ",".join(f"{name}:{dims_text(shapes[at])}" for name, shapes in profile.shapes.items() if shapes[at])


def trtexec(onnx: str, engine: str, profiles: Sequence[Profile], flags: dict[str, Any]) -> str:
    """One line that builds an engine and runs nothing."""
    words = ["trtexec", f"--onnx={onnx}", f"--saveEngine={engine}", "--stronglyTyped", "--skipInference"]
    words += [] if flags["tf32"] else ["--noTF32"]
    words += [f"--builderOptimizationLevel={flags['builder_optimization_level']}"]
    words += [f"--memPoolSize=workspace:{flags['workspace_bytes'] >> 20}M", f"--timingCacheFile={flags['timing_cache']}"]
    for number, profile in enumerate(profiles):
        words.append(f"--profile={number}")
        words += [f"--{point}Shapes={shapes_text(profile, at)}" for at, point in enumerate(POINTS)]
    return shlex.join(words)


def provider_options(name: str, profiles: Sequence[Profile], flags: dict[str, Any]) -> dict[str, str]:
    """Options of `TensorrtExecutionProvider`. A name that comes again in a list of shapes stands for the next profile."""
    shapes = {f"trt_profile_{point}_shapes": ",".join(shapes_text(p, at) for p in profiles) for at, point in enumerate(POINTS)}
    return {
        **shapes,
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": "engines",
        "trt_engine_cache_prefix": name,
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": "engines",
        "trt_max_workspace_size": str(flags["workspace_bytes"]),
        "trt_builder_optimization_level": str(flags["builder_optimization_level"]),
    }
