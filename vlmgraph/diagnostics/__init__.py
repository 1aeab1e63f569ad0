"""Diagnostics: one type, stable codes, renderers, explain pages."""

from .core import Collector, Diagnostic, DiagnosticError, Label, Severity, Span

__all__ = ["Collector", "Diagnostic", "DiagnosticError", "Label", "Severity", "Span"]
