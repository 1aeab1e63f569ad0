"""A `tensorrt` module that records calls and holds them to the API of TensorRT 10.14 as its Python bindings document it.

Names, argument names, types and rules are those of the docstrings of `tensorrt_cu12_bindings` 10.14.1: `IBuilderConfig`, `Builder`,
`IOptimizationProfile` (`set_shape`: rules 1 to 3), `OnnxParser`, `ParserError`, `ITimingCache`. Nothing here computes an engine.
"""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Any

import onnx

Dims = tuple[int, ...]


class NetworkDefinitionCreationFlag(enum.IntEnum):
    EXPLICIT_BATCH = 0
    STRONGLY_TYPED = 1


class MemoryPoolType(enum.Enum):
    WORKSPACE = 0
    TACTIC_SHARED_MEMORY = 4


class BuilderFlag(enum.Enum):
    FP16 = 0
    TF32 = 7


class Tensor:
    def __init__(self, name: str, shape: Dims, dims: tuple[str, ...]) -> None:
        self.name, self.shape, self.dims = name, shape, dims


class Network:
    def __init__(self, flags: int) -> None:
        self.flags = flags
        self.inputs: list[Tensor] = []

    @property
    def num_inputs(self) -> int:
        return len(self.inputs)

    def get_input(self, index: int) -> Tensor:
        return self.inputs[index]


class ParserError:
    def __init__(self, text: str) -> None:
        self.text = text

    def desc(self) -> str:
        return self.text

    def node(self) -> int:
        return 3


class Profile:
    """As documented: `0 <= min[i] <= opt[i] <= max[i]`, equal ranks, and static dims as they are. The last is held when it is added."""

    def __init__(self) -> None:
        self.shapes: dict[str, tuple[Dims, Dims, Dims]] = {}

    def set_shape(self, input: str, min: Dims, opt: Dims, max: Dims) -> None:
        for shape in (min, opt, max):
            if not isinstance(shape, tuple) or not all(type(n) is int for n in shape):
                raise TypeError(f"set_shape(): incompatible function arguments: {shape!r}")
        if not len(min) == len(opt) == len(max) or not all(0 <= a <= b <= c for a, b, c in zip(min, opt, max)):
            raise ValueError(f"Shape provided for min is inconsistent with other shapes: {input} {min} {opt} {max}")
        self.shapes[input] = (min, opt, max)


class TimingCache:
    def __init__(self, data: bytes) -> None:
        self.data = data

    def serialize(self) -> memoryview:
        return memoryview(self.data + b"timed;")


class Config:
    def __init__(self, api: Api) -> None:
        self.api = api
        self.builder_optimization_level = 3
        self.flags = {BuilderFlag.TF32}
        self.limits: dict[MemoryPoolType, int] = {}
        self.profiles: list[Profile] = []
        self.cache: TimingCache | None = None

    def set_memory_pool_limit(self, pool: MemoryPoolType, pool_size: int) -> None:
        assert isinstance(pool, MemoryPoolType) and type(pool_size) is int
        self.limits[pool] = pool_size

    def clear_flag(self, flag: BuilderFlag) -> None:
        assert isinstance(flag, BuilderFlag)
        self.flags.discard(flag)

    def add_optimization_profile(self, profile: Profile) -> int:
        assert isinstance(profile, Profile)
        self.profiles.append(profile)
        return len(self.profiles) - 1

    def create_timing_cache(self, serialized_timing_cache: bytes) -> TimingCache:
        assert type(serialized_timing_cache) is bytes
        return TimingCache(serialized_timing_cache)

    def set_timing_cache(self, cache: TimingCache, ignore_mismatch: bool) -> bool:
        assert isinstance(cache, TimingCache) and ignore_mismatch is False
        if cache.data.startswith(b"other gpu"):
            return False
        self.cache = cache
        return True


class Builder:
    def __init__(self, api: Api, logger: Any) -> None:
        self.api = api

    def create_network(self, flags: int = 0) -> Network:
        assert type(flags) is int
        return Network(flags)

    def create_builder_config(self) -> Config:
        return Config(self.api)

    def create_optimization_profile(self) -> Profile:
        return Profile()

    def build_serialized_network(self, network: Network, config: Config) -> memoryview | None:
        """What the builder checks of profiles: every open input has shapes in each, which fit it, and dims of one name are equal."""
        for profile in config.profiles:
            for tensor in network.inputs:
                if -1 not in tensor.shape:
                    continue
                shapes = profile.shapes[tensor.name]
                assert all(s == -1 or s == p for shape in shapes for s, p in zip(tensor.shape, shape, strict=True)), tensor.name
            for at in range(3):
                sizes: dict[str, int] = {}
                for tensor in network.inputs:
                    for name, size in zip(tensor.dims, profile.shapes.get(tensor.name, ((),) * 3)[at]):
                        if name and sizes.setdefault(name, size) != size:
                            raise AssertionError(f"{tensor.name}: {name} is {size} and {sizes[name]}")
        self.api.built.append((network, config))
        return None if self.api.fails else memoryview(b"engine")


class Parser:
    def __init__(self, api: Api, network: Network, logger: Any) -> None:
        assert isinstance(network, Network)
        self.api, self.network = api, network
        self.num_errors = 0

    def parse_from_file(self, model: str) -> bool:
        assert type(model) is str
        if self.api.refuses:
            self.num_errors = 1
            return False
        graph = onnx.load(model, load_external_data=False).graph
        for place in (t for t in graph.initializer if t.data_location == onnx.TensorProto.EXTERNAL):
            location = next(e.value for e in place.external_data if e.key == "location")
            assert (Path(model).parent / location).is_file(), location
        held = {t.name for t in graph.initializer}
        for value in graph.input:
            dims = value.type.tensor_type.shape.dim
            if value.name not in held:
                shape = tuple(-1 if d.HasField("dim_param") else d.dim_value for d in dims)
                self.network.inputs.append(Tensor(value.name, shape, tuple(d.dim_param for d in dims)))
        return True

    def get_error(self, index: int) -> ParserError:
        assert index < self.num_errors
        return ParserError("no importer for Thing")


class Api:
    """Stands for the module. `built` has the networks and configurations that were built."""

    NetworkDefinitionCreationFlag = NetworkDefinitionCreationFlag
    MemoryPoolType = MemoryPoolType
    BuilderFlag = BuilderFlag

    class Logger:
        WARNING = "warning"

        def __init__(self, min_severity: str) -> None:
            assert min_severity == self.WARNING

    def __init__(self, version: str = "10.14.1", refuses: bool = False, fails: bool = False) -> None:
        self.__version__, self.refuses, self.fails = version, refuses, fails
        self.built: list[tuple[Network, Config]] = []

    def Builder(self, logger: Any) -> Builder:
        assert isinstance(logger, Api.Logger)
        return Builder(self, logger)

    def OnnxParser(self, network: Network, logger: Any) -> Parser:
        assert isinstance(logger, Api.Logger)
        return Parser(self, network, logger)
