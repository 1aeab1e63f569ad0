"""Every family: shards or one file, every key accounted for, nothing more and nothing less."""

from __future__ import annotations

import json
import random
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest
import torch

import vlmgraph
from vlmgraph.diagnostics import DiagnosticError
from vlmgraph.weights.safetensors_io import open_weights

pytest.importorskip("transformers", minversion="5.0", reason="the reference implementations are those of transformers 5")

from safetensors.torch import load_file, save_file

from tests.parity.models import CASES
from tests.parity.test_parity import write

FAMILIES = {
    "paligemma": "paligemma_prefix_and_answer",
    "clip": "clip_gelu", "llava": "llava_left_padding_two_images", "blip_2": "blip_2_left_padding", "idefics": "idefics_three_images",
    "fuyu": "fuyu_two_sizes_left_padding", "qwen2_vl": "qwen2_vl_images_and_video", "janus": "janus_deeper_aligner",
    "siglip": "siglip_masked", "metaclip_2": "metaclip_2_small_end_token",
    "instructblip": "instructblip_left_padding", "video_llama_3": "video_llama_3_images_and_pruned_videos",
    "mllama": "mllama_three_images_left_padding", "aimv2": "aimv2_without_a_mask", "kosmos": "kosmos_left_padding",
    "blip": "blip_matching", "florence2": "florence_2_wide_picture",
}  # fmt: skip


@cache
def reference(family: str) -> Any:
    return CASES[FAMILIES[family]]()[0]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("checkpoints")


def folder(root: Path, family: str) -> Path:
    """The family's checkpoint as one file, written once."""
    path = root / family
    if not path.exists():
        write(reference(family), path)
    return path


def damaged(root: Path, family: str, keys: dict[str, torch.Tensor]) -> Path:
    path = Path(mkdtemp(dir=root))
    (path / "config.json").write_bytes((folder(root, family) / "config.json").read_bytes())
    save_file(keys, path / "model.safetensors", metadata={"format": "pt"})
    return path


def refused(path: Path) -> list[tuple[str, str]]:
    with pytest.raises(DiagnosticError) as error:
        vlmgraph.load(path)
    return [(d.code, d.message) for d in error.value.diagnostics]


@pytest.mark.parametrize("family", FAMILIES)
def test_shards_are_one_file(folders: Path, family: str, tmp_path: Path) -> None:
    """Written by the reference in many files, read, and written back in many files: the same tensors to the byte."""
    write(reference(family), tmp_path / "many", max_shard_size="20KB")
    assert len(list((tmp_path / "many").glob("model-*.safetensors"))) > 3
    model, single = vlmgraph.load(tmp_path / "many"), vlmgraph.load(folder(folders, family))
    ours, one = model.state_dict(), single.state_dict()
    assert ours.keys() == one.keys() and all(torch.equal(ours[k], one[k]) for k in ours)
    from vlmgraph.weights.save import save_model

    save_model(model, tmp_path / "back", "transformers", max_shard_bytes=20_000)
    index = json.loads((tmp_path / "back/model.safetensors.index.json").read_text())
    assert len(set(index["weight_map"].values())) > 3
    before, after = open_weights(tmp_path / "many"), open_weights(tmp_path / "back")
    assert set(before) == set(after) == set(index["weight_map"])
    for key, tensor in before.items():
        a, b = tensor.load(), after[key].load()
        assert a.dtype == b.dtype and a.shape == b.shape and a.numpy().tobytes() == b.numpy().tobytes(), key


@pytest.mark.parametrize("family", FAMILIES)
def test_a_foreign_key_and_missing_keys(folders: Path, family: str) -> None:
    stored = load_file(folder(folders, family) / "model.safetensors")
    known = sorted(stored)
    gone = random.Random(3).sample(known, 3)
    foreign = known[len(known) // 2] + "_scale"
    keys = {k: v for k, v in stored.items() if k not in gone} | {foreign: torch.zeros(3)}
    found = refused(damaged(folders, family, keys))
    assert {code for code, _ in found} == {"VG0609", "VG0610"}, found
    assert [message for code, message in found if code == "VG0610" and foreign in message], "the foreign key is named"
    missing = " ".join(message for code, message in found if code == "VG0609")
    assert all(key in missing for key in gone), "every missing key is named, all at once"


@pytest.mark.parametrize("family", FAMILIES)
def test_a_layer_more_or_less(folders: Path, family: str) -> None:
    """The keys of one more layer than config.json says are no padding to be skipped."""
    stored = load_file(folder(folders, family) / "model.safetensors")
    layer = max(
        (k for k in stored if ".layers." in k or ".layer." in k or ".blocks." in k),
        key=lambda k: [int(p) for p in k.split(".") if p.isdigit()],
    )
    parts = layer.split(".")
    at = max(i for i, part in enumerate(parts) if part.isdigit())
    further = ".".join([*parts[:at], str(int(parts[at]) + 7), *parts[at + 1 :]])
    found = refused(damaged(folders, family, stored | {further: stored[layer].clone()}))
    assert [code for code, message in found if further in message] == ["VG0610"], found


@pytest.mark.parametrize("family", FAMILIES)
def test_a_tensor_of_another_shape(folders: Path, family: str) -> None:
    stored = load_file(folder(folders, family) / "model.safetensors")
    key = next(k for k in sorted(stored) if stored[k].dim() == 2 and "embed" not in k)
    found = refused(damaged(folders, family, stored | {key: torch.cat([stored[key], stored[key][:1]])}))
    assert "VG0611" in {code for code, message in found if key in message}, found


@pytest.mark.parametrize("family", FAMILIES)
def test_imported_on_the_command_line(folders: Path, family: str, tmp_path: Path) -> None:
    """The spec alone checks clean and has the parameters of the files; with --weights the folder holds the same model."""
    from vlmgraph.cli import main
    from vlmgraph.report import report

    source = folder(folders, family)
    assert main(["import", str(source), "-o", str(tmp_path / "own.toml")]) == 0
    # ids that only the tokenizer's files know are warned of
    assert {(d.severity, d.code) for d in vlmgraph.check(tmp_path / "own.toml")} <= {("warning", "VG0715")}
    assert main(["import", str(source), "--weights", "-o", str(tmp_path / "out")]) == 0
    model, again = vlmgraph.load(source), vlmgraph.load(tmp_path / "out")
    ours, theirs = model.state_dict(), again.state_dict()
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)
    counted = report(vlmgraph.elaborate(tmp_path / "own.toml")).total
    assert counted == sum(p.numel() for p in again.parameters())


def test_generation_is_compared_for_every_family_that_generates() -> None:
    from tests.parity import test_parity

    (mark,) = [m for m in test_parity.test_same_tokens_are_generated.pytestmark if m.name == "parametrize"]
    towers = {"clip", "siglip", "metaclip_2", "aimv2"}
    elsewhere = {"video_llama_3", "florence2"}  # tests/architectures/test_{videollama_3,florence_2}.py, with and without a cache
    assert {f for f in FAMILIES if any(name.startswith(f) for name in mark.args[1])} == set(FAMILIES) - towers - elsewhere
