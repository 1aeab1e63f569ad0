"""What checking says of components that installed packages provide badly."""

from __future__ import annotations

import sys

import pytest

import vlmgraph
from vlmgraph import plugins
from vlmgraph.diagnostics import codes as C

SOURCE = {
    "raises": "raise RuntimeError('no such driver')",
    "exits": "import sys; sys.exit('good bye')",
    "no_syntax": "def (",
    "empty": "",
    "number": "Part = 3",
    "old": "from vlmgraph.components.base import Connector\nclass Part(Connector, name='old'):\n    api = 0\n",
    "layer": "from vlmgraph.components.base import Layer\nclass Part(Layer, name='layer'):\n    pass\n",
    "no_ports": "from vlmgraph.components.base import Connector\nclass Part(Connector, name='connector.fake'):\n    pass\n",
    "fails_later": """
from vlmgraph.components.base import Connector, Ports
from vlmgraph.ir import types as T
class Part(Connector, name='connector.fake'):
    def signature(self, facet=''):
        raise ZeroDivisionError('of the plugin')
""",
    "result_fails": """
from vlmgraph.components.base import Connector, Ports
from vlmgraph.ir import types as T
class Part(Connector, name='connector.fake'):
    ports = Ports(x=T.tokens['B', 'N', 'd'], returns=T.tokens['B', 'N', 'd'])
    def result(self, inputs):
        raise LookupError('of the plugin')
""",
    "zero": """
from vlmgraph.components.base import Connector, Ports
from vlmgraph.ir import types as T
class Part(Connector, name='connector.fake'):
    pieces: int = 0
    ports = Ports(x=T.tokens['B', 'N', 'd'], returns=T.tokens['B', 'N/pieces', 'd'])
""",
    "counts_fail": """
from vlmgraph.components.base import Connector, Ports
from vlmgraph.ir import types as T
class Part(Connector, name='connector.fake'):
    ports = Ports(x=T.tokens['B', 'N', 'd'], returns=T.tokens['B', 'N', 'd'])
    def parameters(self):
        raise LookupError('of the plugin')
""",
}

SPEC = """
vlmgraph = 1
[inputs]
x = "tokens[B, N, 8]"
[outputs]
out = "tokens[B, N, 8]"
[components]
first = { type = "connector.linear", out = 8 }
fake  = { type = "connector.fake" }
last  = { type = "op.pool" }
[graph]
edges = ["x -> first -> fake -> last", "fake -> out"]
[programs]
forward = { outputs = ["out"] }
[objectives]
lm = { type = "loss.fake", edges = ["fake -> lm.x"] }
[expect]
params = { fake = 3 }
"""


@pytest.fixture
def spec(tmp_path, monkeypatch):
    """A spec in a world where other packages provide `connector.fake` and `loss.fake`."""

    def install(*modules):
        for i, name in enumerate(modules):
            (tmp_path / f"vlmgraph_fake_{name}.py").write_text(SOURCE[name])
            info = tmp_path / f"fake_{i}-1.dist-info"
            info.mkdir()
            (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: fake-{i}\nVersion: 1\n")
            target = f"vlmgraph_fake_{name}:Part"
            (info / "entry_points.txt").write_text(f"[vlmgraph.components]\nconnector.fake = {target}\nloss.fake = {target}\n")
        monkeypatch.syspath_prepend(str(tmp_path))
        forget()
        path = tmp_path / "spec.toml"
        path.write_text(SPEC)
        return path

    yield install
    for name in [name for name in sys.modules if name.startswith("vlmgraph_fake_")]:
        del sys.modules[name]
    forget()


def forget():
    """What is installed is looked up anew."""
    for found in vars(plugins).values():
        if hasattr(found, "cache_clear"):
            found.cache_clear()


@pytest.mark.parametrize(
    ("module", "code", "words"),
    [
        ("raises", C.PLUGIN_IMPORT, ["fake-0", "RuntimeError", "no such driver"]),
        ("exits", C.PLUGIN_IMPORT, ["fake-0", "good bye"]),
        ("no_syntax", C.PLUGIN_IMPORT, ["fake-0", "SyntaxError"]),
        ("empty", C.PLUGIN_IMPORT, ["fake-0", "Part"]),
        ("old", C.PLUGIN_API, ["API 0", "API 1"]),
        ("number", C.UNKNOWN_COMPONENT, ["connector.fake"]),
        ("layer", C.UNKNOWN_COMPONENT, ["connector.fake"]),
        ("no_ports", C.PLUGIN_FAULT, ["connector.fake"]),
        ("fails_later", C.PLUGIN_FAULT, ["connector.fake", "ZeroDivisionError", "of the plugin"]),
        ("result_fails", C.PLUGIN_FAULT, ["connector.fake", "LookupError", "of the plugin"]),
        ("zero", C.BAD_DIMENSION, ["N / 0"]),
        ("counts_fail", C.PLUGIN_FAULT, ["connector.fake", "LookupError", "of the plugin"]),
    ],
)
def test_a_component_that_cannot_be_used(spec, module, code, words):
    found = vlmgraph.check(spec(module))
    mine = [d for d in found if d.primary is not None and d.primary.span.line == 9]
    assert [d.code for d in mine] == [code] and {d.code for d in found} == {code}, found
    assert all(word in mine[0].message + " ".join(mine[0].notes) for word in words), mine


def test_two_packages_of_one_name(spec):
    (found, *rest) = vlmgraph.check(spec("counts_fail", "result_fails"))
    assert found.code == C.PLUGIN_CLASH and "fake-0" in found.message and "fake-1" in found.message
    assert {d.code for d in rest} == {C.PLUGIN_CLASH}


def test_a_component_that_nobody_provides_asks_for_its_package(tmp_path):
    (tmp_path / "spec.toml").write_text(SPEC)
    found = vlmgraph.check(tmp_path / "spec.toml")
    assert {d.code for d in found} == {C.UNKNOWN_COMPONENT} and all(d.fix for d in found)
