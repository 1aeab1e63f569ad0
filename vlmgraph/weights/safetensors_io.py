"""Checkpoint folders of safetensors files: read lazily, single or sharded; written whole or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..diagnostics import Diagnostic, DiagnosticError
from ..diagnostics import codes as C
from .json_io import read_json

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
SHARD_BYTES = 5_000_000_000

DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64, "I32": torch.int32,
    "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip


@dataclass(frozen=True)
class WeightsFile:
    """One memory-mapped safetensors file."""

    path: Path

    @cached_property
    def _open(self) -> Any:
        try:
            return safe_open(str(self.path), framework="pt")
        except (SafetensorError, OSError, ValueError) as error:
            # a file cut short, not safetensors at all, or a header that does not fit
            raise DiagnosticError(Diagnostic(C.BAD_WEIGHTS, f"{self.path} cannot be read: {error}", fix="fetch the file again")) from error

    def names(self) -> list[str]:
        return list(self._open.keys())

    def part(self, key: str) -> Any:
        return self._open.get_slice(key)

    def load(self, key: str) -> Tensor:
        try:
            return self._open.get_tensor(key)
        except (SafetensorError, OSError) as error:
            raise DiagnosticError(Diagnostic(C.BAD_WEIGHTS, f"{self.path}: {key!r} cannot be read: {error}")) from error

    @cached_property
    def _header(self) -> tuple[int, dict[str, Any]]:
        """Where the numbers begin, and the header, whose form `safe_open` has validated."""
        self._open  # noqa: B018
        with self.path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            return 8 + size, json.loads(file.read(size))

    def read(self, key: str, dtype: torch.dtype) -> Tensor:
        """A copy that leaves no pages of the file mapped."""
        start, header = self._header
        first, last = header[key]["data_offsets"]
        with self.path.open("rb") as file:
            data = np.fromfile(file, np.uint8, last - first, offset=start + first)
        return torch.from_numpy(data).view(dtype).reshape(header[key]["shape"])


@dataclass(frozen=True)
class LazyTensor:
    """A tensor that is read when asked for."""

    source: WeightsFile
    key: str

    @property
    def file(self) -> str:
        return self.source.path.name

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.source.part(self.key).get_shape())

    @property
    def dtype(self) -> torch.dtype:
        name = self.source.part(self.key).get_dtype()
        if name not in DTYPES:
            known = ", ".join(DTYPES)
            raise DiagnosticError(
                Diagnostic(C.WEIGHT_DTYPE, f"{self.source.path}: {self.key!r} holds {name}", notes=(f"read are {known}",))
            )
        return DTYPES[name]

    def load(self) -> Tensor:
        """Mapped: its pages are read when they are used."""
        self.dtype  # noqa: B018  kinds of numbers that are not read say so
        return self.source.load(self.key)

    def read(self) -> Tensor:
        """In memory of its own, for what makes other tensors out of it: the mapped pages would stay beside those."""
        return self.source.read(self.key, self.dtype)


def open_weights(folder: Path) -> dict[str, LazyTensor]:
    """Every tensor of `model.safetensors`, or of the shards of its index, by key.

    Raises DiagnosticError when files are missing, cut short, disagree with the index, or when there are only pickles.
    """
    if (folder / INDEX).is_file():
        return _sharded(folder)
    if (folder / SINGLE).is_file():
        file = WeightsFile(folder / SINGLE)
        return {key: LazyTensor(file, key) for key in file.names()}
    pickles = sorted(p.name for pattern in PICKLES for p in folder.glob(pattern))
    if pickles:
        text = f"{folder} holds weights only as pickles ({', '.join(pickles[:3])}); a pickle can run code when it is opened, so it is not"
        raise DiagnosticError(Diagnostic(C.PICKLED_WEIGHTS, text, fix="convert them to safetensors where you trust them"))
    raise DiagnosticError(Diagnostic(C.NO_CHECKPOINT, f"{folder} has neither {SINGLE} nor {INDEX}"))


def _sharded(folder: Path) -> dict[str, LazyTensor]:
    index = folder / INDEX
    mapping = read_json(index).get("weight_map")
    if not isinstance(mapping, dict) or not all(isinstance(v, str) for v in mapping.values()):
        raise DiagnosticError(Diagnostic(C.BAD_CONFIG, f"{index} has no `weight_map` of key = file"))
    files: dict[str, WeightsFile] = {}
    found: list[Diagnostic] = []
    for name in sorted(set(mapping.values())):
        if Path(name).name != name:
            found.append(Diagnostic(C.MISSING_SHARD, f"{index} names {name!r}, which is not a file beside it"))
        elif not (folder / name).is_file():
            count = sum(v == name for v in mapping.values())
            found.append(Diagnostic(C.MISSING_SHARD, f"{index} names {name!r} for {count} tensors, but there is no such file"))
        else:
            files[name] = WeightsFile(folder / name)
    if found:
        raise DiagnosticError(*found)
    held = {name: set(file.names()) for name, file in files.items()}
    for key, name in mapping.items():
        if key not in held[name]:
            found.append(Diagnostic(C.MISSING_WEIGHT, f"{index} says that {name} holds {key!r}, but it does not"))
    for name, keys in held.items():
        for key in sorted(keys):
            if mapping.get(key) != name:
                found.append(Diagnostic(C.UNEXPECTED_WEIGHT, f"{name} holds {key!r}, which {INDEX} does not list for it"))
    if found:
        raise DiagnosticError(*found)
    return {key: LazyTensor(files[name], key) for key, name in mapping.items()}


def save_weights(tensors: Mapping[str, Tensor], folder: Path, max_bytes: int = SHARD_BYTES) -> list[Path]:
    """Write `model.safetensors`, or shards of at most `max_bytes` (a larger tensor has its own) with their index.

    Each file gets its name when it is complete; the index comes last.
    """
    folder.mkdir(parents=True, exist_ok=True)
    shards = _split(tensors, max_bytes)
    if len(shards) == 1:
        names = [SINGLE]
    else:
        names = [f"model-{n:05d}-of-{len(shards):05d}.safetensors" for n in range(1, len(shards) + 1)]
    for name, keys in zip(names, shards):
        part = folder / f".{name}.{os.getpid()}.part"
        try:
            save_file({key: tensors[key].detach().cpu().contiguous().clone() for key in keys}, str(part), metadata={"format": "pt"})
            part.replace(folder / name)
        finally:
            part.unlink(missing_ok=True)
    if len(shards) > 1:
        total = sum(t.numel() * t.element_size() for t in tensors.values())
        mapping = {key: name for name, keys in zip(names, shards) for key in keys}
        write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": dict(sorted(mapping.items()))})
    _remove_old(folder, names)
    return [folder / name for name in names]


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    write_text(path, json.dumps(value, indent=2, sort_keys=False, ensure_ascii=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Under a temporary name first."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_text(text, encoding="utf-8")
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _split(tensors: Mapping[str, Tensor], max_bytes: int) -> list[list[str]]:
    shards: list[list[str]] = [[]]
    filled = 0
    for key, tensor in tensors.items():
        size = tensor.numel() * tensor.element_size()
        if shards[-1] and filled + size > max_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(key)
        filled += size
    return shards


def _remove_old(folder: Path, names: Iterable[str]) -> None:
    """An index or shards of an earlier save would be read instead of what was just written."""
    keep = set(names) | ({INDEX} if len(list(names)) > 1 else set())
    for path in [folder / INDEX, folder / SINGLE, *folder.glob("model-*-of-*.safetensors")]:
        if path.name not in keep and path.is_file():
            path.unlink()
