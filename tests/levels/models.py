"""The bundled specs at their tiny size, with inputs that follow from what each declares: nothing here knows one of them."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from torch import Tensor

import vlmgraph
from tests.architectures.common import enliven
from vlmgraph.lower.example import example_inputs
from vlmgraph.lower.model import CompiledModel
from vlmgraph.processor import Processor
from vlmgraph.processor.model import model_processor
from vlmgraph.spec import specs_dir

SPECS = sorted(path.stem for path in specs_dir().glob("*.toml"))


@cache
def tiny(name: str) -> tuple[CompiledModel, Processor]:
    """With random weights everywhere, so that nothing hides behind a gate that starts closed."""
    model = enliven(vlmgraph.compile(vlmgraph.read_spec(name, size="tiny")))
    return model, model_processor(model.spec, model.graph)


def inputs(name: str, program: str, **options: bool | int) -> dict[str, Tensor]:
    model, processor = tiny(name)
    made = example_inputs(model.programs[program].source, processor, program, **options)  # type: ignore[arg-type]
    return {key: torch.from_numpy(np.ascontiguousarray(value)) for key, value in made.items()}


def run(name: str, program: str, given: dict[str, Tensor]) -> dict[str, Tensor]:
    torch.manual_seed(0)  # some draw: a prefix, negatives
    return tiny(name)[0].programs[program](**given)


def far(a: Tensor, b: Tensor) -> float:
    """Relative distance; 1 where the shapes differ."""
    if a.shape != b.shape:
        return 1.0
    return float((a.double() - b.double()).norm() / b.double().norm().clamp_min(1e-12))
