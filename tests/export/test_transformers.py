"""The folder for transformers: in a process without vlmgraph it loads, gives the same numbers and writes the same tokens."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch

import vlmgraph
from tests.levels.models import SPECS, inputs, tiny
from vlmgraph.lower.example import example_inputs
from vlmgraph.lower.generate.decoder import Decoder
from vlmgraph.lower.generate.grow import written_input
from vlmgraph.passes.slice import MissingInput

HERE = Path(__file__).parent
FAST = ("llava-1.5", "qwen2-vl", "llama-3.2-vision", "clip")
BEAMS = ("llava-1.5", "llama-3.2-vision")
"""Pictures by row; of pictures in a row of their own only transformers' caller knows whose they are."""
WITHIN = 1e-5
"""Relative: the same operations in the same order, but for keys and values that a cache joins; float32."""
STEPS = 4
LOSSES = ("llava-1.5", "qwen2-vl")


def written(model, program: str, given: dict[str, torch.Tensor], beams: bool) -> dict | None:
    """What the compiled model writes behind a prompt: its own greedy tokens, and the scores before each of some given tokens."""
    main = written_input(model)
    random = torch.Generator().manual_seed(5)
    if main not in given:
        rows = len(next(iter(given.values())))
        given = {**given, main: torch.full((rows, 1), model.graph.tokens.get("<decoder_start>", 0))}
    usual = torch.tensor([i for i in range(3, 60) if i not in model.graph.tokens.values()])
    tokens = usual[torch.randint(len(usual), (len(given[main]), STEPS), generator=random)]
    cached = bool(model.graph.programs[program].cache)
    scores, greedy = [], []
    prompt, count = given[main].shape[1], STEPS
    placeholders = torch.tensor([*model.graph.tokens.values(), -1])
    for use_cache in (True, False):
        decoder = Decoder(model, program, given, main, use_cache and cached, None)
        scores.append(torch.stack([decoder.start(), *(decoder.step(tokens[:, i]) for i in range(STEPS - 1))], dim=1))
        ids = model.generate(**given, max_new_tokens=count, use_cache=use_cache)
        ends = torch.isin(ids[:, prompt:], placeholders).any(0).nonzero()  # of an image that nobody gave: no program reads it
        count = int(ends[0]) + 1 if len(ends) else count
        greedy.append(ids[:, : prompt + count])
    others = {}
    if beams:  # as vlmgraph searches and draws; transformers draws by the one generator that there is
        others = {how: model.generate(**given, max_new_tokens=STEPS, **options) for how, options in (
            ("beams", {"num_beams": 3}), ("sampled", {"do_sample": True, "top_k": 20, "generator": torch.Generator().manual_seed(3)})
        )}  # fmt: skip
    return {"tokens": tokens, "scores": scores, "greedy": greedy, "prompt": prompt, "cached": cached, "others": others}


def left(given: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Padding moved to the front of every row."""
    mask = given.get("attention_mask")
    if mask is None or bool(mask[:, -1].all()):
        return given
    order = mask.long().argsort(dim=1, stable=True)
    return {k: v.gather(1, order) if v.shape == mask.shape else v for k, v in given.items()}


@torch.no_grad()
def recorded(name: str, folder: Path) -> None:
    """The folder, with inputs and what the compiled model makes of them."""
    model, processor = tiny(name)
    vlmgraph.export(model, "transformers", folder)
    writes = "generate" in model.programs
    program = "generate" if writes else model.main
    calls: dict[str, dict] = {}
    for label, media in (("pictures", True), ("text alone", False)):
        try:
            given = left(inputs(name, program, media=media))
            if not media and given.keys() == calls["pictures"]["inputs"].keys():
                continue
            outputs = model.programs[program](**given)
        except (MissingInput, vlmgraph.diagnostics.DiagnosticError):
            assert not media  # there is no such call
            continue
        said = written(model, program, given, beams=name in BEAMS) if writes else None
        calls[label] = {"inputs": given, "outputs": outputs, "within": WITHIN, "written": said}
    if name in LOSSES:  # `labels` as trainers give them: the next token of each place, -100 left out
        given = inputs(name, "objective.lm", labels=True)
        calls["labels"] = {"inputs": given, "outputs": model.programs["objective.lm"](**given), "within": WITHIN, "written": None}
    spy = Spy(processor)
    example_inputs(model.graph, spy, program)
    shown = {n.component for n in model.programs[program].graph().nodes if n.op == "call" and not n.facet and seen(model, n)}
    torch.save({"encoders": sorted(shown), "calls": calls, "processor": spy.calls}, folder / "recorded.pt")


class Spy:
    """A processor that remembers how it was called, and what it made."""

    def __init__(self, whole) -> None:
        self.whole, self.calls = whole, []

    def __getattr__(self, name: str):
        return getattr(self.whole, name)

    def __call__(self, *args, **named):
        made = self.whole(*args, **named)
        call = {k: v for k, v in (*zip(("text", "images", "videos"), args), *named.items()) if v is not None}
        self.calls.append(({k: pixels(v) for k, v in call.items()}, {k: torch.from_numpy(v) for k, v in made.items()}))
        return made


def pixels(value):
    """Pictures as tensors, wherever they stand."""
    if isinstance(value, PIL.Image.Image):
        return torch.from_numpy(np.array(value))
    return [pixels(v) for v in value] if isinstance(value, list) else value


def seen(model, node) -> bool:
    """Whether a component reads pictures themselves."""
    kinds = [model.graph.inputs[s].kind for s in node.sources() if s in model.graph.inputs]
    part = dict(model.named_modules()).get(node.component)
    trained = None if part is None else next(part.parameters(), None)
    return trained is not None and any(kind in ("image", "video", "patches") for kind in kinds)


def loaded(folders: list[Path], home: Path, script: str = "loaded.py") -> list[list[str]]:
    """The differences found for every folder, in one process that cannot import vlmgraph."""
    env = {**os.environ, "HF_HOME": str(home), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-I", str(HERE / script), *map(str, folders)]
    run = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
    assert run.returncode == 0, run.stderr[-3000:]
    return [json.loads(line.removeprefix("RESULT ")) for line in run.stdout.splitlines() if line.startswith("RESULT ")]


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, tuple[Path, list[str]]]:
    root = tmp_path_factory.mktemp("transformers")
    for name in FAST:
        recorded(name, root / name)
    found = loaded([root / name for name in FAST], root / "home")
    return {name: (root / name, result) for name, result in zip(FAST, found, strict=True)}


@pytest.mark.parametrize("name", FAST)
def test_loads_forwards_and_writes_the_same(name: str, folders) -> None:
    assert folders[name][1] == []


@pytest.fixture(scope="module")
def others(tmp_path_factory) -> dict[str, list[str]]:
    """Of all other specs, in one process too."""
    root = tmp_path_factory.mktemp("every")
    names = [name for name in SPECS if name not in FAST]
    for name in names:
        recorded(name, root / name)
        tiny.cache_clear()
    return dict(zip(names, loaded([root / name for name in names], root / "home"), strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("name", [s for s in SPECS if s not in FAST])
def test_every_spec(name: str, others) -> None:
    assert others[name] == []


def test_tied_weights_are_written_once(folders, tmp_path: Path) -> None:
    from safetensors import safe_open

    model = next(m for m in (tiny(name)[0] for name in ("llava-1.5", "paligemma", "smolvlm")) if tied(m))
    vlmgraph.export(model, "transformers", tmp_path)
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        kept = set(file.keys())
    every = {f"model.{k}" for k in model.state_dict()}
    assert kept < every and len(every - kept) == len(tied(model))
    assert json.loads((tmp_path / "config.json").read_text())["tie_word_embeddings"] is True


def tied(model) -> list[str]:
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    return [n for group in names.values() for n in group[1:]]


@pytest.mark.parametrize("what", ["", "trl"])
def test_adapters_devices_and_trainers(what: str, folders, tmp_path: Path) -> None:
    """PEFT attaches by role, accelerate spreads over places and steps, Trainer and TRL train: see trained.py."""
    if what:
        pytest.importorskip(what, reason="it brings pyarrow and pandas, which the other tests do not need")
    env = {**os.environ, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(HERE / "trained.py"), str(folders["llava-1.5"][0]), str(tmp_path), *filter(None, [what])]
    run = subprocess.run(command, capture_output=True, text=True, check=False, env=env, cwd=tmp_path)
    assert run.returncode == 0, run.stderr[-3000:]


@pytest.mark.parametrize("name", FAST)
def test_roles_name_modules(name: str, folders) -> None:
    """Names by role are those of the modules, and below them stand the linear layers that adapters go to."""
    model, _ = tiny(name)
    roles = json.loads((folders[name][0] / "config.json").read_text())["roles"]
    assert roles["encoder"] and (name == "clip" or roles["decoder"])
    for path in (path for paths in roles.values() for path in paths):
        part = model.get_submodule("head" if path == "lm_head" else path.removeprefix("model."))
        assert next(part.parameters(), None) is not None
    for path in roles["encoder"]:
        assert any(isinstance(m, torch.nn.Linear) for m in model.get_submodule(path.removeprefix("model.")).modules())


def test_a_folder_without_weights_and_an_unknown_option_are_refused(tmp_path: Path) -> None:
    empty = vlmgraph.compile(vlmgraph.read_spec("llava-1.5", size="tiny"), device="meta")
    with pytest.raises(vlmgraph.diagnostics.DiagnosticError, match="no weights"):
        vlmgraph.export(empty, "transformers", tmp_path / "empty")
    with pytest.raises(vlmgraph.diagnostics.DiagnosticError, match="opset"):
        vlmgraph.export(tiny("llava-1.5")[0], "transformers", tmp_path / "optioned", opset=20)
    assert not (tmp_path / "empty").exists() and not (tmp_path / "optioned").exists()


def test_a_processor_that_cannot_stand_alone_is_said(tmp_path: Path, monkeypatch) -> None:
    """One whose pictures are cut by another package."""
    model, _ = tiny("llava-1.5")
    monkeypatch.setattr("vlmgraph.processor.config.Image.module", "elsewhere.pictures:images")
    told = vlmgraph.export(model, "transformers", tmp_path)
    assert "no processor files" in told and "VG0803" in told and "elsewhere.pictures" in told
    assert "AutoProcessor" not in json.loads((tmp_path / "config.json").read_text())["auto_map"]


def test_the_command_writes_and_replaces_the_folder(tmp_path: Path, capsys) -> None:
    from vlmgraph.cli import main

    command = ["export", "clip", "--size", "tiny", "--to", "transformers", "-o", str(tmp_path / "clip")]
    for _ in range(2):
        assert main(command) == 0
        assert {"config.json", "model.safetensors", "spec.lock.toml", "processor_config.json"} <= {
            p.name for p in (tmp_path / "clip").iterdir()
        }
    capsys.readouterr()
