"""What the drawings hold: every box, type and edge, as valid XML and as Mermaid, and nothing a name could smuggle in."""

from __future__ import annotations

import re
from dataclasses import replace
from xml.etree import ElementTree

from tests.report.toys import toy
from vlmgraph.report import diagram, mermaid, svg
from vlmgraph.report.diagram import Diagram, Item, Link

NS = {"s": "http://www.w3.org/2000/svg"}


def texts(drawing: str) -> list[str]:
    return [t.text or "" for t in ElementTree.fromstring(drawing).iterfind(".//s:text", NS)]


def test_every_part_is_drawn() -> None:
    made = diagram(toy())
    drawn = texts(svg(made))
    for wanted in ("pixel_values", "input_ids", "labels", "vision", "adapter", "embed", "splice", "llm", "head", "lm", "logits"):
        assert wanted in drawn, wanted
    for type_ in ("tokens[B, 16, 8]", "tokens[B, 16, 4]", "logits[B, T, 10]", "image[B, 3, 32, 32]?"):
        assert type_ in drawn, type_
    assert any(t.startswith("vision.toy") and "1.64 k" in t for t in drawn)


def test_edges_with_their_ports() -> None:
    links = {(link.source, link.target, link.port) for link in diagram(toy()).links}
    assert ("node:adapter", "node:splice", "vision") in links
    assert ("in:input_ids", "node:splice", "ids") in links
    assert ("node:vision", "node:adapter", "") in links
    assert ("node:head", "out:logits", "") in links
    drawing = ElementTree.fromstring(svg(diagram(toy())))
    arrows = [p for p in drawing.iterfind(".//s:path", NS) if p.get("marker-end")]
    assert len(arrows) == len(diagram(toy()).links)


def test_objectives_are_dashed_and_optional() -> None:
    with_loss, without = diagram(toy()), diagram(toy(), objectives=False)
    assert {i.role for i in with_loss.items} - {i.role for i in without.items} == {"loss"}
    assert all(link.soft for link in with_loss.links if link.target.startswith("loss:"))
    assert "in:labels" not in {i.id for i in without.items}, "an input that nothing reads is left out"


def test_colours_follow_roles() -> None:
    rects = ElementTree.fromstring(svg(diagram(toy()))).iterfind(".//s:rect", NS)
    classes = {(r.get("class") or "").split()[-1] for r in rects}
    assert {"input", "encoder", "connector", "decoder", "head", "op", "loss", "output"} == classes


def test_hostile_names_stay_text() -> None:
    evil = '"/><script>alert(1)</script>'
    made = diagram(replace(toy(), name=evil))
    made = Diagram(evil, (*made.items, Item("x", evil, evil, "op")), made.links)
    assert "<script>" not in svg(made) and evil in texts(svg(made))
    drawn = mermaid(Diagram("d", (Item("a", evil, "", "op"), Item("b", 'x"]; click b', "", "op")), (Link("a", "b", "v", 'tokens["'),)))
    assert "<script>" not in drawn
    assert all(line.count('"') % 2 == 0 for line in drawn.splitlines())
    assert ";" not in re.sub(r"#\d+;", "", drawn)


def test_mermaid() -> None:
    lines = mermaid(diagram(toy())).splitlines()
    assert lines[0] == "flowchart TD"
    assert sum(" --> " in line or " -->|" in line or "-.->" in line for line in lines) == len(diagram(toy()).links)
    assert any("tokens[B, 16, 4]" in line and "vision:" in line for line in lines)


def test_the_same_graph_draws_the_same() -> None:
    assert svg(diagram(toy())) == svg(diagram(toy()))
