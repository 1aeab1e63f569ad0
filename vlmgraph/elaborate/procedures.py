"""`[inference]`: named procedures over programs, validated like components."""

from __future__ import annotations

import difflib
from collections.abc import Mapping

from ..components.inference import KINDS, RESERVED, Procedure
from ..diagnostics import Diagnostic
from ..diagnostics import codes as C
from ..ir.graph import Program
from ..spec import Spec
from .wiring import Wiring


def read_procedures(spec: Spec, wiring: Wiring, programs: Mapping[str, Program]) -> dict[str, Procedure]:
    """The procedures of known types; what they name must be there. Reserved types are left to whoever runs them."""
    found: dict[str, Procedure] = {}
    for section in ("inference", "recipe"):
        check_types(spec, wiring, section)
    tables = spec.data.get("inference", {})
    for name, table in tables.items() if isinstance(tables, Mapping) else ():
        cls = KINDS.get(str(table.get("type"))) if isinstance(table, Mapping) else None
        if cls is None:
            continue
        path = ("inference", name)
        procedure = wiring.configs.validate(cls, {k: v for k, v in table.items() if k != "type"}, path)  # type: ignore[arg-type]
        if not isinstance(procedure, Procedure):
            continue
        for field, program in procedure.programs().items():
            if program not in programs:
                near = difflib.get_close_matches(program, programs, 1)
                text = f"inference {name!r} runs the program {program!r}, which is not declared"
                fix = f"did you mean {near[0]!r}?" if near else "programs: " + (", ".join(programs) or "none")
                wiring.found.add(Diagnostic(C.PROCEDURE_PROGRAM, text, spec.label((*path, field), "named here"), fix=fix))
        for field, (program, value) in procedure.values().items():
            if program in programs and value not in (programs[program].inputs or ()) and value not in wiring.inputs:
                text = f"inference {name!r} feeds {value!r} to program {program!r}, which is not cut there"
                at, other = spec.label((*path, field), "fed here"), spec.label(("programs", program), "the program", "key")
                fix = f'write inputs = ["{value}"] in [programs.{program}]'
                wiring.found.add(Diagnostic(C.PROCEDURE_PROGRAM, text, at, (other,) if other else (), fix=fix))
        found[name] = procedure
    return found


def check_types(spec: Spec, wiring: Wiring, section: str) -> None:
    """Types that are neither registered nor reserved: near a known name a misspelling, else something that nothing here will run."""
    tables = spec.data.get(section, {})
    known = [name for name in (*KINDS, *sorted(RESERVED)) if name.startswith(f"{section}.")]
    for name, table in tables.items() if isinstance(tables, Mapping) else ():
        kind = table.get("type") if isinstance(table, Mapping) else None
        if not isinstance(kind, str) or kind in known:
            continue
        near = difflib.get_close_matches(kind, known, 1, 0.8)
        if kind in KINDS or kind in RESERVED:
            text, fix = f"{kind!r} stands under [{section}]", f"write it under [{kind.partition('.')[0]}]"
            at = spec.label((section, name, "type"), "of another table")
            wiring.found.add(Diagnostic(C.UNKNOWN_PROCEDURE, text, at, fix=fix))
            continue
        runs = ", ".join(k for k in KINDS if k.startswith(f"{section}."))
        note = f"run by vlmgraph: {runs or 'none yet'}; reserved names are kept for the reader"
        fix = f"did you mean {near[0]!r}?" if near else f"known names: {', '.join(known[:4])}, ..."
        text = f"{section} {name!r}: there is no type {kind!r}" if near else f"{section} {name!r}: nothing runs the type {kind!r}"
        at = spec.label((section, name, "type"), "unknown type")
        wiring.found.add(Diagnostic(C.UNKNOWN_PROCEDURE, text, at, notes=(note,), fix=fix, severity="error" if near else "warning"))
