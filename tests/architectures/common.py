"""What the tests of architectures share: models built once a session, both counts of parameters, inputs that never change.

Shared models are read-only but for `changed`, which puts the weights back. A test that trains takes `fresh`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache

import torch
from torch import Tensor, nn

import vlmgraph
from vlmgraph.api import elaborate
from vlmgraph.ir.dims import Dim, Symbol
from vlmgraph.ir.graph import Graph
from vlmgraph.ir.types import INTEGER_KINDS
from vlmgraph.lower.build import tie_pairs
from vlmgraph.lower.model import CompiledModel
from vlmgraph.processor import Processor
from vlmgraph.processor.model import model_processor
from vlmgraph.report.measure import Report, report
from vlmgraph.spec import Spec
from vlmgraph.train.stage import addressed, begin
from vlmgraph.train.step import after_step

# ---- models

SHARED: dict[str, tuple[nn.Module, float]] = {}
"""Shared models and what their weights add up to, for the check that they are left as they were."""


def shared(key: str, model: CompiledModel) -> CompiledModel:
    SHARED[key] = (model, total(model))
    return model


def total(model: nn.Module) -> float:
    return sum(float(p.detach().double().abs().sum()) for p in model.parameters())


@cache
def spec(name: str, size: str | None = None, variant: str | None = None) -> Spec:
    return vlmgraph.read_spec(name, size=size, variant=variant)


@cache
def graph(name: str, size: str | None = None, variant: str | None = None) -> Graph:
    return elaborate(spec(name, size, variant))


@cache
def built(name: str, size: str | None = "tiny", variant: str | None = None) -> CompiledModel:
    """With the weights that its components start with (seed 0). Shared: see `changed`."""
    return shared(f"{name} {size} {variant}", fresh(name, size, variant))


@cache
def lively(name: str, size: str | None = "tiny", variant: str | None = None) -> CompiledModel:
    """With random weights everywhere: norms off one, biases off zero, gates open. Nothing hides behind a first value. Shared."""
    return shared(f"lively {name} {size} {variant}", enliven(fresh(name, size, variant)))


@cache
def meta(name: str, size: str | None = None, variant: str | None = None) -> CompiledModel:
    """Without storage: published sizes."""
    return vlmgraph.compile(spec(name, size, variant), device="meta")


def fresh(name: str, size: str | None = "tiny", variant: str | None = None, seed: int = 0) -> CompiledModel:
    """One of your own."""
    return vlmgraph.compile(spec(name, size, variant), seed=seed)


@torch.no_grad()
def enliven(model: CompiledModel, seed: int = 5) -> CompiledModel:
    """Every parameter off its first value, in place: matrices N(0, 0.12), vectors and scalars moved by N(0, 0.2)."""
    source = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        value = torch.randn(parameter.shape, generator=source)
        if parameter.dim() > 1:
            parameter.copy_(0.12 * value)
        else:
            parameter.add_(0.2 * value)
    return model


@contextmanager
def changed(model: nn.Module, *addresses: str, by: float = 0.5, seed: int = 9) -> Iterator[None]:
    """Noise on the parameters at these addresses (`llm.vision`, or a full name) for as long as the block runs."""
    named = dict(model.named_parameters(remove_duplicate=False))
    chosen = {n: p for a in addresses for n, p in ({a: named[a]} if a in named else addressed(model, a)).items()}
    assert chosen, f"nothing is addressed by {addresses}"
    kept = {name: parameter.detach().clone() for name, parameter in chosen.items()}
    source = torch.Generator().manual_seed(seed)
    try:
        with torch.no_grad():
            for parameter in chosen.values():
                parameter.add_(by * torch.randn(parameter.shape, generator=source))
        yield
    finally:
        with torch.no_grad():
            for name, parameter in chosen.items():
                parameter.copy_(kept[name])


@cache
def processor(name: str, size: str | None = "tiny", variant: str | None = None, stage: str | None = None) -> Processor:
    """The spec's processor. Where no tokenizer is beside the spec, every byte of text is a token."""
    own = vlmgraph.read_spec(name, size=size, variant=variant, stage=stage)
    return model_processor(own, elaborate(own))


# ---- parameters


@cache
def measured(name: str, size: str | None = None, variant: str | None = None) -> Report:
    """What the declarations say, without torch."""
    return report(graph(name, size, variant))


def declared_counts(name: str, size: str | None = None, variant: str | None = None) -> dict[str, int]:
    """Component → parameters by the declarations, components without any left out."""
    return {part.id: part.total for part in measured(name, size, variant).parts if part.total}


def built_counts(model: CompiledModel) -> dict[str, int]:
    """Component → parameters of the modules, each once; a tied one counts where its tie's right side stands."""
    left = {name for a, b in model.graph.ties for name, _ in tie_pairs(model, a, b)}
    ids = sorted(model.graph.components, key=len, reverse=True)
    counts: dict[str, int] = {}
    seen: set[tuple[str, int]] = set()  # two sides of a component may share a table
    for name, parameter in model.named_parameters(remove_duplicate=False):
        owner = next(id for id in ids if name.startswith(f"{id}."))
        if name not in left and (owner, id(parameter)) not in seen:
            seen.add((owner, id(parameter)))
            counts[owner] = counts.get(owner, 0) + parameter.numel()
    return {id: counts[id] for id in model.graph.components if id in counts}


def published(name: str, size: str | None = None, variant: str | None = None) -> dict[str, int]:
    """Component → parameters, and their `total`: the declared counts, which equal those of the modules built on the meta device."""
    declared = declared_counts(name, size, variant)
    assert declared == built_counts(meta(name, size, variant))
    used = {part.id for part in measured(name, size, variant).parts if part.used}
    assert used >= declared.keys(), f"no node uses {declared.keys() - used}"
    return {**declared, "total": measured(name, size, variant).total}


def count(model: nn.Module, *addresses: str) -> int:
    """Parameters of the modules at these addresses, each once."""
    return sum({id(p): p.numel() for a in addresses for p in addressed(model, a).values()}.values())


# ---- inputs


def noise(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def random_ids(*shape: int, low: int = 10, high: int = 290, seed: int = 2) -> Tensor:
    """Ids of ordinary words; tiny specs keep their special tokens below 10 or from 300 on."""
    return torch.randint(low, high, shape, generator=torch.Generator().manual_seed(seed))


def placed(ids: Tensor, token: int, *runs: tuple[int, int, int]) -> Tensor:
    """A copy of ids [B, T] with `token` at (row, start, count)."""
    ids = ids.clone()
    for row, start, length in runs:
        ids[row, start : start + length] = token
    return ids


def padded(row: Tensor, mask: Tensor, left: int = 0, right: int = 0, pad: int = 0) -> tuple[Tensor, Tensor]:
    """ids [1, T] and their mask with padding on both sides."""
    ids = torch.cat([row.new_full((1, left), pad), row, row.new_full((1, right), pad)], 1)
    return ids, torch.cat([mask.new_zeros(1, left), mask, mask.new_zeros(1, right)], 1)


def sample(model: CompiledModel, name: str, seed: int = 1, **dims: int) -> Tensor:
    """A value of an input's declared type; `dims` give its symbols a size (`N=2, T=9`)."""
    type_ = model.graph.inputs[name]
    shape = [d.substitute({Symbol(k): Dim.of(v) for k, v in dims.items()}).constant for d in type_.dims]
    assert all(isinstance(n, int) for n in shape), f"{name} is {type_}: give every symbol a size"
    whole = [n for n in shape if n is not None]
    if type_.kind == "mask":
        return torch.ones(whole, dtype=torch.long)
    return random_ids(*whole, seed=seed) if type_.kind in INTEGER_KINDS else noise(*whole, seed=seed)


# ---- what moves


def moved(before: Tensor, after: Tensor) -> list[bool]:
    """Place by place along dim 1 of [1, T, ...]: whether anything differs at all."""
    assert before.shape == after.shape and len(before) == 1
    return (before != after).flatten(2).any(-1)[0].tolist() if before.dim() > 2 else (before != after)[0].tolist()


def close(a: Tensor, b: Tensor, tolerance: float = 1e-5) -> None:
    """Equal but for the order of float32 sums: the difference's norm within `tolerance` of the norm."""
    assert a.shape == b.shape
    error = ((a.double() - b.double()).norm() / b.double().norm().clamp(min=1e-12)).item()
    assert error <= tolerance, f"relative error {error:.1e}, allowed {tolerance:.0e}"


# ---- training


def loss_of(model: CompiledModel, stage: str, inputs: Mapping[str, Tensor]) -> Tensor:
    """The stage's objectives by their weights."""
    weights = model.graph.stages[stage].objectives
    return torch.stack([w * model.programs[f"objective.{name}"](**inputs)["loss"] for name, w in weights.items()]).sum()


def trains(
    model: CompiledModel, stage: str, inputs: Mapping[str, Tensor], steps: int = 4, lr: float = 2e-3, idle: Collection[str] = ()
) -> set[str]:
    """Run some steps of a stage: the loss falls, gradients reach exactly what the stage trains (every tensor of it), all of that moves
    and nothing else does. Gives the names of what trained.

    `idle` are names that the loss cannot reach in this batch although the stage trains them.
    """
    names = set(begin(model, stage))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=lr)
    losses = []
    for step in range(steps):
        optimizer.zero_grad()
        loss = loss_of(model, stage, inputs)
        loss.backward()
        if step == 0:
            reached = {n for n, p in model.named_parameters() if p.grad is not None and bool(p.grad.any())}
            wanted = names - set(idle)
            assert reached == wanted, f"no gradient: {sorted(wanted - reached)}; a gradient too many: {sorted(reached - wanted)}"
        optimizer.step()
        after_step(model)
        losses.append(loss.item())
    with torch.no_grad():
        losses.append(loss_of(model, stage, inputs).item())
    assert losses[-1] < losses[0], losses
    after = dict(model.named_parameters())
    assert {n for n, p in before.items() if not torch.equal(p, after[n])} == names - set(idle)
    return names


def next_token_loss(logits: Tensor, labels: Tensor, ignored: Sequence[int] = ()) -> Tensor:
    """By hand: the mean of -log p(label t + 1 | ... t) over the labels that count."""
    log_p = logits[:, :-1].double().log_softmax(-1)
    wanted = labels[:, 1:]
    kept = wanted != -100
    for token in ignored:
        kept &= wanted != token
    rows, columns = kept.nonzero(as_tuple=True)
    return -log_p[rows, columns, wanted[rows, columns]].mean()
