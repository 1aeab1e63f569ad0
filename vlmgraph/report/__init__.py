"""Reports from declarations alone: numbers, diagrams, differences. Nothing here imports torch."""

from .diagram import Diagram, diagram
from .diff import diff, format_diff
from .measure import Report, report
from .mermaid import mermaid
from .svg import svg

__all__ = ["Diagram", "Report", "diagram", "diff", "format_diff", "mermaid", "report", "svg"]
