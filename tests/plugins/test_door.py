"""One door for built-ins and plugins: entry points, for every group."""

from __future__ import annotations

import importlib
import pkgutil

import pytest

import vlmgraph
import vlmgraph.components
from vlmgraph.components.base import Config
from vlmgraph.diagnostics import codes as C
from vlmgraph.plugins import PluginError, registry

SMALL = {
    "inputs": {"x": "tokens[B, N, 8]"},
    "outputs": {"y": "tokens[B, N, 8]"},
    "programs": {"forward": {"outputs": ["y"]}},
    "graph": {"edges": ["x -> part -> y"]},
}


def test_every_built_in_part_stands_in_the_entry_points_under_its_own_name():
    for module in pkgutil.walk_packages(vlmgraph.components.__path__, "vlmgraph.components."):
        importlib.import_module(module.name)
    kinds, waiting = {}, [Config]
    while waiting:
        cls = waiting.pop()
        waiting += cls.__subclasses__()
        if cls.__dict__.get("kind") and cls.__module__.startswith("vlmgraph.components."):
            kinds[cls.kind] = f"{cls.__module__}:{cls.__qualname__}"
    kinds = {kind: value for kind, value in kinds.items() if not kind.startswith("inference.")}
    points = {name: own[0].value for name, own in registry().points.items() if own[0].dist.name == "vlmgraph"}
    assert points == kinds and len(points) > 50


def test_a_part_is_known_by_the_name_it_is_registered_under():
    for group in ("vlmgraph.components", "vlmgraph.passes"):
        for name in registry(group).names():
            loaded = registry(group).load(name)
            assert (loaded.kind if group.endswith("components") else loaded.name) == name


@pytest.mark.parametrize("kind", ["connector.linear", "loss.contrastive", "attention.mha"])
def test_a_plugin_cannot_take_the_name_of_a_built_in(install, kind):
    """Neither wins, whichever comes first on the path; a spec without that part is not touched."""
    install("taker", {"vlmgraph.components": {kind: "taker_parts:Part"}}, {"taker_parts.py": "Part = 1\n"})
    with pytest.raises(PluginError) as caught:
        registry().load(kind)
    assert caught.value.reason == "clash" and "taker (taker_parts:Part)" in caught.value.detail and "vlmgraph (" in caught.value.detail
    part = {"type": "connector.mlp", "depth": 1, "out": 8}
    assert vlmgraph.check({**SMALL, "components": {"part": part}}) == []


def test_a_clash_with_a_built_in_is_said_where_it_is_used(install):
    install("taker", {"vlmgraph.components": {"connector.linear": "taker_parts:Part"}})
    [found] = vlmgraph.check({**SMALL, "components": {"part": {"type": "connector.linear", "out": 8}}})
    assert found.code == C.PLUGIN_CLASH and "taker" in found.message and "vlmgraph" in found.message and found.fix


LAYER = """
from vlmgraph.components.layer.norm import LayerNorm

class Twin(LayerNorm, name="norm.twin"):
    pass
"""


def test_a_plugin_fills_a_slot(install):
    install("twin", {"vlmgraph.components": {"norm.twin": "twin_norm:Twin"}}, {"twin_norm.py": LAYER})
    stack = {"type": "text.transformer", "layers": 1, "width": 8, "heads": 2, "mlp": 12, "position": "none", "norm": "norm.twin"}
    model = vlmgraph.compile({**SMALL, "components": {"part": stack}})
    assert type(model.graph.components["part"].norm).__name__ == "Twin"


PASS = """
from dataclasses import dataclass, replace
from typing import ClassVar
from vlmgraph.passes.base import Pass

@dataclass(frozen=True)
class Rename(Pass):
    name: ClassVar[str] = "rename"
    requires: ClassVar[frozenset[str]] = frozenset({"typed"})
    to: str = "renamed"

    def run(self, graph, found):
        return replace(graph, name=self.to)

def target(model, folder, **options):
    folder.mkdir()
    (folder / "names.txt").write_text(" ".join(options))
    return sorted(model.graph.components)
"""


def test_a_pass_and_a_target_of_a_plugin(install, tmp_path):
    points = {"vlmgraph.passes": {"rename": "more_parts:Rename"}, "vlmgraph.targets": {"names": "more_parts:target"}}
    install("more", points, {"more_parts.py": PASS})
    from vlmgraph.api import elaborate

    source = {**SMALL, "components": {"part": {"type": "connector.linear", "out": 8}}}
    assert elaborate(source, "carry,infer,rename[to=other]").name == "other"
    assert vlmgraph.export(vlmgraph.compile(source), "names", tmp_path / "out", deep=True) == ["part"]
    assert (tmp_path / "out" / "names.txt").read_text() == "deep"


def test_specs_of_a_plugin_extend_and_are_extended(install):
    base = 'vlmgraph = 1\n[inputs]\nx = "tokens[B, N, 8]"\n[outputs]\ny = "tokens[B, N, 8]"\n[graph]\nedges = ["x -> part -> y"]\n'
    base += '[components]\npart = { type = "connector.linear", out = 8 }\n'
    code = "from pathlib import Path\n\n\ndef folder():\n    return Path(__file__).parent\n\n\ndef broken():\n    raise OSError('disk')\n"
    files = {"spec_parts/__init__.py": code, "spec_parts/theirs.toml": base}
    points = {"theirs": "spec_parts:folder", "gone": "spec_parts:folder", "broken": "spec_parts:broken", "absent": "spec_parts_q:folder"}
    install("specs", {"vlmgraph.specs": points}, files)
    assert vlmgraph.check("theirs") == []
    from vlmgraph.api import elaborate

    assert elaborate({"extends": "theirs", "components": {"part": {"bias": False}}}).components["part"].bias is False
    for name, words in (("gone", "has no file gone.toml"), ("broken", "disk"), ("absent", "spec_parts_q")):
        [found] = vlmgraph.check(vlmgraph.read_spec(name))[:1]
        assert found.code == C.PLUGIN_IMPORT and words in found.message, found
