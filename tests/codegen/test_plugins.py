"""Classes of plugins: what cannot be specialised is copied whole, what needs another package is a finding."""

from __future__ import annotations

import importlib.util
import textwrap
from pathlib import Path

import pytest
import torch
from vlmgraph.codegen.generate import Generator

import vlmgraph
from vlmgraph import codegen
from vlmgraph.cli import main
from vlmgraph.diagnostics import DiagnosticError
from vlmgraph.diagnostics.render import render

found = importlib.util.spec_from_file_location("codegen_common", Path(__file__).parent / "conftest.py")
assert found and found.loader
common = importlib.util.module_from_spec(found)
found.loader.exec_module(common)

MODULES = {
    "foreign": """
        import torch
        from packaging import version
        from torch import nn

        class Part(nn.Module):
            def __init__(self, d_in, d_out):
                super().__init__()
                self.proj = nn.Linear(d_in, d_out)

            def forward(self, x):
                return self.proj(x) if version.parse("2") > version.parse("1") else x
        """,
    "whole": """
        import torch
        from torch import nn

        SCALES = (1.0, 2.0)

        def scaled(x, by):
            # written with a construct that is not followed
            step = 0
            while step < len(SCALES):
                x = x * SCALES[step] / SCALES[step]
                step += 1
            return x * by

        class Base(nn.Module):
            def forward(self, x):
                return self.finish(self.proj(x))

            def finish(self, x):
                return x

        class Part(Base):
            \"\"\"Copied whole: `with` and `while` are not followed.\"\"\"

            def __init__(self, d_in, d_out):
                super().__init__()
                self.by = 0.5
                self.proj = nn.Linear(d_in, d_out)
                self.inner = nn.ModuleDict({"a": nn.Linear(d_out, d_out), "b": nn.Identity()})

            def forward(self, x):
                with torch.no_grad():
                    y = super().forward(x)
                for name in self.inner:
                    y = getattr(self, "inner")[name](y)
                return y

            def finish(self, x):
                return scaled(super().finish(x), self.by)
        """,
    "buffered": """
        import torch
        from torch import nn

        class Part(nn.Module):
            def __init__(self, d_in, d_out):
                super().__init__()
                self.proj = nn.Linear(d_in, d_out)
                self.register_buffer("table", torch.arange(3.0), persistent=False)

            def reset_parameters(self):
                pass

            def forward(self, x):
                return self.proj(x) + self.table.sum()
        """,
}
OPTIONAL = """
        import torch
        from torch import nn

        class Part(nn.Module):
            def __init__(self, d_in, d_out):
                super().__init__()
                self.names = ("x", "more")
                self.proj = nn.Linear(d_in, d_out)

            def forward(self, x, more=None):
                values = dict(%s)
                if values["more"] is not None:
                    return self.proj(values["x"] + values["more"])
                return self.proj(values["x"])
        """
# an optional input inside a container: followed, and as something that is not
MODULES["zipped"] = OPTIONAL % "zip(self.names, (x, more))"
MODULES["spread"] = OPTIONAL % "[*zip(self.names, (x, more))]"


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """A plugin with one connector for each of `MODULES`."""
    root = tmp_path_factory.mktemp("plugin")
    package = root / "odd_parts"
    package.mkdir()
    (package / "__init__.py").write_text("")
    declared = ["from vlmgraph.components.base import Connector, Ports", "from vlmgraph.ir.types import tokens"]
    for name, text in MODULES.items():
        (package / f"{name}.py").write_text(textwrap.dedent(text).lstrip())
        declared.append(
            f"class {name.title()}(Connector, name='connector.{name}'):\n"
            "    d_in: int | None = None\n    d_out: int | None = None\n"
            "    ports = Ports(x=tokens['B', 'N', 'd_in'], more=tokens['B', 'N', 'd_in'].optional_, returns=tokens['B', 'N', 'd_out'])\n"
            f"    module = 'odd_parts.{name}:Part'\n"
            "    def parameters(self):\n        return {'proj': (self.d_in or 0) * (self.d_out or 0) + (self.d_out or 0)}\n"
        )
    (package / "components.py").write_text("from __future__ import annotations\n" + "\n".join(declared))
    points = {"vlmgraph.components": {f"connector.{name}": f"odd_parts.components:{name.title()}" for name in MODULES}}
    added = common.installed(root / "site", "odd-parts", root, points)
    yield root
    common.removed(added)


def spec_with(part: str) -> dict:
    return {"vlmgraph": 1, "extends": "llava-1.5", "components": {"projector": {"type": f"connector.{part}"}}, "expect": {"params": {}}}


def model_with(part: str, device: str = "meta"):
    return vlmgraph.compile(vlmgraph.read_spec(spec_with(part), size="tiny"), device=device)


def test_a_class_that_is_not_followed_is_copied_whole(parts, tmp_path):
    model = model_with("whole")
    generator = Generator(model)
    generator.module()
    assert list(generator.special.failed) == ["projector"]
    assert "with torch.no_grad():" in codegen.source(model)
    image, ids = torch.randn(2, 3, 42, 42), torch.tensor([[5, *[300] * 9, 6], [7, *[300] * 9, 8]])
    spec = vlmgraph.read_spec(spec_with("whole"), size="tiny")
    common.recorded(spec, tmp_path, [("encode_image", {"pixel_values": image}), ("forward", {"pixel_values": image, "input_ids": ids})])
    assert common.isolated([tmp_path]) == [[]]


@pytest.mark.parametrize("part", ["zipped", "spread"])
def test_an_optional_input_in_a_container_stays_optional(part, parts, tmp_path):
    spec = vlmgraph.read_spec(
        {
            "vlmgraph": 1,
            "inputs": {"a": "tokens[B, N, 8]", "b": "tokens[B, N, 8]?"},
            "outputs": {"y": "tokens[B, N, 4]"},
            "components": {"part": {"type": f"connector.{part}"}},
            "graph": {"edges": ["a -> part", "b -> part.more", "part -> y"]},
            "programs": {"forward": {"outputs": ["y"]}},
        }
    )
    a, b = torch.randn(2, 3, 8), torch.randn(2, 3, 8)
    common.recorded(spec, tmp_path, [("forward", {"a": a, "b": b}), ("forward", {"a": a})])
    assert common.isolated([tmp_path]) == [[]]


@pytest.mark.parametrize(
    ("part", "reason"),
    [("foreign", "odd_parts.foreign, line 2, imports packaging"), ("buffered", "is a buffer outside the state dict")],
)
def test_a_part_without_source_of_its_own_is_a_finding(part, reason, parts, tmp_path):
    with pytest.raises(DiagnosticError) as caught:
        codegen.source(model_with(part))
    (diagnostic,) = caught.value.diagnostics
    assert diagnostic.code == "VG0802"
    assert f"projector (connector.{part})" in diagnostic.message
    assert reason in diagnostic.message
    assert diagnostic.fix
    assert render(caught.value.diagnostics)


def test_saving_writes_everything_else_before_it_says_so(parts, tmp_path):
    with pytest.raises(DiagnosticError, match="VG0802"):
        model_with("foreign", "cpu").save(tmp_path)
    assert {p.name for p in tmp_path.iterdir()} >= {"spec.lock.toml", "model.safetensors", "report.json"}
    assert not (tmp_path / "model.py").exists()


def test_the_command_keeps_the_folder(parts, tmp_path, capsys):
    spec = tmp_path / "odd.toml"
    spec.write_text('vlmgraph = 1\nextends = "llava-1.5"\n[components.projector]\ntype = "connector.foreign"\n[expect]\nparams = {}\n')
    assert main(["compile", str(spec), "--size", "tiny", "-o", str(tmp_path / "out")]) == 1
    assert "VG0802" in capsys.readouterr().err
    assert (tmp_path / "out" / "spec.lock.toml").is_file()
