"""Every command and every Python line of the README and the docs is run, and prints what they show (`--update` writes it anew)."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.docs.pages import ROOT, execute, matches

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_page_shows_what_happens(page: Path, tmp_path: Path, update: bool) -> None:
    differences = execute(page, tmp_path, update)
    assert update or not differences, "\n\n".join(differences)


def test_an_ellipsis_stands_for_lines_and_nothing_else_does() -> None:
    assert matches("a\n...\nd\n", "a\nb\nc\nd\n") and matches("a\n...\n", "a\n")
    assert not matches("a\n...\nd\n", "a\nb\n") and not matches("a.c\n", "abc\n")


def test_a_page_that_lies_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("```text file=a.txt\nhello\n```\n```console\n$ cat a.txt\nhullo\n```\n```python\n>>> 1 + 1\n3\n```\n", encoding="utf-8")
    assert len(execute(page, tmp_path)) == 2
    execute(page, tmp_path, update=True)
    assert "$ cat a.txt\nhello\n" in page.read_text(encoding="utf-8")


@pytest.mark.parametrize("spec", ["cogvlm", "blip-2"])
def test_pictures_are_those_drawn_now(spec: str, update: bool) -> None:
    import vlmgraph
    from vlmgraph.report.diagram import diagram
    from vlmgraph.report.svg import svg

    picture = ROOT / f"docs/images/{spec}.svg"
    drawn = svg(diagram(vlmgraph.elaborate(spec)))
    if update:
        picture.write_text(drawn, encoding="utf-8")
    assert picture.read_text(encoding="utf-8") == drawn


def test_every_component_of_the_package_has_its_page(update: bool) -> None:
    from vlmgraph.plugins import registry
    from vlmgraph.report.reference import component_page

    points = registry()
    kinds = [k for k in points.names() if any(p.dist is None or p.dist.name == "vlmgraph" for p in points.points[k])]
    intro = (
        "# Components\n\nEvery type of the package, from its declaration; `vlmgraph explain TYPE` prints one, also of a plugin.\n"
        "Fields that name no default are inferred or taken from the stack around.\n"
    )
    made = "\n".join([intro, *(component_page(kind, points.load(kind)) for kind in sorted(kinds))])
    page = ROOT / "docs/components.md"
    if update:
        page.write_text(made, encoding="utf-8")
    assert page.read_text(encoding="utf-8") == made
