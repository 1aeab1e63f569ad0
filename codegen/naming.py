"""Names of classes: a component's class by its kind, what several towers have in versions of their own by the tower."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from .plans import Plan

if TYPE_CHECKING:
    from vlmgraph.components.base import Component

TOWERS = {"vision": "Vision", "text": "Text", "audio": "Audio", "decoder": "Decoder", "encdec": "Decoder"}


def component_of(path: str, components: Mapping[str, Component]) -> str:
    """The id of the component that a module's path lies in."""
    parts = path.split(".")
    return next((c for i in range(len(parts), 0, -1) if (c := ".".join(parts[:i])) in components), parts[0])


def name_plans(plans: Iterable[Plan], components: Mapping[str, Component]) -> None:
    wanted: dict[str, list[Plan]] = {}
    for plan in plans:
        owners = {type(components[m.path]).__name__ for m in plan.instances if m.path in components}
        whole = all(m.path in components for m in plan.instances)
        plan.name = owners.pop() if whole and len(owners) == 1 else plan.cls.__name__
        wanted.setdefault(plan.name, []).append(plan)
    for name, same in wanted.items():
        if len(same) == 1:
            continue
        towers = [tower(plan, components) for plan in same]
        for plan, prefix in zip(same, towers):
            if prefix and not name.startswith(prefix) and towers.count(prefix) == 1:
                plan.name = prefix + name
            elif prefix and towers.count(prefix) > 1:
                others = [p for p, t in zip(same, towers) if t == prefix and p is not plan]
                base = name.removeprefix(prefix)
                plan.name = prefix + (special(plan, others) or place(plan)) + base


def tower(plan: Plan, components: Mapping[str, Component]) -> str:
    """The one tower that all instances are in, or nothing."""
    ids = {component_of(m.path, components) for m in plan.instances}
    found = {_tower(i, components) for i in ids}
    return found.pop() if len(found) == 1 else ""


def _tower(id: str, components: Mapping[str, Component]) -> str:
    if id not in components:
        return ""
    kind = components[id].kind.partition(".")[0]
    return TOWERS.get(kind) or type(components[id]).__name__


def special(plan: Plan, others: list[Plan]) -> str:
    """A part that the others of its kind lack: `Cross` for a layer with cross-attention."""
    theirs = {attr for other in others for attr, _ in other.instances[0].members}
    own = [attr for attr, _ in plan.instances[0].members if attr not in theirs]
    return "".join(w.title() for w in own[0].split("_")) if own else ""


def place(plan: Plan) -> str:
    """Where an instance stands, for two versions of a class in one tower: `Inserted`, `Cross`, ..."""
    parts = [p for p in plan.instances[0].path.split(".") if not p.isdecimal()]
    inner = parts[-2] if len(parts) > 2 and parts[-1] in ("attention", "mlp", "norm") else parts[-1]
    if "inserts" in parts:
        inner = parts[parts.index("inserts") + 1]
    return "".join(w.title() for w in inner.split("_")) if inner not in ("layers", plan.cls.__name__.lower()) else ""
