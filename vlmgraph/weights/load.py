"""Opening models: a spec, a compiled folder, or a published checkpoint folder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..diagnostics import Collector, Diagnostic, DiagnosticError
from ..diagnostics import codes as C
from .import_config import import_config
from .layouts import read_layout
from .rules import Account, Dialect, Layout, Rule
from .safetensors_io import INDEX, SINGLE, LazyTensor, open_weights
from .templates import Template

if TYPE_CHECKING:
    from ..lower.model import CompiledModel

LOCK, CONFIG = "spec.lock.toml", "config.json"
QUANTIZED = "quantization.json"
"""Of a compiled folder that holds codes: which roles have which type."""


@dataclass(frozen=True)
class Origin:
    """Where a model's weights came from, so that they can be written back: `CompiledModel.origin`."""

    folder: Path
    layout: Layout
    account: Account
    config: str
    """The text of config.json."""


def load_model(path: str | Path, device: str = "cpu", dtype: Any = None, mode: str = "eager") -> CompiledModel:
    """A model from a spec (fresh weights), a compiled folder or a checkpoint folder.

    Raises DiagnosticError for anything that is none of these and for every tensor that is not accounted for.
    """
    from ..api import compile
    from ..lower.device import usable
    from ..lower.generate import folder_options

    usable(device)
    folder = Path(path)
    kind = getattr(torch, dtype) if isinstance(dtype, str) else dtype
    if not folder.is_dir():
        return compile(path if not folder.is_file() else folder, device, kind or torch.float32, mode)
    for name, opened in ((LOCK, _compiled), (CONFIG, _published)):
        if (folder / name).is_file():
            options = folder_options(folder)
            model = opened(folder, device, kind, mode)
            model.generation = options
            return model
    text = f"{folder} is no model: it has neither {LOCK} (a compiled folder) nor {CONFIG} (a checkpoint)"
    raise DiagnosticError(Diagnostic(C.NO_CHECKPOINT, text, fix="give the folder that holds these files"))


def _published(folder: Path, device: str, dtype: torch.dtype | None, mode: str) -> CompiledModel:
    from ..api import compile

    imported = import_config(folder / CONFIG)
    tensors = open_weights(folder)
    layout = read_layout(imported.layout, imported.values)
    model = compile(imported.spec, device="meta", dtype=dtype or prevailing(tensors), mode=mode)
    account = fill(model, tensors, layout, device, dtype)
    model.origin = Origin(folder, layout, account, (folder / CONFIG).read_text(encoding="utf-8"))  # type: ignore[assignment]
    return model


def _compiled(folder: Path, device: str, dtype: torch.dtype | None, mode: str) -> CompiledModel:
    from ..api import compile

    if not ((folder / SINGLE).is_file() or (folder / INDEX).is_file()):
        return compile(folder / LOCK, device, dtype or torch.float32, mode)
    tensors = open_weights(folder)
    if (folder / QUANTIZED).is_file():
        from ..lower.fast.lowbit.saved import restored

        model = restored(folder / QUANTIZED, folder / LOCK, dtype, mode)
    else:
        model = compile(folder / LOCK, device="meta", dtype=dtype or prevailing(tensors), mode=mode)
    fill(model, tensors, IDENTITY, device, dtype)
    return model


IDENTITY = Layout("vlmgraph", (Rule((Template("{rest}"),), (Template("{rest}"),)),), dialects=(Dialect(""),))
"""The compiled folder's own names."""


def prevailing(tensors: Mapping[str, LazyTensor]) -> torch.dtype:
    """The dtype that most floating numbers of a checkpoint have."""
    counts: dict[torch.dtype, int] = {}
    for tensor in tensors.values():
        if tensor.dtype.is_floating_point:
            counts[tensor.dtype] = counts.get(tensor.dtype, 0) + torch.Size(tensor.shape).numel()
    return max(counts, key=lambda d: counts[d], default=torch.float32)


def fill(model: nn.Module, tensors: Mapping[str, LazyTensor], layout: Layout, device: str, dtype: torch.dtype | None) -> Account:
    """Give a model on the meta device its numbers: `tensors` through `layout`, and buffers that no checkpoint holds."""
    names = dict(state_tensors(model))
    found = Collector()
    ties = tied_names(names)
    state, account = layout.load(tensors, {name: tuple(p.shape) for name, p in names.items()}, found, ties)
    for name, tensor in state.items():
        if tensor.is_floating_point() != names[name].is_floating_point():
            keys = " + ".join(account.sources.get(name, (name,)))
            held, wanted = (str(t.dtype).removeprefix("torch.") for t in (tensor, names[name]))
            text = f"{keys!r} holds {held}, but {name} holds {wanted}"
            found.add(Diagnostic(C.WEIGHT_DTYPE, text))
    found.stop()
    _rebuild_buffers(model)
    for name in names.keys() - state.keys():  # computed: the layout says so
        buffer = model.get_buffer(name)
        state[name] = buffer.to(dtype or prevailing(tensors)) if buffer.is_floating_point() else buffer
    made: dict[int, Tensor] = {}
    scales = {id(m.scale) for m in model.modules() if m.__dict__.get("keeps_types")}
    for name, old in names.items():
        if id(old) not in made:
            value = state[name].to(device, dtype if state[name].is_floating_point() and id(old) not in scales else None)
            made[id(old)] = nn.Parameter(value, old.requires_grad) if isinstance(old, nn.Parameter) else value
        owner, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(owner), leaf, made[id(old)])
    model.to(device)
    return account


def state_tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Parameters and saved buffers by every name they have."""
    yield from model.named_parameters(remove_duplicate=False)
    for path, module in model.named_modules(remove_duplicate=False):
        for name, buffer in module.named_buffers(recurse=False):
            if name not in module._non_persistent_buffers_set:
                yield f"{path}.{name}" if path else name, buffer


def tied_names(names: Mapping[str, Tensor]) -> list[list[str]]:
    """Groups of names of one tensor."""
    groups: dict[int, list[str]] = {}
    for name, tensor in names.items():
        groups.setdefault(id(tensor), []).append(name)
    return [group for group in groups.values() if len(group) > 1]


def _rebuild_buffers(model: nn.Module) -> None:
    """Storage and values for buffers still on the meta device; the parameters beside them are replaced afterwards."""
    for module in model.modules():
        if any(b.is_meta for b in module.buffers(recurse=False)):
            module.to_empty(device="cpu", recurse=False)
            module.reset_parameters()  # type: ignore[operator]
