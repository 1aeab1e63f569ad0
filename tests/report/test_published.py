"""Reports of the bundled specs against the models themselves: parameters, what a stage trains, caches, visual tokens."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch

from tests.architectures.common import built_counts, declared_counts, fresh, graph, measured, meta, processor, spec
from vlmgraph.lower.generate import new_caches
from vlmgraph.passes.expect import addressed, count_parameters
from vlmgraph.report import report
from vlmgraph.report.html import page
from vlmgraph.train.stage import addressed as tensors_at
from vlmgraph.train.stage import begin

ROOT = Path(__file__).parents[2]
SPECS = sorted(path.stem for path in ROOT.glob("specs/*.toml"))
FORMS = [(name, size) for name in SPECS for size in (None, *spec(name).sizes)]
VARIANTS = [(name, variant) for name in SPECS for variant in spec(name).variants]
GOLDEN = Path(__file__).parent / "golden"


@pytest.mark.parametrize(("name", "size"), FORMS)
def test_parameters_of_every_component_are_those_built(name: str, size: str | None) -> None:
    """Published sizes are built on the meta device; the report itself allocates nothing and never sees torch."""
    assert declared_counts(name, size) == built_counts(meta(name, size))


@pytest.mark.parametrize(("name", "variant"), VARIANTS)
def test_parameters_of_variants(name: str, variant: str) -> None:
    assert declared_counts(name, None, variant) == built_counts(meta(name, None, variant))


@pytest.mark.parametrize("name", SPECS)
def test_parts_are_those_addressed(name: str) -> None:
    """`llm.vision` in the report has as many parameters as the tensors under that address, for every part of every component."""
    model, counts = meta(name), count_parameters(graph(name))
    seen = 0
    for id, parts in counts.items():
        for part, count in parts.items():
            if count and (id, part) not in (("vq", "encode"), ("vq", "decode")):  # both hold the codebook, a part of its own
                held = sum(tensor.numel() for tensor in set(tensors_at(model, f"{id}.{part}").values()))
                declared = sum(counts[c][p] for c, p in addressed(graph(name), counts, f"{id}.{part}") or ())
                if declared == count:  # else the address means more than this part
                    assert held == count, f"{id}.{part}"
                    seen += 1
    assert seen > 5


@pytest.mark.parametrize("name", SPECS)
def test_what_a_stage_trains(name: str) -> None:
    """As many parameters as ask for gradients once the stage is entered."""
    model = fresh(name)
    made = {stage.stage: stage for stage in measured(name, "tiny").stages}
    assert set(made) == set(model.graph.stages) and made
    for stage, row in made.items():
        begin(model, stage)
        assert row.unknown == ()
        assert row.trainable == sum(p.numel() for p in model.parameters() if p.requires_grad), stage
        assert row.trainable == sum(row.by_component.values())


@pytest.mark.parametrize("name", ["llava-1.5", "cogvlm", "blip-2", "flamingo", "idefics", "qwen2-vl", "janus"])
@torch.no_grad()
def test_cache_bytes_are_those_kept(name: str) -> None:
    """A prompt is run with a cache; keys and values of one token take what the report says."""
    model = fresh(name)
    ids = torch.full((1, 6), 11)
    caches = new_caches(model, "generate")
    model.programs["generate"].run({"input_ids": ids, "attention_mask": torch.ones_like(ids)}, caches)
    held = sum(t.numel() * t.element_size() for c in caches.values() for layer in c.layers for t in (layer.k, layer.v))
    (cost,) = [c for c in report(graph(name, "tiny"), "float32").programs if c.name == "generate"]
    assert held == 6 * cost.cache_bytes_per_token > 0


@pytest.mark.parametrize("name", ["llava-1.5", "cogvlm", "qwen2-vl", "janus"])
@pytest.mark.parametrize("size", [(640, 480), (97, 301)])
def test_visual_tokens_are_the_placeholders_the_processor_writes(name: str, size: tuple[int, int]) -> None:
    picture = PIL.Image.fromarray(np.full((size[1], size[0], 3), 90, dtype=np.uint8))
    tiny, table = graph(name, "tiny"), spec(name, "tiny").data["processor"]
    ids = processor(name).ask("what?", images=[picture])["input_ids"]
    splice = next(c for c in tiny.components.values() if c.kind == "op.splice")
    token = splice.token if isinstance(splice.token, int) else next(iter(splice.tokens.values()))
    (row,) = report(tiny, images=[size], processor=table).by_image
    assert row["width"], row["height"] == size
    assert int((np.asarray(ids) == token).sum()) in row["tokens"].values()


def test_the_published_report_of_cogvlm(update: bool) -> None:
    """Every key and number of `report.json`, as docs/cli.md describes it."""
    made = json.dumps(report(graph("cogvlm"), images=[(640, 480)], processor=spec("cogvlm").data["processor"]).json(), indent=2) + "\n"
    path = GOLDEN / "cogvlm.json"
    if update:
        path.parent.mkdir(exist_ok=True)
        path.write_text(made, encoding="utf-8")
    assert made == path.read_text(encoding="utf-8")


def keys(value: object) -> set[str]:
    """Keys of tables that are not names out of a spec."""
    named = {"dims", "parts", "inputs", "outputs", "flops_by_node", "by_component", "per_image", "tokens"}
    if isinstance(value, dict):
        return set(value) | {k for key, inner in value.items() if key not in named for k in keys(inner)}
    return {k for inner in value for k in keys(inner)} if isinstance(value, list) else set()


def test_every_key_is_documented() -> None:
    text = (ROOT / "docs/cli.md").read_text(encoding="utf-8")
    found = keys(json.loads((GOLDEN / "cogvlm.json").read_text(encoding="utf-8")))
    assert len(found) > 25 and not {key for key in found if f"`{key}`" not in text}


class Page(HTMLParser):
    """Open and close tags that match, and what the page would fetch."""

    VOID = frozenset({"meta", "br", "link", "img", "hr", "input"})

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.seen: set[str] = set()
        self.fetched: list[str] = []
        self.ids: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)
        if tag not in self.VOID:
            self.open.append(tag)
        for name, value in attrs:
            if name == "id" and value:
                self.ids.append(value)
            if name in ("src", "href", "xlink:href", "srcset", "action", "data") or (name == "style" and "url(" in (value or "")):
                self.fetched.append(f"{tag} {name}={value}")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag, f"</{tag}> closes nothing"


@pytest.mark.parametrize("name", SPECS)
def test_html_is_whole_and_needs_no_network(name: str) -> None:
    made = report(graph(name), images=[(640, 480)], processor=spec(name).data.get("processor"))
    text = page(graph(name), made, "a summary")
    parsed = Page()
    parsed.feed(text)
    parsed.close()
    assert parsed.open == [] and {"svg", "table", "style", "title"} <= parsed.seen
    assert parsed.fetched == [] and "@import" not in text and "@font-face" not in text
    assert {part.split(")")[0] for part in text.split("url(")[1:]} <= {"#vg-arrow"}
    assert len(set(parsed.ids)) == len(parsed.ids)
    data = text.split('<script type="application/json" id="report">')[1].split("</script>")[0]
    assert json.loads(data) == json.loads(json.dumps(made.json()))
    assert f"{made.total:,}" in text
