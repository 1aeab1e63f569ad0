"""Programs, objectives, stages and ties: the declarations that name parts of the graph."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from ..diagnostics import Diagnostic, Label
from ..diagnostics import codes as C
from ..ir.graph import Objective, Program, Stage
from ..spec import Spec
from ..spec.edges import EdgeError, Endpoint, parse_edge
from .losses import is_loss, loss_value
from .wiring import Broken, Scope, Wiring


def listed(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else [v for v in value if isinstance(v, str)] if isinstance(value, list) else []


def value_of(text: str, label: Label | None, wiring: Wiring, code: str) -> str | None:
    """The value an output reference names (`projector`, `vision.hidden[-2]`), or None after reporting."""
    try:
        chain = parse_edge(text)
    except EdgeError as error:
        wiring.found.add(Diagnostic(code, str(error), label))
        return None
    end = chain.links[0]
    if len(chain.links) != 1 or not isinstance(end, Endpoint):
        wiring.found.add(Diagnostic(code, f"{text!r} is not one value", label))
        return None
    before = list(wiring.found.found)
    try:
        if is_loss(end, wiring):
            return loss_value(end, label, wiring, code)
        return wiring.sources(end, label, Scope(), None, first=True)[0]
    except Broken:
        added = [d for d in wiring.found.found if d not in before]
        for d in added:
            if d.code in (C.UNKNOWN_NODE, C.UNDECLARED_OUTPUT):
                wiring.found.found.remove(d)
                wiring.found.add(Diagnostic(code, d.message, label, d.secondary, d.notes, d.fix))
        return None


def read_programs(spec: Spec, wiring: Wiring) -> dict[str, Program]:
    programs: dict[str, Program] = {}
    tables = spec.data.get("programs", {})
    if not isinstance(tables, Mapping):
        return programs
    for name, own in tables.items():
        if not isinstance(own, Mapping):
            continue
        path = ("programs", name)
        merged = inherited(spec, wiring, tables, name)
        if merged is None:
            continue
        outputs = []
        for i, text in enumerate(listed(merged.get("outputs"))):
            own_path = (*path, "outputs", i) if "outputs" in own else path
            value = value_of(text, spec.label(own_path, "this output"), wiring, C.PROGRAM_OUTPUT)
            if value is not None:
                outputs.append(value)
                if text != value and text in wiring.declared:
                    wiring.aliases.setdefault(text, value)
        if not listed(merged.get("outputs")):
            wiring.found.add(
                Diagnostic(
                    C.EMPTY_PROGRAM,
                    f"program {name!r} has no outputs",
                    spec.label(path, "declared here", "key"),
                    fix='write outputs = ["..."] or from = "..."',
                )
            )
            continue
        cache = read_cache(spec, wiring, listed(merged.get("cache")), path)
        for i, entry in enumerate(listed(merged.get("carry"))):
            value_of(entry, spec.label((*path, "carry", i) if "carry" in own else path, "carried on"), wiring, C.PROGRAM_OUTPUT)
        inputs = tuple(listed(merged["inputs"])) if "inputs" in merged else None
        for i, cut in enumerate(inputs or ()):
            if cut not in wiring.inputs and cut not in wiring.declared:
                value_of(cut, spec.label((*path, "inputs", i), ""), wiring, C.PROGRAM_INPUT)
        for i, gone in enumerate(listed(merged.get("without"))):
            type_ = wiring.inputs.get(gone)
            if type_ is None or not type_.optional:
                text = f"there is no input {gone!r}" if type_ is None else f"input {gone!r} is not optional"
                wiring.found.add(Diagnostic(C.PROGRAM_INPUT, text, spec.label((*path, "without", i), "left out here")))
        rest = {k: v for k, v in merged.items() if k not in ("outputs", "inputs", "without", "cache", "carry", "from")}
        programs[name] = Program(
            tuple(outputs), inputs, tuple(listed(merged.get("without"))), tuple(cache), tuple(listed(merged.get("carry"))), rest
        )
        label = spec.label(path, "", "key")
        if label:
            wiring.labels[f"program:{name}"] = label
    return programs


def inherited(spec: Spec, wiring: Wiring, tables: Mapping[str, Any], name: str) -> dict[str, Any] | None:
    """A program's table over the ones it comes `from`."""
    chain: list[str] = []
    merged: dict[str, Any] = {}
    at: Any = name
    while isinstance(at, str):
        if at not in chain and spec.lacks("programs", at):
            return None
        if at in chain or not isinstance(tables.get(at), Mapping):
            text = "programs come from one another in a circle" if at in chain else f"there is no program {at!r}"
            wiring.found.add(Diagnostic(C.PROGRAM_FROM, text, spec.label(("programs", chain[-1], "from"), "named here")))
            return None
        chain.append(at)
        merged = {**tables[at], **merged}
        at = tables[at].get("from")
    return merged


def read_objectives(spec: Spec, wiring: Wiring) -> dict[str, Objective]:
    """Losses with their own edges; ports left unbound bind by name to an input or a declared output."""
    objectives: dict[str, Objective] = {}
    tables = spec.data.get("objectives", {})
    for name, own in tables.items() if isinstance(tables, Mapping) else ():
        if not isinstance(own, Mapping):
            continue
        path = ("objectives", name)
        loss = f"objective.{name}"
        cls = wiring.configs.component_class(own.get("type"), (*path, "type"))
        fields = {k: v for k, v in own.items() if k not in ("type", "edges", "when", "weight", "batches", "shared")}
        config = wiring.configs.validate(cls, fields, path) if cls else None
        if config is None:
            wiring.broken.add(loss)
            objectives[name] = Objective(loss, ())
            continue
        wiring.configs.built[loss] = config
        wiring.add_node(loss, loss, label=spec.label(path, "", "key"))
        wiring.batches[name] = tuple(listed(own.get("batches"))) or getattr(cls, "batches", ())
        check_batches(spec, wiring, name, listed(own.get("shared")), path)
        for i, text in enumerate(own.get("edges", []) if isinstance(own.get("edges"), list) else []):
            wiring.edge(text, spec.label((*path, "edges", i)), Scope(objective=name))
        draft = wiring.drafts[loss]
        for port, type_ in draft.ports.inputs.items():
            if port in draft.inputs:
                continue
            if port in wiring.inputs or port in wiring.declared:
                values = wiring.on_every_batch(name, [port]) if wiring.batches[name] else [port]
                draft.inputs[port] = tuple(values) if type_.list else port
            elif not type_.optional:
                note = f"{config.kind} needs {port}: {type_}"
                wiring.found.add(
                    Diagnostic(
                        C.OBJECTIVE_UNBOUND,
                        f"objective {name!r}: {port} is fed by nothing and no input or output has its name",
                        spec.label(path, "", "key"),
                        notes=(note,),
                        fix=f'add edges = ["... -> {name}.{port}"]',
                    )
                )
        objectives[name] = Objective(loss, (), wiring.rebind.get(name, {}), str(own.get("when", "")))
    return objectives


def check_batches(spec: Spec, wiring: Wiring, name: str, shared: list[str], path: tuple[str | int, ...]) -> None:
    """What an objective says of its batches: names that mean nothing else, and inputs that there are."""
    for i, batch in enumerate(wiring.batches[name]):
        if not batch.isidentifier() or batch in (*wiring.drafts, *wiring.blocks, *wiring.inputs, *wiring.declared, *wiring.copies):
            taken = "is no name" if not batch.isidentifier() else "already names something of the graph"
            at = spec.label((*path, "batches", i), "named here") or spec.label(path, "", "key")
            wiring.found.add(
                Diagnostic(C.WRONG_VALUE, f"objective {name!r}: batch {batch!r} {taken}", at, fix="call it otherwise: batches = [...]")
            )
    for i, input in enumerate(shared):
        if input not in wiring.inputs:
            near = difflib.get_close_matches(input, list(wiring.inputs), 1)
            fix = f"did you mean {near[0]!r}?" if near else None
            at = spec.label((*path, "shared", i), "shared here")
            wiring.found.add(
                Diagnostic(C.UNKNOWN_NODE, f"objective {name!r} shares the input {input!r}, which is not declared", at, fix=fix)
            )


def read_stages(spec: Spec, wiring: Wiring, objectives: Mapping[str, Any]) -> dict[str, Stage]:
    stages: dict[str, Stage] = {}
    tables = spec.data.get("stages", {})
    if not isinstance(tables, Mapping):
        return stages
    for name, own in tables.items():
        if not isinstance(own, Mapping):
            continue
        path = ("stages", name)
        train, freeze = listed(of_stage(tables, name, "train", ["all"])), listed(of_stage(tables, name, "freeze", []))
        # names of a stage over a variant are those of the variant; they are checked under it
        elsewhere = "variant" in own and own["variant"] != spec.variant and (spec.stage or "").partition(":")[0] != name
        for key in ("train", "freeze"):
            for i, address in enumerate([] if elsewhere else listed(own.get(key))):
                check_address(spec, wiring, address, (*path, key, i) if isinstance(own.get(key), list) else (*path, key))
        # a stage may only set weights: an average of other stages, a file
        if ("train" in own and not train and not own.get("init")) or (train and "train" in own and set(train) <= set(freeze)):
            other = spec.label((*path, "freeze"), "everything of it is frozen here")
            text, at = f"stage {name!r} trains nothing", spec.label((*path, "train"), "trained")
            wiring.found.add(Diagnostic(C.NOTHING_TRAINS, text, at, (other,) if other and train else ()))
        weights = of_stage(tables, name, "objectives", {})
        if isinstance(weights, list):
            weights = dict.fromkeys(weights, 1.0)
        for objective in weights if isinstance(weights, Mapping) and "objectives" in own and not elsewhere else ():
            if objective not in objectives and not spec.lacks("objectives", str(objective)):
                near = difflib.get_close_matches(str(objective), list(objectives), 1)
                wiring.found.add(
                    Diagnostic(
                        C.UNKNOWN_OBJECTIVE,
                        f"stage {name!r} asks for objective {objective!r}, which is not declared",
                        spec.label((*path, "objectives", objective), "", "key"),
                        fix=f"did you mean {near[0]!r}?" if near else None,
                    )
                )
        after = own.get("after", "")
        seen = [name]
        before: Any = after
        while isinstance(before, str) and before:
            if before not in seen and spec.lacks("stages", before):
                break
            if before not in tables or before in seen:
                text = (
                    f"there is no stage {before!r}"
                    if before not in tables
                    else "stages come after one another in a circle: " + " -> ".join([*seen, before])
                )
                close = difflib.get_close_matches(before, list(tables), 1) if before not in tables else []
                fix = f"did you mean {close[0]!r}?" if close else None
                wiring.found.add(Diagnostic(C.STAGE_ORDER, text, spec.label((*path, "after"), ""), fix=fix))
                break
            seen.append(before)
            before = tables[before].get("after", "") if isinstance(tables[before], Mapping) else ""
        init = read_init(spec, wiring, own.get("init", {}), tables, path)
        weights = {k: float(v) for k, v in weights.items() if isinstance(v, (int, float))} if isinstance(weights, Mapping) else {}
        stages[name] = Stage(tuple(train), tuple(freeze), weights or dict.fromkeys(objectives, 1.0), init, str(after))
    return stages


def of_stage(tables: Mapping[str, Any], name: str, key: str, default: Any) -> Any:
    """What a stage says, or else the stage that it comes after: a stage goes on as the one before."""
    seen: set[str] = set()
    at: Any = name
    while isinstance(at, str) and at not in seen and isinstance(tables.get(at), Mapping):
        seen.add(at)
        if key in tables[at]:
            return tables[at][key]
        at = tables[at].get("after")
    return default


def read_init(spec: Spec, wiring: Wiring, init: Any, stages: Mapping[str, Any], path: tuple[str | int, ...]) -> dict[str, Any]:
    """Where weights start: target = source, target = { from = source, rule = "..." }, or `average` of finished stages.

    A source is an address, or a name outside the spec (a stage, a preset, a checkpoint) that whoever runs the stage resolves.
    """
    init = {"*": init} if isinstance(init, str) else init if isinstance(init, Mapping) else {}
    for target, source in init.items():
        here = (*path, "init", target)
        if target == "average":
            for stage in source if isinstance(source, Mapping) else ():
                if stage not in stages:
                    near = difflib.get_close_matches(stage, list(stages), 1)
                    fix = f"did you mean {near[0]!r}?" if near else None
                    text = f"there is no stage {stage!r} to average"
                    wiring.found.add(Diagnostic(C.STAGE_ORDER, text, spec.label((*here, stage), "", "key"), fix=fix))
            continue
        check_address(spec, wiring, target, here)
        if isinstance(source, Mapping):
            if not isinstance(source.get("from"), str) or not set(source) <= {"from", "rule"}:
                text = f"{target} starts from {'{ from = SOURCE, rule = NAME }'}, or from a source by its name"
                wiring.found.add(Diagnostic(C.WRONG_VALUE, text, spec.label(here, "this is something else")))
                continue
            source = source["from"]
        if isinstance(source, str) and source.partition(".")[0] in wiring.configs.tables:
            check_address(spec, wiring, source, here)
    return dict(init)


def read_cache(spec: Spec, wiring: Wiring, names: list[str], path: tuple[str | int, ...]) -> list[str]:
    """The components whose keys and values a program keeps: by their names, those of their nodes, or those of parts (`llm.media`)."""
    found: list[str] = []
    for i, name in enumerate(names):
        at = spec.label((*path, "cache", i), "")
        head, parts = name, tuple[str, ...]()
        while head not in wiring.drafts and head not in wiring.configs.tables and "." in head:
            head, _, part = head.rpartition(".")
            parts = (part, *parts)
        id = wiring.drafts[head].component if head in wiring.drafts else head
        config = wiring.configs.built.get(id)
        if config is None:
            if id not in wiring.configs.failed:
                near = difflib.get_close_matches(name, list(wiring.configs.built), 1)
                fix = f"did you mean {near[0]!r}?" if near else None
                wiring.found.add(Diagnostic(C.PROGRAM_CACHE, f"there is no component {name!r} to cache", at, fix=fix))
        elif not config.cache_bytes_per_token():
            text = f"{id} ({config.kind}) keeps no keys and values: nothing to cache"
            wiring.found.add(Diagnostic(C.PROGRAM_CACHE, text, at))
        elif unknown := [part for part in parts if part not in config.addresses()]:
            note = "parts: " + (", ".join(config.addresses()) or "none")
            wiring.found.add(Diagnostic(C.PROGRAM_CACHE, f"{id} has no part {unknown[0]!r} to cache", at, notes=(note,)))
        if config is not None and id not in found:
            found.append(id)
    return found


def check_address(spec: Spec, wiring: Wiring, address: str, path: tuple[str | int, ...]) -> None:
    """An address starts at a component (or a block's use, or `all`, also written `*`) and goes on through its declared parts."""
    if address in ("all", "*"):
        return
    names = [*wiring.configs.tables, *wiring.blocks]
    parts = address.split(".")
    head = next((".".join(parts[:n]) for n in range(len(parts), 0, -1) if ".".join(parts[:n]) in names), None)
    if head is None:
        near = difflib.get_close_matches(parts[0], names, 1)
        wiring.found.add(
            Diagnostic(
                C.UNKNOWN_ADDRESS,
                f"{address!r} addresses nothing: there is no component {parts[0]!r}",
                spec.label(path, "", "value"),
                fix=f"did you mean {near[0]!r}?" if near else None,
            )
        )
        return
    rest = parts[len(head.split(".")) :]
    config = wiring.configs.built.get(head)
    if rest and config is not None:
        known = config.addresses()
        for part in rest:
            if part not in known:
                near = difflib.get_close_matches(part, known, 1)
                wiring.found.add(
                    Diagnostic(
                        C.UNKNOWN_ADDRESS,
                        f"{head} has no part {part!r}",
                        spec.label(path, "", "value"),
                        notes=("parts: " + (", ".join(known) or "none"),),
                        fix=f"did you mean {near[0]!r}?" if near else None,
                    )
                )
                return


def read_ties(spec: Spec, wiring: Wiring) -> tuple[tuple[str, str], ...]:
    """`a.weight = b.weight`: two parameters that are one."""
    graph = spec.data.get("graph", {})
    ties: list[tuple[str, str]] = []
    for i, text in enumerate(graph.get("ties", []) if isinstance(graph, Mapping) and isinstance(graph.get("ties"), list) else []):
        at = spec.label(("graph", "ties", i), "")
        left, equals, right = (part.strip() for part in text.partition("=")) if isinstance(text, str) else ("", "", "")
        if not (left and equals and right):
            wiring.found.add(Diagnostic(C.BAD_TIE, "a tie is written `component.parameter = component.parameter`", at))
            continue
        for side in (left, right):
            if side.partition(".")[0] not in wiring.configs.tables and side.partition(".")[0] not in wiring.blocks:
                wiring.found.add(Diagnostic(C.BAD_TIE, f"there is no component {side.partition('.')[0]!r}", at))
                break
        else:
            ties.append((left, right))
    return (*ties, *(tie for tie in shared_vocabulary(wiring) if tie not in ties))


def shared_vocabulary(wiring: Wiring) -> list[tuple[str, str]]:
    """A head `of` a decoder whose vocabulary is tied shares the table of the embedding `of` the same decoder, and its added rows."""
    built = wiring.configs.built
    of = {id: table.get("of") for id, (table, _) in wiring.configs.tables.items()}
    tables = {of[id]: id for id, config in built.items() if config.kind == "text.embedding" and of.get(id)}
    ties = []
    for id, config in built.items():
        if config.role == "head" and getattr(config, "tie", False) and of.get(id) in tables:
            table = tables[of[id]]
            ties.append((f"{id}.proj.weight", f"{table}.tokens.weight"))
            if getattr(config, "added", 0) and getattr(built[table], "added", 0):
                ties.append((f"{id}.added.weight", f"{table}.added.weight"))
    return ties
