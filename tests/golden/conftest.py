"""`pytest tests/golden --golden-dir DIR` runs the same tests on any other set of vectors of the same parts.

A set holds `NN-slug/PART.json` and `NN-slug/PART.safetensors` (tensors `in.*`, `param.*`, `out.*`, `mid.*`); all dims come from the JSON.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from vlmgraph.diagnostics import Collector
from vlmgraph.weights.layouts import read_layout
from vlmgraph.weights.load import state_tensors, tied_names
from vlmgraph.weights.rules import Account, Layout

HERE = Path(__file__).parent


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--golden-dir", default=None, help="a folder of golden vectors in place of the copies beside these tests")


@dataclass(frozen=True)
class Held:
    """A tensor of a vector file, as the layouts read it."""

    file: str
    value: Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.value.shape)

    def load(self) -> Tensor:
        return self.value

    def read(self) -> Tensor:
        return self.value


@dataclass(frozen=True)
class Vectors:
    """One part: what it was built with, what went in, what came out."""

    path: Path
    layouts: dict[int, tuple[Layout, Account]] = field(default_factory=dict)

    @cached_property
    def about(self) -> dict[str, Any]:
        return json.loads(self.path.with_suffix(".json").read_text(encoding="utf-8"))

    @property
    def config(self) -> dict[str, Any]:
        return self.about["config"]

    @property
    def tolerance(self) -> float:
        return float(self.about["tolerance"])

    @cached_property
    def tensors(self) -> dict[str, Tensor]:
        return load_file(self.path.with_suffix(".safetensors"))

    def given(self, name: str) -> Tensor:
        return self.tensors[f"in.{name}"]

    def group(self, prefix: str) -> dict[str, Tensor]:
        return {key.removeprefix(prefix): value for key, value in self.tensors.items() if key.startswith(prefix)}

    def fill(self, module: nn.Module, layout: str, **values: Any) -> None:
        """Load the reference's weights into `module`; every key of both sides must be accounted for."""
        rules = read_layout(HERE / "layouts" / f"{layout}.toml", {**flat(self.config), **values})
        names = dict(state_tensors(module))
        found = Collector()
        source = {key: Held(self.path.name, value) for key, value in self.group("param.").items()}
        state, account = rules.load(source, {name: tuple(t.shape) for name, t in names.items()}, found, tied_names(names))
        found.stop()
        with torch.no_grad():
            for name, tensor in names.items():
                tensor.copy_(state[name])
        again = rules.save(state, account.dialect, account.keys)
        assert set(again) == account.keys and all(torch.equal(again[k], source[k].value) for k in again)
        self.layouts[id(module)] = (rules, account)

    def gradients(self, module: nn.Module) -> dict[str, Tensor]:
        """Gradients under the reference's names."""
        rules, account = self.layouts[id(module)]
        grads: dict[int, Tensor] = {}
        state = {}
        for name, parameter in state_tensors(module):
            grad = parameter.grad if parameter.grad is not None else torch.zeros_like(parameter)
            state[name] = grads.setdefault(id(parameter), grad)
        return rules.save(state, account.dialect, account.keys)

    def close(self, name: str, ours: Tensor, where: Tensor | None = None, factor: float = 1.0, first: int | None = None) -> None:
        """Relative error (norm of the difference over the norm) of one recorded tensor within the vector's own tolerance.

        `where` leaves out places that mean nothing (padding); `first` is how many rows of the recorded tensor are meant.
        """
        wanted = self.tensors[name] if first is None else self.tensors[name][:first]
        assert ours.shape == wanted.shape, f"{name}: {tuple(ours.shape)}, recorded {tuple(wanted.shape)}"
        if where is not None:
            ours, wanted = ours[where], wanted[where]
        assert wanted.numel() and wanted.float().norm() > 0
        error = ((ours.double() - wanted.double()).norm() / wanted.double().norm()).item()
        assert error <= factor * self.tolerance, f"{name}: relative error {error:.1e}, allowed {factor * self.tolerance:.0e}"

    def same(self, name: str, ours: Tensor) -> None:
        """Integers and masks: no difference at all."""
        assert torch.equal(ours.long(), self.tensors[name].long()), name

    def gradients_close(self, module: nn.Module, without: tuple[str, ...] = ()) -> None:
        """The recorded norms of gradients, those of parameters whose names begin with `without` apart."""
        wanted = self.group("out.grad_norm.")
        grads = self.gradients(module)
        checked = 0
        largest = max(n.item() for n in wanted.values())
        for name, norm in wanted.items():
            if name.startswith(without) or name not in grads:
                continue
            checked += 1
            assert abs(grads[name].norm().item() - norm.item()) <= 50 * self.tolerance * max(norm.item(), 1e-3 * largest), name
        assert checked > len(wanted) / 4


def flat(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in table.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[prefix + key] = value
    return found


@pytest.fixture
def vectors(request: pytest.FixtureRequest) -> Vectors:
    """The vectors that a test names with `@pytest.mark.part("NN-slug/part")`; skipped where a set of the user's own lacks them."""
    part = request.node.get_closest_marker("part").args[0]
    folder = request.config.getoption("--golden-dir", default=None)
    path = (Path(folder) if folder else HERE) / part
    if not path.with_suffix(".json").is_file():
        if folder:
            pytest.skip(f"{folder} has no {part}.json")
        pytest.fail(f"the project's own copy of {part}.json is missing")
    return Vectors(path)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "part(name): the golden vectors that a test reads")
