"""One data file for the weights of all graphs of a folder: what is the same is written once, one tensor at a time."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

DATA = "weights.onnx_data"
SMALL = 1024
"""Bytes up to which a tensor stays inside its graph."""
ALIGN = 64


class Store:
    """Appends tensors to the data file and remembers them, parameters by what they are and all else by its bytes: tied weights, and those
    that several graphs hold, are there once."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.places = folder, dict[Any, tuple[int, int]]()
        self.size = self.saved = 0
        self.file = (folder / DATA).open("wb")

    def close(self) -> None:
        self.file.close()

    def append(self, data: Any) -> tuple[int, int]:
        """Offset and length of these bytes in the file."""
        padding = -self.size % ALIGN
        self.file.write(b"\0" * padding)
        self.file.write(data)
        start, length = self.size + padding, len(data)
        self.size = start + length
        return start, length

    def place(self, tensor: Any) -> tuple[int, int]:
        """Where a tensor is in the file, which it is written to unless it is there."""
        from .weights import Weight

        if isinstance(tensor, Weight):
            key: Any = tensor.key
            data: Any = None
        else:
            data = tensor.tobytes()
            key = (str(tensor.dtype), hashlib.sha256(data).digest())
        if key in self.places:
            self.saved += tensor.nbytes
        elif data is not None:
            self.places[key] = self.append(data)
        else:
            self.places[key] = self.append(np.ascontiguousarray(tensor.read().numpy()).reshape(-1).view(np.uint8))
        return self.places[key]

    def write(self, model: Any, path: Path) -> None:
        """The graph into its file, its large tensors into the shared one."""
        import onnx_ir as ir

        from .weights import turned_back

        turned_back(model.graph, self.places)
        for value in model.graph.initializers.values():
            tensor = value.const_value
            if tensor is None or tensor.nbytes <= SMALL:
                continue
            if isinstance(tensor, ir.ExternalTensor):  # of a graph that is written under another name, too
                self.saved += tensor.nbytes
                continue
            offset, length = self.place(tensor)
            value.const_value = ir.ExternalTensor(
                DATA, offset, length, tensor.dtype, shape=tensor.shape, name=value.name, base_dir=self.folder
            )
        self.file.flush()
        ir.save(model, path)
