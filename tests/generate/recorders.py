"""What stands for a CUDA device's graphs on the processor: steps written down operation by operation, and run again from that alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tests.generate.programs import writer
from vlmgraph.lower.fast.regional import as_built
from vlmgraph.lower.fast.steps import StepStack
from vlmgraph.lower.generate import recorded
from vlmgraph.lower.model import CompiledModel
from vlmgraph.nn.stack import Stack


def traced(step):
    """The operations of one run with the tensors that they read: every number of Python's is that of this run."""
    with as_built():
        return make_fx(lambda: step())()


@contextmanager
def recording(name: str, recorder=traced, check: bool = False) -> Iterator[CompiledModel]:
    """The writer with steps that are recorded. Without `check` ids are not held against the vocabulary, which reads them back on the
    processor alone."""
    model, _ = writer(name)
    stacks = [m for m in model.modules() if type(m) is Stack]
    tracing = torch.jit.is_tracing
    for stack in stacks:
        stack.__class__ = StepStack
    model.recorded_steps, recorded.RECORDERS["cpu"] = recorded.Recordings(), recorder
    if not check:
        torch.jit.is_tracing = lambda: True
    try:
        yield model
    finally:
        torch.jit.is_tracing = tracing
        del recorded.RECORDERS["cpu"]
        model.recorded_steps = None
        for stack in stacks:
            stack.__class__ = Stack


class Tape(TorchDispatchMode):
    """Operations with the very tensors that they read and wrote, which `replay` runs again into these same tensors."""

    def __init__(self):
        super().__init__()
        self.steps = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        self.steps.append((func, args, kwargs or {}, out))
        return out

    def forget(self):
        """Nothing runs while a CUDA device captures: what was made is not there before the first replay."""
        for func, _, _, out in self.steps:
            if not (func.is_view or func._schema.is_mutable):
                for made in floats(out):
                    made.fill_(float("nan"))

    def replay(self):
        for func, args, kwargs, out in self.steps:
            if not func.is_view:
                for old, new in zip(tensors(out), tensors(func(*args, **kwargs)), strict=True):
                    if old is not new:
                        old.copy_(new)


def tensors(value):
    return [v for v in tree_leaves(value) if isinstance(v, torch.Tensor)]


def floats(value):
    return [v for v in tensors(value) if v.is_floating_point()]


class Cuda:
    """The part of `torch.cuda` that records a graph, by a tape. `log` has what was asked for, in order."""

    def __init__(self):
        self.log = []

    def Stream(self):
        return Stream(self, "side")

    def current_stream(self):
        return Stream(self, "main")

    @contextmanager
    def stream(self, stream):
        self.log.append(f"on {stream.name}")
        yield
        self.log.append(f"off {stream.name}")

    def CUDAGraph(self):
        return Graph(self)

    @contextmanager
    def graph(self, graph):
        self.log.append("capture")
        with graph.tape:
            yield
        graph.tape.forget()
        self.log.append("captured")


class Stream:
    def __init__(self, cuda, name):
        self.cuda, self.name = cuda, name

    def wait_stream(self, other):
        self.cuda.log.append(f"{self.name} waits for {other.name}")


class Graph:
    def __init__(self, cuda):
        self.cuda, self.tape = cuda, Tape()

    def replay(self):
        self.cuda.log.append("replay")
        self.tape.replay()


class Plain(TorchFunctionMode):
    """x[...] and ~x by plain operations: torch's own ask for the device's library, which is not there."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is torch.Tensor.__invert__:
            return torch.ops.aten.bitwise_not.default(*args)
        if func is not torch.Tensor.__getitem__ or args[0].device.type != "cuda":
            return func(*args, **(kwargs or {}))
        x, index = args
        index, dim = index if isinstance(index, tuple) else (index,), 0
        gap = x.dim() - sum(i is not None and i is not Ellipsis for i in index)
        for i in index:
            if i is Ellipsis:
                dim += gap
            elif i is None:
                x, dim = x.unsqueeze(dim), dim + 1
            elif isinstance(i, int):
                x = x.select(dim, i)
            elif isinstance(i, slice):
                x, dim = torch.ops.aten.slice.Tensor(x, dim, i.start, i.stop, i.step or 1), dim + 1
            else:
                x, dim = torch.ops.aten.index.Tensor(x, [None] * dim + [i]), dim + 1
        return x


@contextmanager
def imagined(made: recorded.Recording, model: CompiledModel) -> Iterator[None]:
    """The recording's buffers and the model's weights on a CUDA device that is not there: shapes, types and devices, without values."""
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    kept: dict[int, torch.Tensor] = {}

    def fake(t):
        if t is None:
            return None
        if id(t) not in kept:
            there = torch.empty(t.shape, dtype=t.dtype, device="cuda")
            kept[id(t)] = nn.Parameter(there, requires_grad=False) if isinstance(t, nn.Parameter) else there
        return kept[id(t)]

    owners = [(own, dict(own)) for module in model.modules() for own in (module._parameters, module._buffers)]
    with mode, Plain():
        for own, _ in owners:
            own.update({name: fake(t) for name, t in own.items()})
        made.token, made.inputs = fake(made.token), {name: fake(t) for name, t in made.inputs.items()}
        for cache in made.caches.values():
            cache.mask, cache.place, cache.encoded = fake(cache.mask), fake(cache.place), fake(cache.encoded)
            for layer in cache.layers:
                layer.place, layer.held = cache.place, tuple(fake(t) for t in layer.held)
            for media in cache.media.values():
                media.put(*(fake(t) for t in media.grown))
        try:
            yield
        finally:
            for own, before in owners:
                own.update(before)
