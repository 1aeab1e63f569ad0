"""Source of a program that decodes: its stacks take caches, and nothing is copied whole that the evaluator follows."""

from __future__ import annotations

import ast
import subprocess
import sys

import pytest
import torch
from vlmgraph.codegen.generate import Generator, render

import vlmgraph
from vlmgraph import codegen
from vlmgraph.nn.cache import KVCache

FOLLOWED = ("llava-1.5", "qwen2-vl", "cogvlm", "deepseek-vl2")


@pytest.fixture(scope="module")
def texts() -> dict[str, tuple[str, dict[str, str]]]:
    found = {}
    for name in FOLLOWED:
        generator = Generator(vlmgraph.compile(vlmgraph.read_spec(name, size="tiny"), device="meta"), "generate")
        found[name] = render(generator.module()), generator.special.failed
    return found


@pytest.mark.parametrize("name", FOLLOWED)
def test_every_class_is_followed(name: str, texts) -> None:
    text, failed = texts[name]
    assert failed == {}
    methods = {n.name: n for n in ast.walk(ast.parse(text)) if isinstance(n, ast.FunctionDef)}
    assert [a.arg for a in methods["generate"].args.kwonlyargs] == ["cache_llm"]
    assert ("generate_step" in methods) == (name in ("qwen2-vl", "cogvlm"))  # they carry positions
    assert "cache is None" not in text and "cache is not None" not in text


def test_the_linter_is_content(texts, tmp_path) -> None:
    for name, (text, _) in texts.items():
        (tmp_path / f"{name}.py").write_text(text, encoding="utf-8")
    run = [sys.executable, "-m", "ruff", "check", "--isolated", "--select", "E9,F", str(tmp_path)]
    done = subprocess.run(run, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@torch.no_grad()
def test_steps_with_the_package_s_own_cache() -> None:
    """The file's caches are the package's: prompt and steps give the scores of the whole sequence."""
    model = vlmgraph.compile(vlmgraph.read_spec("llava-1.5", size="tiny"))
    namespace: dict = {"__name__": "generated"}
    exec(compile(codegen.source(model, "generate"), "model.py", "exec"), namespace)
    made = namespace["Model"]().eval()
    made.load_state_dict(model.state_dict())
    ids = torch.randint(3, 60, (2, 7), generator=torch.Generator().manual_seed(0))
    whole = model(input_ids=ids)["logits"]
    assert torch.equal(made.generate(ids, cache_llm=KVCache())["logits"], whole)
    cache = namespace["KVCache"]()
    parts = [made.generate(ids[:, :4], cache_llm=cache)["logits"]]
    parts += [made.generate(ids[:, i : i + 1], cache_llm=cache)["logits"] for i in range(4, 7)]
    torch.testing.assert_close(torch.cat(parts, 1), whole, rtol=1e-5, atol=1e-6)


def test_without_a_cache_the_file_is_the_old_one() -> None:
    model = vlmgraph.compile(vlmgraph.read_spec("llava-1.5", size="tiny"), device="meta")
    text = codegen.source(model)
    assert "KVCache" not in text and "Program 'generate' decodes with a cache and is left out." in text
