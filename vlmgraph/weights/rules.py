"""Reversible rules between the keys of a checkpoint and the keys of a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from ..diagnostics import Collector, Diagnostic
from ..diagnostics import codes as C
from .operations import Operation
from .templates import Captures, Template


class Source(Protocol):
    """A tensor that is read when asked for."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def file(self) -> str: ...
    def load(self) -> Tensor: ...
    def read(self) -> Tensor: ...


@dataclass(frozen=True)
class Rule:
    """Tensors of the checkpoint (`sources`) against tensors of the model (`targets`).

    One to one: a new name, and `operations` in this order. One to several: cut along `dim` into the widths the model has
    (a fused q, k, v), after the operations. Several to one: joined along `dim`; saving cuts into equal parts.
    """

    sources: tuple[Template, ...]
    targets: tuple[Template, ...]
    operations: tuple[Operation, ...] = ()
    dim: int = 0

    def __post_init__(self) -> None:
        if min(len(self.sources), len(self.targets)) != 1:
            raise ValueError(f"{self} maps several tensors to several")
        names = {t.names for t in (*self.sources, *self.targets)}
        if len(names) != 1:
            raise ValueError(f"{self}: the holes on both sides must be the same")

    def __str__(self) -> str:
        return " + ".join(t.text for t in self.sources) + " -> " + " + ".join(t.text for t in self.targets)

    def forward(self, parts: Sequence[Tensor], shapes: Sequence[Sequence[int]]) -> list[Tensor]:
        """Tensors of the model, of `shapes` where the checkpoint fits them."""
        if len(self.targets) > 1:
            x = parts[0]
            for operation in self.operations:
                x = operation.load(x, x.shape)
            return list(x.split([s[self.dim] for s in shapes], self.dim))
        x = parts[0] if len(parts) == 1 else torch.cat(list(parts), self.dim)
        for operation in self.operations:
            x = operation.load(x, shapes[0])
        return [x]

    def backward(self, parts: Sequence[Tensor]) -> list[Tensor]:
        """Tensors of the checkpoint."""
        x = parts[0] if len(parts) == 1 else torch.cat(list(parts), self.dim)
        for operation in reversed(self.operations):
            x = operation.save(x)
        return [x] if len(self.sources) == 1 else list(x.chunk(len(self.sources), self.dim))


@dataclass(frozen=True)
class Dialect:
    """How releases of one format differ: key prefixes in the file, and what the rules call them."""

    name: str
    prefixes: tuple[tuple[str, str], ...] = ()

    def read(self, key: str) -> str | None:
        """The rules' name of a key of the file; None where this dialect would not write the key so."""
        for theirs, ours in sorted(self.prefixes, key=lambda p: -len(p[0])):
            if key.startswith(theirs):
                return ours + key[len(theirs) :]
        return key if self.write(key) == key else None

    def write(self, key: str) -> str:
        for theirs, ours in sorted(self.prefixes, key=lambda p: -len(p[1])):
            if key.startswith(ours):
                return theirs + key[len(ours) :]
        return key


@dataclass
class Account:
    """What became of every key. `sources` gives the keys a tensor of the model came from."""

    layout: str
    dialect: str = ""
    sources: dict[str, tuple[str, ...]] = field(default_factory=dict)
    ignored: dict[str, str] = field(default_factory=dict)

    @property
    def keys(self) -> frozenset[str]:
        """Keys of the checkpoint that were used."""
        return frozenset(key for keys in self.sources.values() for key in keys)


@dataclass(frozen=True)
class Use:
    """A rule at certain indices, with the keys found for it."""

    rule: Rule
    captures: Captures
    keys: dict[int, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Layout:
    """The rules of one checkpoint family. The first rule that matches a key has it."""

    name: str
    rules: tuple[Rule, ...]
    ignore: tuple[tuple[Template, str], ...] = ()
    dialects: tuple[Dialect, ...] = (Dialect(""),)
    computed: tuple[tuple[Template, str], ...] = ()
    """Buffers of the model that no key holds and it fills by itself, and why."""

    def computes(self, name: str) -> bool:
        return any(pattern.match(name) is not None for pattern, _ in self.computed)

    def choose(self, keys: Sequence[str]) -> Dialect:
        """The dialect that explains most keys; the earlier one of two as good."""

        def known(dialect: Dialect) -> int:
            return sum(name is not None and self._source(name) is not None for name in map(dialect.read, keys))

        return max(self.dialects, key=known)

    def dialect(self, name: str) -> Dialect:
        return next(d for d in self.dialects if d.name == name)

    def _source(self, key: str) -> tuple[Rule, int, Captures] | None:
        return _find(self.rules, key, "sources")

    def _target(self, key: str) -> tuple[Rule, int, Captures] | None:
        return _find(self.rules, key, "targets")

    def load(
        self, source: Mapping[str, Source], shapes: Mapping[str, Sequence[int]], found: Collector, ties: Sequence[Sequence[str]] = ()
    ) -> tuple[dict[str, Tensor], Account]:
        """The model's tensors, of the given `shapes`. Every key of both sides that is not explained is a finding.

        `ties` are groups of names that are one tensor: one key of the checkpoint fills all, several must agree.
        """
        dialect = self.choose(list(source))
        account = Account(self.name, dialect.name)
        uses: dict[tuple[int, Captures], Use] = {}
        for key in source:
            name = dialect.read(key)
            reason = next((why for pattern, why in self.ignore if name is not None and pattern.match(name) is not None), None)
            hit = None if name is None or reason is not None else self._source(name)
            if reason is not None:
                account.ignored[key] = reason
            elif hit is None:
                found.add(_unexpected(source[key].file, key, f"no rule of the layout {self.name!r} explains it"))
            else:
                rule, slot, captures = hit
                uses.setdefault((id(rule), captures), Use(rule, captures)).keys[slot] = key
        state: dict[str, Tensor] = {}
        for use in uses.values():
            self._apply(use, dialect, source, shapes, found, state, account)
        self._tie(ties, state, account, found)
        for name in shapes:
            if name not in state and not self.computes(name):
                found.add(self._missing(name, dialect, source))
        return state, account

    def _apply(
        self, use: Use, dialect: Dialect, source: Mapping[str, Source], shapes: Mapping[str, Sequence[int]], found: Collector,
        state: dict[str, Tensor], account: Account,
    ) -> None:  # fmt: skip
        rule, keys = use.rule, tuple(use.keys[slot] for slot in sorted(use.keys))
        targets = [t.fill(use.captures) for t in rule.targets]
        absent = [t for t in targets if t not in shapes]
        if absent:
            for key in keys:
                found.add(_unexpected(source[key].file, key, f"it belongs to {absent[0]}, which this model does not have"))
            return
        if len(keys) < len(rule.sources):
            for slot, template in enumerate(rule.sources):
                if slot not in use.keys:
                    wanted = dialect.write(template.fill(use.captures))
                    text = f"{source[keys[0]].file} holds {keys[0]!r} but not {wanted!r}; together they make {targets[0]}"
                    found.add(Diagnostic(C.MISSING_WEIGHT, text))
            return
        wanted_shapes = [tuple(shapes[t]) for t in targets]
        try:
            copied = bool(rule.operations) or len(keys) > 1
            tensors = rule.forward([source[key].read() if copied else source[key].load() for key in keys], wanted_shapes)
        except (RuntimeError, IndexError):  # the shapes do not fit the operation; said below
            tensors = []
        for slot, (target, shape) in enumerate(zip(targets, wanted_shapes)):
            tensor = tensors[slot] if tensors else None
            if tensor is None or tuple(tensor.shape) != shape:
                given = ", ".join(f"{key!r} {list(source[key].shape)}" for key in keys)
                text = f"{source[keys[0]].file}: {given} does not fit {target} {list(shape)}"
                found.add(
                    Diagnostic(
                        C.WEIGHT_SHAPE, text, notes=(f"rule: {rule}",), fix="the configuration and the weights are of different models"
                    )
                )
                tensor = torch.empty(shape)
            elif target in state and not torch.equal(state[target], tensor):
                found.add(_differ(account.sources[target], keys, f"are one tensor, {target}"))
            state.setdefault(target, tensor)
            account.sources[target] = (*account.sources.get(target, ()), *keys)

    def _tie(self, ties: Sequence[Sequence[str]], state: dict[str, Tensor], account: Account, found: Collector) -> None:
        for names in ties:
            given = [n for n in names if n in state]
            for other in given[1:]:
                if state[other].shape == state[given[0]].shape and not torch.equal(state[other], state[given[0]]):
                    found.add(_differ(account.sources[given[0]], account.sources[other], "are one tensor in this model"))
            for name in names:
                if given:
                    state[name] = state[given[0]]

    def _missing(self, name: str, dialect: Dialect, source: Mapping[str, Source]) -> Diagnostic:
        files = sorted({s.file for s in source.values()})
        where = files[0] if len(files) == 1 else f"none of {len(files)} files ({files[0]} ...)" if files else "the checkpoint"
        hit = self._target(name)
        if hit is None:
            return Diagnostic(C.MISSING_WEIGHT, f"{where}: no rule of the layout {self.name!r} gives {name}")
        keys = " + ".join(repr(dialect.write(t.fill(hit[2]))) for t in hit[0].sources)
        return Diagnostic(C.MISSING_WEIGHT, f"{where} lacks {keys}, from which {name} is made", notes=(f"rule: {hit[0]}",))

    def save(self, state: Mapping[str, Tensor], dialect: str = "", keys: frozenset[str] | None = None) -> dict[str, Tensor]:
        """The checkpoint's tensors. `keys` are those it should have (of tensors with two names, say); default: one name a tensor.

        Raises KeyError naming tensors that no rule explains.
        """
        form = self.dialect(dialect) if any(d.name == dialect for d in self.dialects) else self.dialects[0]
        state = {name: tensor for name, tensor in state.items() if not self.computes(name)}
        uses: dict[tuple[int, Captures], Use] = {}
        loose: list[str] = []
        for name in state:
            hits = _hits(self.rules, name)
            if not hits:
                loose.append(name)
            # a second rule for the same tensor gives its second key, which is written only where it is asked for
            for rule, slot, captures in hits[: None if keys is not None else 1]:
                uses.setdefault((id(rule), captures), Use(rule, captures)).keys[slot] = name
        written: set[int] = set()
        out: dict[str, Tensor] = {}
        order = {id(rule): n for n, rule in enumerate(self.rules)}
        for use in sorted(uses.values(), key=lambda u: order[id(u.rule)]):
            names = [form.write(t.fill(use.captures)) for t in use.rule.sources]
            parts = [state[use.keys[slot]] for slot in sorted(use.keys)]
            if len(parts) < len(use.rule.targets):
                raise KeyError(f"{use.rule} lacks {len(use.rule.targets) - len(parts)} of its tensors")
            twin = all(id(p) in written for p in parts)
            if (keys is not None and not keys.issuperset(names)) or (keys is None and twin):
                continue
            written.update(id(p) for p in parts)
            out.update(zip(names, use.rule.backward(parts)))
        loose += [n for n in state if keys is not None and id(state[n]) not in written and n not in loose]
        lost = [n for n in loose if id(state[n]) not in written]
        if lost:
            raise KeyError(f"no rule of the layout {self.name!r} explains {', '.join(lost)}")
        return out


def _find(rules: Sequence[Rule], key: str, side: str) -> tuple[Rule, int, Captures] | None:
    for rule in rules:
        for slot, template in enumerate(getattr(rule, side)):
            captures = template.match(key)
            if captures is not None:
                return rule, slot, captures
    return None


def _hits(rules: Sequence[Rule], name: str) -> list[tuple[Rule, int, Captures]]:
    """Every rule that gives a tensor of the model."""
    found = []
    for rule in rules:
        for slot, template in enumerate(rule.targets):
            captures = template.match(name)
            if captures is not None:
                found.append((rule, slot, captures))
                break
    return found


def _differ(a: Sequence[str], b: Sequence[str], why: str) -> Diagnostic:
    text = f"{' + '.join(a)!r} and {' + '.join(b)!r} {why}, but their values differ"
    return Diagnostic(C.TIED_DIFFER, text, fix="say in the configuration that they are not tied (tie_word_embeddings)")


def _unexpected(file: str, key: str, why: str) -> Diagnostic:
    return Diagnostic(C.UNEXPECTED_WEIGHT, f"{file} holds {key!r}: {why}")
