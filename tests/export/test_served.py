"""Folders as engines run them: the rules that each meets, in docs/transformers.md as found here, and an engine that holds them to it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import vlmgraph
from tests.export.test_transformers import loaded
from tests.levels.models import SPECS, tiny
from vlmgraph.export.transformers.attention import through_interface
from vlmgraph.export.transformers.engine import Unmet, engine
from vlmgraph.export.transformers.plan import writing_program
from vlmgraph.export.transformers.write import asked

DOCS = Path(__file__).parents[2] / "docs" / "transformers.md"
FAST = ("llava-1.5",)


def table() -> dict[str, list[str]]:
    """The rows of the page by spec."""
    rows = re.findall(r"^\| \[?([a-z0-9.-]+)\]?[^|]*\| (yes|no) \| (.*) \|$", DOCS.read_text(encoding="utf-8"), re.MULTILINE)
    return {name: rest for name, *rest in rows}


SERVED = sorted(name for name, (met, *_) in table().items() if met == "yes")


def row(name: str) -> str:
    """What is found of a spec: a line of the page."""
    model, processor = tiny(name)
    found, why = asked(model, writing_program(model.graph))
    if found is None or found.engine is None:
        return f"| {name} | no | {why} |"
    served = found.engine
    told = [what for what, there in (("cut over devices", served.split), ("in a chain", served.stages)) if there]
    slots = processor.encoders[processor._text_entry()].slots
    if served.features and len(slots) == 1:  # packed rows of several pictures do not say whose they are
        told.append("pictures" if len(served.graph.types()[served.features].dims) > 2 else "pictures one at a time")
    return f"| {name} | yes | {', '.join(told)} |"


def held(folders: Path, names: tuple[str, ...] | list[str]) -> dict[str, list[str]]:
    for name in names:
        vlmgraph.export(tiny(name)[0], "transformers", folders / name)
        if name not in FAST:
            tiny.cache_clear()
    return dict(zip(names, loaded([folders / name for name in names], folders / "home", "served.py"), strict=True))


@pytest.mark.parametrize("name", FAST)
def test_an_engine_runs_it(name: str, tmp_path: Path) -> None:
    assert held(tmp_path, [name]) == {name: []}
    assert row(name) == next(line for line in DOCS.read_text(encoding="utf-8").splitlines() if line.startswith(f"| {name} |"))


@pytest.fixture(scope="module")
def others(tmp_path_factory) -> dict[str, list[str]]:
    return held(tmp_path_factory.mktemp("served"), [name for name in SERVED if name not in FAST])


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in SERVED if name not in FAST])
def test_every_served_spec(name: str, others) -> None:
    assert others[name] == []


@pytest.mark.slow
def test_the_page_says_what_is_met(update: bool) -> None:
    """A line a spec; `--update` writes them."""
    lines = []
    for name in SPECS:
        lines.append(row(name))
        tiny.cache_clear()
    text = DOCS.read_text(encoding="utf-8")
    head = "| spec | served | by |\n| --- | --- | --- |\n"
    before, _, after = text.partition(head)
    rest = "\n".join(line for line in after.splitlines() if not re.match(r"\| [a-z0-9.-]+ \| (yes|no) \|", line))
    wanted = before + head + "\n".join(lines) + "\n" + rest.rstrip("\n") + "\n"
    if update:
        DOCS.write_text(wanted, encoding="utf-8")
    assert text == wanted or update


ATTENDING = '''
import torch.nn.functional as F
from torch import Tensor, nn


class A(nn.Module):
    """Attends."""

    def forward(self, x, mask, cache):
        q, k, v = self.q(x), self.k(x), self.v(x)
        k, v = cache.append(k, v)
        {}
'''


@pytest.mark.parametrize(
    ("statement", "call"),
    [
        ("return self.out(F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2))", "mask"),
        ("return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=0.5).transpose(1, 2).flatten(2)", "mask, scaling=0.5"),
        ("return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=x.shape[1]).transpose(1, 2).flatten(2)", None),
        ("return F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)", None),
        ("return F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(2, 3)", None),
        ("return F.scaled_dot_product_attention(q, k, v + 1, attn_mask=mask).transpose(1, 2).flatten(2)", None),
    ],
)
def test_attention_that_the_interface_knows(statement: str, call: str | None) -> None:
    """Anything beside softmax(q k^T * scale + mask) v over heads side by side stays as it is."""
    source = ATTENDING.format(statement)
    made, turned = through_interface(source)
    if call is None:
        assert (made, turned) == (source, [])
    else:
        assert turned == ["A"] and "is_causal = True" in made
        assert f"attention(self, q, k, v, {call}, is_causal=False)" in made
        compile(made, "made", "exec")


@pytest.mark.parametrize(
    ("name", "changes", "said"),
    [
        ("llava-1.5", {"components.llm.position": "position.alibi"}, "more than their order"),
        ("llava-1.5", {"components.head.logit_scale": 0.5}, "more than a linear map"),
        ("llava-1.5", {"components.embed.scale": 2.0}, "more than a table"),
        ("clip", {}, "no program writes"),
    ],
)
def test_what_an_engine_would_compute_wrongly_is_refused(name: str, changes: dict, said: str) -> None:
    """Each of them loads and runs; an engine that brings no mask, embeds by a table and multiplies by a head would give other numbers."""
    model = vlmgraph.compile(vlmgraph.read_spec(name, size="tiny", overrides=changes))
    with pytest.raises(Unmet, match=said):
        engine(model, writing_program(model.graph))
