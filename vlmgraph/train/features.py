"""Frozen parts run once a sample: what they give is kept, and later steps of a stage read it."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..lower.program import lower_program
from ..passes.frozen import Split, split_frozen
from ..passes.slice import ProgramGraph

if TYPE_CHECKING:
    from ..lower.model import CompiledModel

GIB = 2**30


class FeatureCache:
    """Features of samples by what went into them, in host memory. Beyond `limit` bytes those not read for longest go."""

    def __init__(self, limit: float = 4 * GIB) -> None:
        self.limit, self.size = limit, 0
        self.found = self.missed = 0
        """Rows that were read and rows that were computed."""
        self.rows: OrderedDict[bytes, dict[str, Tensor]] = OrderedDict()

    def get(self, key: bytes) -> dict[str, Tensor] | None:
        row = self.rows.get(key)
        if row is not None:
            self.rows.move_to_end(key)
        return row

    def put(self, key: bytes, row: Mapping[str, Tensor]) -> None:
        kept = {name: value.detach().to("cpu", copy=True) for name, value in row.items()}
        self.drop(key)
        self.rows[key] = kept
        self.size += nbytes(kept)
        while self.size > self.limit and len(self.rows) > 1:
            self.drop(next(iter(self.rows)))

    def drop(self, key: bytes) -> None:
        self.size -= nbytes(self.rows.pop(key, {}))

    def clear(self) -> None:
        self.rows.clear()
        self.size = 0


class FrozenFirst:
    """A program that runs what no parameter of trains first, without gradients and once a sample, then the rest.

        begin(model, "align")
        step = FrozenFirst(model, "objective.lm")
        loss = step(**batch)["loss"]

    A sample is known by the bytes of its inputs, so that another crop of a picture is another sample. Weights of frozen parts that changed
    since empty the cache, and so does a change of what trains. The outputs and gradients are those of the program.
    """

    def __init__(self, model: CompiledModel, program: str, cache: FeatureCache | None = None) -> None:
        self.model, self.program = model, program
        self.cache = FeatureCache() if cache is None else cache
        self._cut: dict[frozenset[str], Cut] = {}
        self._state: tuple[Any, ...] = ()

    def __call__(self, **inputs: Any) -> dict[str, Tensor]:
        """The program's outputs; inputs as it takes them. Raises DiagnosticError as it does."""
        given = self.model.prepare(inputs, self.program)
        self.refresh()
        present = frozenset(given)
        if present not in self._cut:
            self._cut[present] = Cut(self.model, self.program, present)
        cut = self._cut[present]
        values = dict(given)
        for front, module in cut.fronts:
            values |= self.features(front, module, given)
        out: dict[str, Tensor] = cut.module(*(values[name] for name in cut.split.rest.inputs))
        return {name: value for name, value in out.items() if not name.startswith("carry.")}

    def refresh(self) -> None:
        """Forget features of other weights, and cuts for other parts that train."""
        parameters = list(self.model.named_parameters())
        trained = tuple(name for name, p in parameters if p.requires_grad)
        state = (trained, tuple((p.data_ptr(), p._version) for _, p in parameters if not p.requires_grad))
        if state != self._state:
            if self._state:
                self.cache.clear()
                if trained != self._state[0]:
                    self._cut.clear()
            self._state = state

    @torch.no_grad()
    def features(self, front: ProgramGraph, module: nn.Module, given: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Values [rows, ...] that a front gives: rows that are kept are read, the others run together."""
        inputs = [given[name] for name in front.inputs]
        keys = row_keys(front, inputs)
        rows = [self.cache.get(key) for key in keys]
        new = [i for i, row in enumerate(rows) if row is None]
        self.cache.found += len(rows) - len(new)
        self.cache.missed += len(new)
        if new:
            chosen = torch.tensor(new, device=inputs[0].device)
            made = module(*(inputs if len(new) == len(rows) else [x.index_select(0, chosen) for x in inputs]))
            for at, i in enumerate(new):
                rows[i] = {name: value[at] for name, value in made.items()}
                self.cache.put(keys[i], rows[i] or {})
            if len(new) == len(rows):
                return dict(made)
        device = inputs[0].device
        return {name: torch.stack([row[name].to(device) for row in rows if row is not None]) for name in front.outputs}


class Cut:
    """A program lowered in its parts, for one set of inputs."""

    def __init__(self, model: CompiledModel, name: str, present: frozenset[str]) -> None:
        program = model.programs[name]
        graph, _ = program.lowered(present)
        self.split: Split = split_frozen(program.source, graph, frozen(model, program.source.components))
        self.fronts = [(front, lower_program(program.source, front, model)) for front in self.split.fronts]
        self.module = lower_program(program.source, self.split.rest, model)


def frozen(model: CompiledModel, components: Mapping[str, object]) -> set[str]:
    """Components none of whose parameters trains, nor follows what does (`Copy.ema`)."""
    moved = [name for name, p in model.named_parameters(remove_duplicate=False) if p.requires_grad]
    moved += [f"{id}." for id, rule in model.graph.copies.items() if rule.ema is not None]
    return {id for id in components if not any(name.startswith(f"{id}.") for name in moved)}


def row_keys(front: ProgramGraph, inputs: Sequence[Tensor]) -> list[bytes]:
    """What tells samples apart: the bytes, the shape and the dtype of each input's row, and which values are made of them."""
    hosts = [x.detach().cpu().contiguous() for x in inputs]
    said = repr((tuple(front.outputs), [(x.dtype, x.shape[1:]) for x in hosts])).encode()
    keys = []
    for i in range(len(hosts[0])):
        digest = hashlib.blake2b(said, digest_size=16)
        for x in hosts:
            digest.update(x[i].reshape(-1).view(torch.uint8).numpy().data)
        keys.append(digest.digest())
    return keys


def nbytes(row: Mapping[str, Tensor]) -> int:
    return sum(x.numel() * x.element_size() for x in row.values())
