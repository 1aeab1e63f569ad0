"""The generated file computes what the compiled model computes, to the bit, where vlmgraph does not exist."""

from __future__ import annotations

import ast
import difflib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from vlmgraph.codegen.generate import Generator

import vlmgraph
from vlmgraph import codegen

SPECS = ("clip", "llava-1.5", "cogvlm", "blip-2", "flamingo", "idefics", "qwen2-vl", "janus", "honeybee")
NAMES = (*SPECS, "videollama-3", "cyclip", "clip@rn50", "blip-2@opt", "blip-2@flan-t5", "flamingo@flamingo-3b")
NAMES += ("deepseek-vl", "moondream@2025")
ROOT = Path(__file__).parents[2]


# a stack whose layers differ in their mask is copied whole
@pytest.mark.parametrize("name", [*NAMES, "qwen2.5-vl", "minimax-vl-01"])
def test_keys_and_outputs_are_the_same(name, generated):
    assert generated[name][2] == []


@pytest.mark.parametrize("name", NAMES)
def test_it_imports_torch_and_the_standard_library_alone(name, generated):
    found = set()
    for node in ast.walk(ast.parse(generated[name][1])):
        if isinstance(node, ast.Import):
            found |= {a.name.partition(".")[0] for a in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level
            found.add((node.module or "").partition(".")[0])
    assert "torch" in found
    assert found <= {"torch", *sys.stdlib_module_names}


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_left_over(name, generated, plugin):
    """No class is copied whole, and no definition, parameter, branch or attribute is there that nobody uses."""
    spec, _, variant = name.partition("@")
    generator = Generator(vlmgraph.compile(vlmgraph.read_spec(spec, size="tiny", variant=variant or None), device="meta"))
    generator.module()
    assert generator.special.failed == {}
    tree = ast.parse(generated[name][1])
    read = [n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)]
    defined = [n.name for n in tree.body if isinstance(n, (ast.ClassDef, ast.FunctionDef)) and n.name != "Model"]
    assert [d for d in defined if d not in read] == []
    for function in ast.walk(tree):
        if not isinstance(function, ast.FunctionDef):
            continue
        used = {n.id for s in function.body for n in ast.walk(s) if isinstance(n, ast.Name)}
        # layers of one list are called alike: those of a Q-Former without cross-attention take the image too
        unused = [a.arg for a in function.args.args if a.arg != "self" and a.arg not in used]
        assert unused == ["image"] * (name.startswith("blip-2") and "queries" in used) or unused == [], function.name
        for node in ast.walk(function):
            assert not (isinstance(node, ast.If) and isinstance(node.test, ast.Constant)), function.name
            assert not (isinstance(node, ast.Attribute) and node.attr in ("init", "std", "cross_port", "rules", "drop_prefix"))


@pytest.mark.parametrize("name", NAMES)
def test_lines_are_short_and_the_linter_is_content(name, generated):
    folder, text, _ = generated[name]
    assert max(map(len, text.splitlines())) <= 120
    run = [sys.executable, "-m", "ruff", "check", "--isolated", "--select", "E,F", "--line-length", "140", str(folder / "model.py")]
    done = subprocess.run(run, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_no_default_of_the_language_is_in_a_file_that_leaves_it_open(generated):
    """LLaVA's vision tower has neither mask nor rotation, and its language model no cache, no routing and no cross-attention."""
    text = generated["llava-1.5"][1]
    vision = text[text.index("class VisionAttention") : text.index("class VisionBlock")]
    assert "mask" not in vision.split('"""')[2]
    for word in ("cache", "soft_cap", "self.cross", "self.added", "taps", "experts"):
        assert word not in "".join(text.split('"""')[::2]), word
    assert len(text.splitlines()) < 500


def test_the_text_does_not_depend_on_process_or_device(generated):
    code = (
        "import sys, vlmgraph; from vlmgraph import codegen\n"
        "for n in sys.argv[1:]: sys.stdout.write(codegen.source(vlmgraph.compile(vlmgraph.read_spec(n, size='tiny'), device='meta')))"
    )
    names = ("cogvlm", "blip-2")
    texts = set()
    for seed in ("1", "77"):
        env = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONIOENCODING": "utf-8"}
        run = subprocess.run([sys.executable, "-c", code, *names], capture_output=True, env=env, check=False, cwd=ROOT)
        assert run.returncode == 0, run.stderr.decode()
        texts.add(run.stdout.decode("utf-8"))
    assert len(texts) == 1
    here = "".join(generated[n][1] for n in names)
    assert list(difflib.unified_diff(here.split("\n"), texts.pop().split("\n"), n=0)) == []


@pytest.mark.slow
def test_published_sizes_have_the_same_keys(tmp_path, plugin):
    import importlib.util

    found = importlib.util.spec_from_file_location("codegen_common", Path(__file__).parent / "conftest.py")
    assert found and found.loader
    common = importlib.util.module_from_spec(found)
    found.loader.exec_module(common)
    names = list(SPECS)
    for name in names:
        common.recorded(vlmgraph.read_spec(name), tmp_path / name, None)
    assert dict(zip(names, common.isolated([tmp_path / n for n in names]), strict=True)) == {n: [] for n in names}


def test_a_compiled_folder_holds_it(tmp_path):
    model = vlmgraph.compile(vlmgraph.read_spec("clip", size="tiny"), device="meta")
    model.save(tmp_path)
    assert (tmp_path / "model.py").read_text(encoding="utf-8") == codegen.source(model)
