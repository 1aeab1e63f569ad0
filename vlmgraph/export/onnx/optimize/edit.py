"""A graph while it is rewritten: reading what stands behind a value, and putting nodes in the place of others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

MICROSOFT = "com.microsoft"
FEW = 64
"""Elements up to which a constant is read for its numbers."""


class Edit:
    """`done` counts what was fused by the operator that stands there now; `made` are values that several fusions share."""

    def __init__(self, model: ir.Model) -> None:
        self.model, self.graph = model, model.graph
        self.done: Counter[str] = Counter()
        self.made: dict[Hashable, Any] = {}
        self.weights = 0
        for value in (*self.graph.inputs, *self.graph.initializers.values(), *(v for node in self.graph for v in node.outputs)):
            for use in [u for u in value.uses() if u.node.graph is None]:  # nodes that were taken out still count as readers
                use.node.replace_input_with(use.idx, None)

    def add(
        self, before: ir.Node, op: str, inputs: Sequence[ir.Value | None], outputs: int = 1, domain: str = "", **attributes: Any
    ) -> tuple[ir.Value, ...]:
        """A node in front of another; its outputs have the type of the first input until they are given one."""
        node = ir.node(op, inputs, attributes, domain=domain, num_outputs=outputs)
        self.graph.insert_before(before, node)
        if domain:
            self.graph.opset_imports.setdefault(domain, 1)
        return tuple(node.outputs)

    def one(self, before: ir.Node, op: str, *inputs: ir.Value | None, **attributes: Any) -> ir.Value:
        return self.add(before, op, inputs, **attributes)[0]

    def constant(self, array: np.ndarray) -> ir.Value:
        """An initializer with these numbers, the same for equal ones."""
        key = ("constant", str(array.dtype), array.shape, array.tobytes())
        if key not in self.made:
            self.made[key] = self.weight(ir.tensor(array))
        found: ir.Value = self.made[key]
        return found

    def integers(self, *numbers: int) -> ir.Value:
        return self.constant(np.array(numbers, dtype=np.int64))

    def scalar(self, number: int) -> ir.Value:
        return self.constant(np.array(number, dtype=np.int64))

    def weight(self, tensor: Any) -> ir.Value:
        """A tensor of the graph's own, under a new name."""
        while (name := f"optimized_{self.weights}") in self.graph.initializers:
            self.weights += 1
        value = ir.Value(name=name, shape=tensor.shape, type=ir.TensorType(tensor.dtype), const_value=tensor)
        tensor.name = name
        self.graph.register_initializer(value)
        return value

    def replace(self, old: ir.Value, new: ir.Value) -> None:
        """`new` takes the place, the name, the shape and the type of `old`, among the outputs of the graph too."""
        new.shape, new.type = old.shape, old.type
        if (one := old.producer()) is not None and (other := new.producer()) is not None:
            other.metadata_props.update(one.metadata_props)  # the module it stands in
        name, old.name = old.name, f"{old.name}_before"
        new.name = name
        old.replace_all_uses_with(new, replace_graph_outputs=True)

    def merge(self) -> None:
        """Compute equal things once."""
        from onnx_ir.passes.common import CommonSubexpressionEliminationPass

        CommonSubexpressionEliminationPass()(self.model)
        self.clean()

    def clean(self) -> None:
        """Drop what nothing reads any more."""
        from onnx_ir.passes.common import RemoveUnusedNodesPass

        RemoveUnusedNodesPass()(self.model)
        self.graph.sort()  # a sum that a later node gives may have been read in front of it
        for number, value in enumerate(v for node in self.graph for v in node.outputs if v.name is None):
            value.name = f"fused_{number}"


def by(value: ir.Value | None, *ops: str) -> ir.Node | None:
    """The node that makes a value, where it is one of these operators."""
    node = value.producer() if value is not None else None
    return node if node is not None and node.op_type in ops and node.domain == "" else None


def user(value: ir.Value, *ops: str) -> ir.Node | None:
    """The one node that reads a value, where nothing else does and it is one of these operators."""
    uses = list(value.uses())
    if len(uses) != 1 or value.is_graph_output():
        return None
    node = uses[0].node
    return node if node.op_type in ops and node.domain == "" else None


def numbers(value: ir.Value | None) -> np.ndarray | None:
    """A small constant."""
    tensor = ir.convenience.get_const_tensor(value) if value is not None else None
    return tensor.numpy() if tensor is not None and tensor.size <= FEW else None


def number(value: ir.Value | None) -> float | None:
    """A constant of one element."""
    found = numbers(value)
    return float(found.reshape(())) if found is not None and found.size == 1 else None


def whole(value: ir.Value | None) -> list[int] | None:
    """A constant of integers, as a list."""
    found = numbers(value)
    return [int(n) for n in found.reshape(-1)] if found is not None else None


def attribute(node: ir.Node, name: str, default: Any = None) -> Any:
    found = node.attributes.get(name)
    return default if found is None else found.value


def is_weight(value: ir.Value | None) -> bool:
    """Whether a value is a tensor of the graph."""
    return value is not None and value.const_value is not None and value.is_initializer()


def dim(value: ir.Value, axis: int) -> Any:
    """The size of an axis: a number, the name of a symbol, or None."""
    shape = value.shape
    if shape is None or not -len(shape) <= axis < len(shape):
        return None
    size = shape[axis]
    return size if isinstance(size, int) else size.value


def shapes(value: ir.Value) -> list[Any] | None:
    return None if value.shape is None else [dim(value, i) for i in range(len(value.shape))]


def operands(node: ir.Node) -> list[tuple[ir.Value, ir.Value]]:
    """Both inputs of a node that does not mind their order, in both orders."""
    a, b = node.inputs[:2]
    assert a is not None and b is not None
    return [(a, b), (b, a)]
