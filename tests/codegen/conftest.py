"""Models, their generated files and what they compute, recorded once for all tests here."""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import vlmgraph
from vlmgraph import codegen, plugins

HERE = Path(__file__).parent
PLUGIN = HERE.parents[1] / "plugins" / "vlmgraph-abstractor"
SPECS = ("clip", "llava-1.5", "cogvlm", "blip-2", "flamingo", "idefics", "qwen2-vl", "janus")


def forgotten() -> None:
    """Entry points are read anew."""
    plugins.installed.cache_clear()
    plugins.registry.cache_clear()


def installed(place: Path, name: str, package: Path, entry_points: dict[str, dict[str, str]]) -> list[str]:
    """Make a package look installed: its entry points in `place`. Gives the folders that stand on the path now."""
    info = place / f"{name.replace('-', '_')}-0.1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.1.0\n")
    groups = [f"[{g}]\n" + "".join(f"{k} = {v}\n" for k, v in points.items()) for g, points in entry_points.items()]
    (info / "entry_points.txt").write_text("\n".join(groups))
    added = [str(package), str(place)]
    sys.path[:0] = added
    importlib.invalidate_caches()
    forgotten()
    return added


def removed(added: list[str]) -> None:
    for path in added:
        if path in sys.path:
            sys.path.remove(path)
    forgotten()


@pytest.fixture(scope="session")
def plugin(tmp_path_factory):
    """The abstractor plugin as if installed."""
    if any(d.metadata["name"] == "vlmgraph-abstractor" for d in importlib.metadata.distributions()):
        yield
        return
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    project = tomllib.loads((PLUGIN / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    added = installed(tmp_path_factory.mktemp("site"), "vlmgraph-abstractor", PLUGIN, project["entry-points"])
    yield
    removed(added)


def awake(model) -> None:
    """Every parameter a value that matters: gates off zero, norms off one, biases off zero."""
    noise = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not parameter.dim() or "log_scale" in name or "temperature" in name:
                continue
            parameter.add_(torch.randn(parameter.shape, generator=noise) * 0.05)
        for buffer in model.buffers():
            if buffer.is_floating_point():
                buffer.add_(torch.rand(buffer.shape, generator=noise) * 0.1)


def recorded(spec, folder: Path, cases) -> str:
    """Write a model's file beside its state dict and what its programs compute; gives the file's text."""
    model = vlmgraph.compile(spec, device="cpu" if cases is not None else "meta")
    folder.mkdir(parents=True, exist_ok=True)
    text = codegen.source(model)
    (folder / "model.py").write_text(text, encoding="utf-8")
    if cases is None:
        state = {k: torch.empty(v.shape, device="meta") for k, v in model.state_dict().items()}
        torch.save({"meta": True, "state": state, "calls": []}, folder / "saved.pt")
        return text
    awake(model)
    with torch.no_grad():
        calls = [(program, inputs, model.programs[program](**inputs)) for program, inputs in cases]
    torch.save({"meta": False, "state": model.state_dict(), "calls": calls}, folder / "saved.pt")
    return text


def isolated(folders: list[Path]) -> list[list[str]]:
    """The differences found for every folder, in one process that cannot import vlmgraph."""
    run = subprocess.run([sys.executable, "-I", str(HERE / "isolated.py"), *map(str, folders)], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return [json.loads(line) for line in run.stdout.splitlines()]


def tiny(name: str):
    """The spec `name` or `name@variant` at its tiny size."""
    spec, _, variant = name.partition("@")
    return vlmgraph.read_spec(spec, size="tiny", variant=variant or None)


@pytest.fixture(scope="session")
def generated(tmp_path_factory, plugin):
    """Tiny models by spec: (folder, text, differences found where vlmgraph cannot be imported)."""
    import importlib.util

    found = importlib.util.spec_from_file_location("codegen_inputs", HERE / "inputs.py")
    assert found and found.loader
    inputs = importlib.util.module_from_spec(found)
    found.loader.exec_module(inputs)
    root = tmp_path_factory.mktemp("generated")
    texts = {name: recorded(tiny(name), root / name, cases()) for name, cases in inputs.CASES.items()}
    results = isolated([root / name for name in texts])
    return {name: (root / name, text, result) for (name, text), result in zip(texts.items(), results, strict=True)}
