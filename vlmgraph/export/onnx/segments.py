"""A graph that onnxruntime runs a part at a time, so that few of its weights are in memory at once."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx

BYTES = 128 << 20
"""Of weights in a part; a larger tensor is a part's only one."""


class Segmented:
    """Takes the place of a session: `run` opens one part after another, each with the weights that it reads."""

    def __init__(self, path: Path, most: int | None = None) -> None:
        self.folder, self.model = path.parent, onnx.load(str(path), load_external_data=False)
        graph = self.model.graph
        self.weights = {t.name: t for t in graph.initializer}
        self.parts = list(self.cut(BYTES if most is None else most))
        self.last: dict[str, int] = {}
        for i, nodes in enumerate(self.parts):
            self.last |= dict.fromkeys((name for node in nodes for name in read_by(node)), i)
        self.last |= dict.fromkeys((o.name for o in graph.output), len(self.parts))

    def get_inputs(self) -> Any:
        return self.model.graph.input

    def cut(self, most: int) -> Iterator[list[onnx.NodeProto]]:
        """The nodes in their order, in lists that read at most so many bytes of weights."""
        nodes: list[onnx.NodeProto] = []
        held: set[str] = set()
        total = 0
        for node in self.model.graph.node:
            new = {name for name in read_by(node) if name in self.weights} - held
            size = sum(size_of(self.weights[name]) for name in new)
            if nodes and total + size > most and size:
                yield nodes
                nodes, held, total = [], set(), 0
                size = sum(size_of(self.weights[name]) for name in new)
            nodes.append(node)
            held |= new
            total += size
        yield nodes

    def run(self, wanted: None, feed: dict[str, np.ndarray]) -> list[Any]:
        """The outputs of the graph, in their order."""
        *_, (_, values) = self.steps(feed)
        return [values[o.name] if o.name in values else feed[o.name] for o in self.model.graph.output]

    def first(self, feed: dict[str, np.ndarray], watched: Container[str], departs: Callable[[str, np.ndarray], bool]) -> str | None:
        """The first of the `watched` values, in the order of the nodes that make them, that departs; what comes behind it does not run."""
        for nodes, values in self.steps(feed, watched):
            for name in (o for node in nodes for o in node.output if o in watched):
                if departs(name, values[name]):
                    return name
        return None

    def steps(self, feed: dict[str, np.ndarray], watched: Container[str] = ()) -> Iterator[tuple[list[onnx.NodeProto], dict[str, Any]]]:
        """Each part after it ran, with the values that a later one reads and those of its own that are `watched`."""
        values: dict[str, Any] = dict(feed)
        for i, nodes in enumerate(self.parts):
            made = {o for node in nodes for o in node.output if o}
            needed = [n for n in dict.fromkeys(name for node in nodes for name in read_by(node)) if n not in made]
            leaving = [name for name in sorted(made) if self.last.get(name, -1) > i or name in watched]
            entering = [n for n in needed if n not in self.weights]
            session = self.opened(nodes, {n: values[n] for n in entering}, [n for n in needed if n in self.weights], leaving)
            values |= dict(zip(leaving, session.run(leaving, {n: values[n] for n in entering})))
            del session
            yield nodes, values
            values = {name: x for name, x in values.items() if self.last.get(name, -1) > i}

    def opened(self, nodes: list[onnx.NodeProto], entering: dict[str, Any], weights: list[str], leaving: list[str]) -> Any:
        import onnxruntime

        kinds = {name: onnx.helper.np_dtype_to_tensor_dtype(np.asarray(x).dtype) for name, x in entering.items()}
        inputs = [onnx.helper.make_tensor_value_info(name, kind, None) for name, kind in kinds.items()]
        outputs = [onnx.helper.make_empty_tensor_value_info(name) for name in leaving]
        graph = onnx.helper.make_graph(nodes, "part", inputs, outputs, [self.weights[name] for name in weights])
        model = onnx.helper.make_model(graph, opset_imports=self.model.opset_import, ir_version=self.model.ir_version)
        model.functions.extend(self.model.functions)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.enable_cpu_mem_arena = False
        options.add_session_config_entry("session.disable_prepacking", "1")
        path = self.folder / ".part.onnx"
        try:
            path.write_bytes(model.SerializeToString())
            return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        finally:
            path.unlink(missing_ok=True)


def read_by(node: onnx.NodeProto) -> Iterator[str]:
    """The names of values that a node reads, in its branches too."""
    yield from (name for name in node.input if name)
    for attribute in node.attribute:
        for graph in (attribute.g, *attribute.graphs):
            inner = {i.name for i in graph.input} | {t.name for t in graph.initializer} | {o for n in graph.node for o in n.output}
            yield from (name for n in graph.node for name in read_by(n) if name not in inner)
            yield from (o.name for o in graph.output if o.name not in inner)


def size_of(tensor: onnx.TensorProto) -> int:
    return int(next((e.value for e in tensor.external_data if e.key == "length"), 0))
