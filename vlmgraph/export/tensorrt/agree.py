"""A plan beside the graphs that were exported: the same files, inputs, types and open dims."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...diagnostics import Diagnostic
from ...diagnostics import codes as C
from .graphs import Entry
from .plan import Plan

NAMES = {"float": "float32", "double": "float64"}


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
    dtype = NAMES.get(exported["dtype"], exported["dtype"])
    if dtype != entry.dtype and not entry.name.startswith("past_key_values."):
        return [f"{entry.name} is {dtype}; the plan has {entry.dtype}"]
    return []


def finding(name: str, text: str) -> Diagnostic:
    return Diagnostic(C.CANNOT_EXPORT, f"{name}: {text}", fix="a fault of vlmgraph: the plan is made from the same pieces")
