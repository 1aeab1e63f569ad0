"""Zero-shot classification: classes are the averages of their descriptions (CLIP, arXiv 2103.00020, section 3.1.4)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..components.inference import ZeroShot
from ..diagnostics import Diagnostic, DiagnosticError
from ..diagnostics import codes as C

if TYPE_CHECKING:
    from ..processor import Processor
    from .model import CompiledModel


@torch.no_grad()
def zero_shot(
    model: CompiledModel, procedure: ZeroShot, images: Mapping[str, Tensor], classes: Tensor, scale: float | None = None
) -> Tensor:
    """Probabilities [B, classes] of images (inputs of the image program) among `classes` [classes, d] (`class_embeddings`)."""
    features = F.normalize(only(model, procedure.image, images), dim=-1)
    return ((procedure.scale if scale is None else scale) * features @ classes.T).softmax(-1)


@torch.no_grad()
def class_embeddings(model: CompiledModel, procedure: ZeroShot, prompts: Sequence[Mapping[str, Tensor]]) -> Tensor:
    """[classes, d] of the inputs of the text program, those of all templates of a class together: each text's embedding normalised,
    averaged over the templates, normalised again. Computed once, it serves any number of images."""
    means = [F.normalize(only(model, procedure.text, given), dim=-1).mean(0) for given in prompts]
    return F.normalize(torch.stack(means), dim=-1)


def classify(model: CompiledModel, processor: Processor, images: Any, labels: Sequence[str]) -> Tensor:
    """Probabilities [B, labels] of pictures. Raises DiagnosticError where the spec declares no such procedure."""
    procedure = next((p for p in model.graph.procedures.values() if isinstance(p, ZeroShot)), None)
    if procedure is None:
        fix = 'declare [inference.classify] with type = "inference.zero_shot"'
        raise DiagnosticError(Diagnostic(C.NO_GENERATE, f"{model.graph.name} has no procedure that classifies", fix=fix))
    prompts = [tensors(model, processor(text=procedure.prompts(label))) for label in labels]
    return zero_shot(model, procedure, tensors(model, processor(images=images)), class_embeddings(model, procedure, prompts))


def tensors(model: CompiledModel, arrays: Mapping[str, Any]) -> dict[str, Tensor]:
    return {name: torch.from_numpy(value).to(model.device) for name, value in arrays.items()}


def only(model: CompiledModel, program: str, inputs: Mapping[str, Tensor]) -> Tensor:
    """The one output of a program."""
    return next(iter(model.programs[program](**inputs).values()))
