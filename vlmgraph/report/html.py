"""A report as one HTML file that needs nothing else: tables, the diagram, light and dark."""

from __future__ import annotations

import json
from importlib.resources import files

from ..ir.graph import Graph
from .cost import BYTES
from .diagram import diagram
from .measure import Report
from .numbers import operations, short, size
from .svg import svg


def page(graph: Graph, report: Report, summary: str = "") -> str:
    """The report of a graph with its diagram."""
    return render_html(report, svg(diagram(graph)), summary)


def render_html(report: Report, drawing: str, summary: str = "") -> str:
    """`drawing` is the SVG of the graph; it is placed as it is, everything else is escaped."""
    from jinja2 import Environment, StrictUndefined

    env = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    env.filters.update(size=size, short=short, operations=operations, comma="{:,}".format)
    template = env.from_string((files(__package__) / "templates" / "report.html.jinja").read_text(encoding="utf-8"))
    weights = report.total * BYTES[report.dtype]
    data = json.dumps(report.json(), separators=(",", ":")).replace("<", "\\u003c")
    return template.render(report=report, drawing=drawing, summary=summary, weights=weights, data=data)
