"""What a step does that a recording cannot hold: reading values back, sizes that follow from values, going to another device."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from .fixed import Unfit

INDEXED = ("aten::index.Tensor", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_")


class Watch(TorchDispatchMode):
    """Raises Unfit at the first operation that does."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        values = [v for v in tree_leaves((args, kwargs or {})) if isinstance(v, Tensor)]
        name = func._schema.name + (f".{func._overloadname}" if func._overloadname == "Tensor" else "")
        if name in INDEXED:
            dynamic = any(v.dtype in (torch.bool, torch.uint8) for v in values[1:])
        else:
            dynamic = torch.Tag.dynamic_output_shape in func.tags
        if dynamic:
            raise Unfit(f"{func} gives a size that is a value")
        if torch.Tag.data_dependent_output in func.tags:
            raise Unfit(f"{func} reads a value back")
        out = func(*args, **(kwargs or {}))
        if len({v.device for v in [*values, *tree_leaves(out)] if isinstance(v, Tensor) and (v.dim() or func._schema.name in COPIES)}) > 1:
            raise Unfit(f"{func} goes from one device to another")
        return out


COPIES = ("aten::_to_copy", "aten::copy_")
