"""A diagram as Mermaid text, which GitHub and most wikis draw."""

from __future__ import annotations

from .diagram import Diagram

_SHAPES = {"input": ('(["', '"])'), "output": ('(["', '"])'), "loss": ('{{"', '"}}'), "op": ('("', '")'), "step": ('("', '")')}


def mermaid(diagram: Diagram) -> str:
    """`flowchart TD` with one line a box and one an edge. Names are escaped as Mermaid's HTML entities."""
    names = {item.id: f"n{number}" for number, item in enumerate(diagram.items)}
    lines = ["flowchart TD"]
    for item in diagram.items:
        left, right = _SHAPES.get(item.role, ('["', '"]'))
        text = _text(item.title) + (f"<br/><small>{_text(item.subtitle)}</small>" if item.subtitle else "")
        lines.append(f"  {names[item.id]}{left}{text}{right}:::{item.role}")
    for link in diagram.links:
        label = _text(" ".join(filter(None, (link.port and f"{link.port}:", link.type))))
        arrow = "-.->" if link.soft else "-->"
        lines.append(f"  {names[link.source]} {arrow}" + (f'|"{label}"| ' if label else " ") + names[link.target])
    from .svg import COLOURS

    for role in diagram.roles():
        fill, line = COLOURS.get(role, COLOURS["op"])[0]
        lines.append(f"  classDef {role} fill:{fill},stroke:{line},color:#1b1f24")
    return "\n".join(lines) + "\n"


def _text(text: str) -> str:
    return "".join(c if c.isalnum() or c in " ._-+*/,=:()·?[]" else f"#{ord(c)};" for c in text)
