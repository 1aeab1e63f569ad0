"""A plan beside the graphs that were exported: the same files, inputs, types and open dims."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ...diagnostics import Diagnostic
from ...diagnostics import codes as C
from .graphs import Entry
from .plan import Plan

NAMES = {"float": "float32", "double": "float64"}
MASKS = ("bool", "int64")
"""Whether a mask is of truth values or of ones and zeros is for the export to choose."""


def disagreements(plan: Plan, manifest: Mapping[str, Any]) -> list[Diagnostic]:
    """A finding for every graph that only one of both has, and for every one whose inputs are not those that the plan has shapes for; none
    where a program was refused."""
    found = [finding(name, "the export wrote it, the plan has it not") for name in manifest["graphs"] if name not in plan.graphs]
    for name, (graph, _) in plan.graphs.items():
        exported = manifest["graphs"].get(name)
        if exported is None:
            if graph.program not in manifest["refused"]:
                found.append(finding(name, f"the plan has it, the export wrote {', '.join(manifest['graphs'])}"))
            continue
        theirs = {i["name"]: i for i in exported["inputs"]}
        ours = {e.name: e for e in graph.inputs}
        if list(theirs) != list(ours) and set(theirs) != set(ours):
            found.append(finding(name, f"inputs {', '.join(theirs)}; the plan has {', '.join(ours)}"))
            continue
        found += [finding(name, text) for key, entry in ours.items() for text in differences(entry, theirs[key])]
    return found


def differences(entry: Entry, exported: Mapping[str, Any]) -> list[str]:
    """Of one input: another rank, a number in place of an open dim, another width, another type."""
    dims = exported["dims"]
    shown = [d.constant if d.constant is not None else str(d) for d in entry.dims]
    if len(dims) != len(shown) or any((isinstance(a, int) or isinstance(b, int)) and a != b for a, b in zip(dims, shown)):
        return [f"{entry.name} has the dims {dims}; the plan has {shown}"]
    dtype = named(exported)
    if dtype != entry.dtype and not entry.name.startswith("past_key_values.") and not (entry.mask and dtype in MASKS):
        return [f"{entry.name} is {dtype}; the plan has {entry.dtype}"]
    return []


def named(exported: Mapping[str, Any]) -> str:
    dtype: str = exported["dtype"]
    return NAMES.get(dtype, dtype)


def as_exported(plan: Plan, manifest: Mapping[str, Any], refused: Mapping[str, Diagnostic]) -> Plan:
    """The plan of the graphs that are there, their masks in the type they were exported with, and of what was `refused`."""
    graphs = {}
    for name, (graph, profiles) in plan.graphs.items():
        if name in manifest["graphs"]:
            kinds = {i["name"]: named(i) for i in manifest["graphs"][name]["inputs"]}
            inputs = tuple(replace(e, dtype=kinds[e.name]) if e.mask else e for e in graph.inputs)
            graphs[name] = (replace(graph, inputs=inputs), profiles)
    return replace(plan, graphs=graphs, refused=refused)


def finding(name: str, text: str) -> Diagnostic:
    return Diagnostic(C.CANNOT_EXPORT, f"{name}: {text}", fix="a fault of vlmgraph: the plan is made from the same pieces")
