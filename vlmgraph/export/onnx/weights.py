"""Weights of a graph as references: they are read when they are written, one at a time."""

from __future__ import annotations

from collections.abc import Container
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor, nn

from ...weights.stream import SOURCE


class Weight(ir.LazyTensor):
    """A parameter, as it is or turned. `key` tells whether two are the same bytes, where both are references."""

    def __init__(self, parameter: Tensor, name: str, turn: bool = False) -> None:
        self.parameter, self.turn = parameter, turn
        self.key = (id(parameter), turn)
        shape = ir.Shape(tuple(reversed(parameter.shape)) if turn else tuple(parameter.shape))
        super().__init__(self.read, dtype=KINDS[parameter.dtype], shape=shape, name=name)

    def read(self) -> ir.Tensor:
        """The numbers, in memory of their own where they are turned or streamed."""
        source: Any = getattr(self.parameter, SOURCE, None)
        x = (self.parameter if source is None else source()).detach()
        assert x.dtype == self.parameter.dtype and x.shape == self.parameter.shape
        return ir.Tensor(array(x.t().contiguous() if self.turn else x.contiguous()), dtype=self.dtype, shape=self.shape, name=self.name)

    def turned(self, name: str) -> Weight:
        return Weight(self.parameter, name, not self.turn)


KINDS = {
    torch.float32: ir.DataType.FLOAT, torch.float64: ir.DataType.DOUBLE, torch.float16: ir.DataType.FLOAT16,
    torch.bfloat16: ir.DataType.BFLOAT16, torch.int64: ir.DataType.INT64, torch.int32: ir.DataType.INT32, torch.int16: ir.DataType.INT16,
    torch.int8: ir.DataType.INT8, torch.uint8: ir.DataType.UINT8, torch.bool: ir.DataType.BOOL,
}  # fmt: skip


def array(x: Tensor) -> np.ndarray:
    if x.dtype == torch.bfloat16:
        import ml_dtypes

        return x.cpu().view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return x.cpu().numpy()


def referenced(graph: ir.Graph, flat: nn.Module) -> None:
    """Initializers that are parameters or buffers become references to them, by their names in `flat`."""
    held = {**dict(flat.named_buffers(remove_duplicate=False)), **dict(flat.named_parameters(remove_duplicate=False))}
    for name, value in graph.initializers.items():
        if name in held:
            value.const_value = Weight(held[name], name)
            value.shape, value.type = value.const_value.shape, ir.TensorType(value.const_value.dtype)
        assert value.const_value is not None, name


def turned(graph: ir.Graph) -> None:
    """x @ w.T becomes a product with the turned weight."""
    for node in [n for n in graph if n.op_type == "Transpose" and not n.domain]:
        value = node.inputs[0]
        weight = None if value is None else value.const_value
        if value is None or not isinstance(weight, Weight) or weight.shape.rank() != 2 or node.outputs[0] in graph.outputs:
            continue
        name = f"{value.name}.T"
        if name not in graph.initializers:
            initializer(graph, weight.turned(name))
        ir.convenience.replace_all_uses_with(node.outputs[0], graph.initializers[name])
        graph.remove(node, safe=True)
        if not value.uses():
            del graph.initializers[str(value.name)]


def turned_back(graph: ir.Graph, there: Container[Any]) -> None:
    """A turned weight whose parameter is written already, for a table of tokens that a head shares, is turned in the graph instead."""
    for value in [v for v in graph.initializers.values() if isinstance(v.const_value, Weight) and v.const_value.turn]:
        weight = value.const_value
        assert isinstance(weight, Weight)
        plain = weight.turned(str(value.name).removesuffix(".T"))
        if weight.key in there or plain.key not in there:
            continue
        known = graph.initializers.get(str(plain.name))
        table = initializer(graph, plain) if known is None else known
        node = ir.Node("", "Transpose", [table], [ir.AttrInt64s("perm", [1, 0])], num_outputs=1, name=f"{value.name}/turned")
        node.outputs[0].name, node.outputs[0].shape, node.outputs[0].type = f"{value.name}/value", value.shape, value.type
        graph.insert_before(graph[0], node)
        ir.convenience.replace_all_uses_with(value, node.outputs[0])
        del graph.initializers[str(value.name)]


def initializer(graph: ir.Graph, weight: Weight) -> ir.Value:
    found = ir.Value(name=weight.name, shape=weight.shape, type=ir.TensorType(weight.dtype), const_value=weight)
    graph.initializers[str(weight.name)] = found
    return found
