"""One data file for the weights of all graphs of a folder: equal bytes are written once."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

DATA = "weights.onnx_data"
SMALL = 1024
"""Bytes up to which a tensor stays inside its graph."""
ALIGN = 64


class Store:
    """Appends tensors to the data file and remembers their bytes: tied weights, and those that several graphs hold, are there once."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.places = folder, dict[tuple[str, bytes], tuple[int, int]]()
        self.size = self.saved = 0
        self.file = (folder / DATA).open("wb")

    def close(self) -> None:
        self.file.close()

    def place(self, kind: str, data: bytes) -> tuple[int, int]:
        """Offset and length of these bytes in the file."""
        key = (kind, hashlib.sha256(data).digest())
        if key in self.places:
            self.saved += len(data)
            return self.places[key]
        padding = -self.size % ALIGN
        self.file.write(b"\0" * padding + data)
        self.places[key] = (self.size + padding, len(data))
        self.size += padding + len(data)
        return self.places[key]

    def write(self, model: Any, path: Path) -> None:
        """The graph into its file, its large tensors into the shared one."""
        import onnx_ir as ir

        for value in model.graph.initializers.values():
            tensor = value.const_value
            if tensor is None or tensor.nbytes <= SMALL:
                continue
            offset, length = self.place(str(tensor.dtype), tensor.tobytes())
            value.const_value = ir.ExternalTensor(
                DATA, offset, length, tensor.dtype, shape=tensor.shape, name=value.name, base_dir=self.folder
            )
        self.file.flush()
        ir.save(model, path)
