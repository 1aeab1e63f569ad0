"""Objectives among the outputs of programs: `lm`, `lm.per_sample`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ..diagnostics import Diagnostic, Label
from ..ir.graph import Source
from ..spec.edges import Endpoint
from .wiring import Wiring


def is_loss(end: Endpoint, wiring: Wiring) -> bool:
    """Whether an output names an objective, and nothing else of that name."""
    others = (wiring.drafts, wiring.blocks, wiring.inputs, wiring.declared, wiring.copies, wiring.broken)
    return f"objective.{end.path[0]}" in wiring.drafts and not any(end.path[0] in known for known in others)


def loss_value(end: Endpoint, label: Label | None, wiring: Wiring, code: str) -> str | None:
    """The loss once more, as a node of the graph on what the objective feeds it; None after reporting why it cannot be one."""
    name, shown = end.path[0], ".".join(end.path)
    loss = f"objective.{name}"
    config = wiring.configs.built[loss]
    wrong = ""
    if wiring.batches.get(name):
        wrong = f"objective {name!r} compares batches: a program has no value of it"
    elif wiring.rebind.get(name):
        wrong = f"objective {name!r} feeds the graph otherwise: a program has no value of it"
    elif end.brackets or end.path[1:] not in ((), ("per_sample",)):
        wrong = f"objective {name!r} has no value {shown!r}: write {name} or {name}.per_sample"
    elif end.path[1:] and "reduce" not in type(config).model_fields:
        wrong = f"{config.kind} is over the whole batch: there is no {shown}"
    if wrong:
        wiring.found.add(Diagnostic(code, wrong, label))
        return None
    if shown in wiring.scores:
        return shown
    component = loss
    if end.path[1:]:
        component = f"{loss}_per_sample"
        while component in wiring.configs.built:
            component += "_"
        fields = {field: getattr(config, field) for field in config.model_fields_set}
        wiring.configs.built[component] = type(config)(**{**fields, "reduce": "sample"})
    ops = {id: id.removeprefix("objective.") for id in wiring.drafts if id.startswith(f"{loss}.")}
    for id, new in {**ops, loss: shown}.items():
        own = wiring.drafts[id]
        inputs = {port: in_graph(source, ops) for port, source in own.inputs.items()}
        of = component if id == loss else own.component
        ports = wiring.configs.built[of].signature(own.facet)
        wiring.scores[new] = replace(own, id=new, component=of, ports=ports, inputs=inputs)
        wiring.note(f"node:{new}", own.label)
    return shown


def in_graph(source: Source, renamed: Mapping[str, str]) -> Source:
    """A source by the names that an objective's own steps have in the graph."""
    return renamed.get(source, source) if isinstance(source, str) else tuple(renamed.get(s, s) for s in source)
