"""A report on the terminal. `rich` is imported here alone, when a table is asked for."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, TextIO

from .cost import BYTES
from .measure import Report
from .numbers import operations, short, size

if TYPE_CHECKING:
    from rich.table import Table


def print_report(report: Report, stream: TextIO | None = None) -> None:
    from rich.console import Console

    console = Console(file=stream or sys.stdout, highlight=False, soft_wrap=False)
    if not console.is_terminal:
        console = Console(file=stream or sys.stdout, highlight=False, width=110)
    at = ", ".join(f"{k} = {v}" for k, v in report.dims.items())
    weights = size(report.total * BYTES[report.dtype])
    console.print(f"[bold]{report.model}[/]  {report.total:,} parameters, {weights} in {report.dtype}; at {at}\n")
    for table in (_parts(report), _programs(report), _tokens(report), _stages(report), _expected(report)):
        if table is not None and table.row_count:
            console.print(table)
            console.print()


def _table(title: str, *columns: str) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        name = column.removeprefix(">")
        table.add_column(name, justify="right" if column.startswith(">") else "left", overflow="fold")
    return table


def _parts(report: Report) -> Table:
    table = _table("Parameters", "component", "kind", ">parameters", ">share")
    for part in report.parts:
        if not part.total:
            continue
        share = f"{100 * part.total / report.total:.1f} %" if part.used and report.total else "unused"
        table.add_row(part.id, part.kind, f"{part.total:,}", share)
        if len(part.parts) > 1:
            for name, count in part.parts.items():
                if count:
                    table.add_row(f"[dim]  {part.id}.{name}[/]", "", f"[dim]{count:,}[/]", "")
    table.add_row("[bold]total[/]", "", f"[bold]{report.total:,}[/]", "")
    if report.active != report.total:
        table.add_row("for a token", "", f"{report.active:,}", f"{100 * report.active / report.total:.1f} %")
    return table


def _programs(report: Report) -> Table:
    table = _table("Programs, one forward", "program", "outputs", ">operations", ">values on edges", ">alive at once", ">cache a token")
    for cost in report.programs:
        flops = operations(cost.flops) if cost.flops is not None else cost.formula
        table.add_row(
            cost.name,
            "\n".join(cost.outputs),
            flops + (f"\n[dim]without {', '.join(cost.uncounted)}[/]" if cost.uncounted else ""),
            size(cost.values_bytes) if cost.values_bytes is not None else "?",
            size(cost.peak_bytes) if cost.peak_bytes is not None else "?",
            size(cost.cache_bytes_per_token) if cost.cache_bytes_per_token else "",
        )
    return table


def _tokens(report: Report) -> Table:
    table = _table("Visual tokens", "port", "an image", *(f">{i['width']} x {i['height']}" for i in report.by_image))
    for name, formula in report.visual_tokens.items():
        table.add_row(name, formula, *(str(i["tokens"][name]) for i in report.by_image))
    return table


def _stages(report: Report) -> Table:
    table = _table("Stages", "stage", ">trainable", ">share", "parts")
    for stage in report.stages:
        parts = ", ".join(f"{id} {short(n)}" for id, n in stage.by_component.items())
        if stage.unknown:
            parts += f" (not counted: {', '.join(stage.unknown)})"
        share = f"{100 * stage.trainable / report.total:.1f} %" if report.total else ""
        table.add_row(stage.stage, f"{stage.trainable:,}", share, parts)
    return table


def _expected(report: Report) -> Table:
    table = _table(r"Against \[expect]", "what", ">expected", ">here", "")
    for row in report.expected:
        same = row.actual == row.expected
        actual = "nothing" if row.actual is None else f"{row.actual:,}"
        table.add_row(row.what, f"{row.expected:,}", actual, "[green]equal[/]" if same else "[red]differs[/]")
    return table
