"""Reading and writing checkpoint folders, and what is said about bad ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from vlmgraph.diagnostics import DiagnosticError
from vlmgraph.weights.safetensors_io import INDEX, SINGLE, open_weights, save_weights

TENSORS = {
    "a.weight": torch.arange(6.0).reshape(2, 3), "b": torch.tensor(2.5), "c.bf16": torch.randn(7).bfloat16(), "c.half": torch.randn(3,
    1).half(),
    "d.ids": torch.tensor([1, -2, 3]), "e.mask": torch.tensor([True, False]), "f.double": torch.randn(2).double(),
}  # fmt: skip


def raises(folder: Path, code: str, *texts: str) -> None:
    with pytest.raises(DiagnosticError) as error:
        for tensor in open_weights(folder).values():
            tensor.load()
    assert {d.code for d in error.value.diagnostics} == {code}, error.value
    for text in texts:
        assert text in str(error.value)


@pytest.mark.parametrize("limit", [10**9, 40, 1])
def test_round_trip(tmp_path: Path, limit: int) -> None:
    files = save_weights(TENSORS, tmp_path, limit)
    assert (len(files) == 1) == (limit == 10**9) and (tmp_path / INDEX).exists() == (len(files) > 1)
    assert limit != 1 or len(files) == len(TENSORS)
    found = open_weights(tmp_path)
    assert set(found) == set(TENSORS)
    for key, tensor in TENSORS.items():
        assert found[key].shape == tuple(tensor.shape) and found[key].dtype == tensor.dtype and found[key].file in {f.name for f in files}
        for ours in (found[key].load(), found[key].read()):
            assert torch.equal(ours, tensor) and ours.dtype == tensor.dtype and ours.shape == tensor.shape
    assert not list(tmp_path.glob(".*"))


def test_saving_again_leaves_no_old_shards(tmp_path: Path) -> None:
    save_weights(TENSORS, tmp_path, 1)
    save_weights({"only": torch.zeros(1)}, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == [SINGLE] and set(open_weights(tmp_path)) == {"only"}
    save_weights(TENSORS, tmp_path, 40)
    assert set(open_weights(tmp_path)) == set(TENSORS) and not (tmp_path / SINGLE).exists()


def test_views_and_shared_storage_are_saved(tmp_path: Path) -> None:
    base = torch.arange(12.0).reshape(3, 4)
    save_weights({"t": base.t(), "row": base[1], "same": base}, tmp_path)
    assert torch.equal(open_weights(tmp_path)["t"].load(), base.t())


@pytest.mark.parametrize("keep", [0, 4, 8, 60, -1, -7])
def test_cut_short(tmp_path: Path, keep: int) -> None:
    save_weights(TENSORS, tmp_path)
    data = (tmp_path / SINGLE).read_bytes()
    (tmp_path / SINGLE).write_bytes(data[:keep])
    raises(tmp_path, "VG0606", SINGLE)


@pytest.mark.parametrize("data", [b"hello world, this is text", b"\x80\x02}q\x00.", b"\xff" * 64, b'\x08\0\0\0\0\0\0\0{"a": 1}'])
def test_not_safetensors(tmp_path: Path, data: bytes) -> None:
    (tmp_path / SINGLE).write_bytes(data)
    raises(tmp_path, "VG0606", SINGLE)


def test_pickles_are_never_opened(tmp_path: Path) -> None:
    touched = tmp_path / "touched"
    payload = f"cpathlib\nPath\n(S'{touched}'\ntR.".encode()
    (tmp_path / "pytorch_model.bin").write_bytes(payload)
    raises(tmp_path, "VG0608", "pytorch_model.bin")
    assert not touched.exists()


def test_no_weights(tmp_path: Path) -> None:
    raises(tmp_path, "VG0601", str(tmp_path))


def test_missing_shard(tmp_path: Path) -> None:
    files = save_weights(TENSORS, tmp_path, 40)
    files[1].unlink()
    raises(tmp_path, "VG0607", files[1].name)


def test_index_and_shards_disagree(tmp_path: Path) -> None:
    files = save_weights(TENSORS, tmp_path, 40)
    index = json.loads((tmp_path / INDEX).read_text())
    index["weight_map"]["ghost"] = files[0].name
    (tmp_path / INDEX).write_text(json.dumps(index))
    raises(tmp_path, "VG0609", "ghost", files[0].name)
    index["weight_map"].pop("ghost")
    index["weight_map"].pop("b")
    (tmp_path / INDEX).write_text(json.dumps(index))
    raises(tmp_path, "VG0610", "'b'")


@pytest.mark.parametrize("name", ["../evil.safetensors", "/etc/passwd", "sub/x.safetensors", "nothing.safetensors"])
def test_index_names_only_files_beside_it(tmp_path: Path, name: str) -> None:
    inner = tmp_path / "model"
    inner.mkdir()
    save_file({"k": torch.zeros(1)}, str(tmp_path / "evil.safetensors"))
    (inner / INDEX).write_text(json.dumps({"weight_map": {"k": name}}))
    raises(inner, "VG0607", name)


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"weight_map": []}', '{"weight_map": {"a": 1}}', "\x00", "[" * 100_000])
def test_bad_index(tmp_path: Path, text: str) -> None:
    (tmp_path / INDEX).write_text(text)
    raises(tmp_path, "VG0602", INDEX)


def test_unreadable_numbers(tmp_path: Path) -> None:
    header = json.dumps({"q": {"dtype": "F8_E4M3", "shape": [2], "data_offsets": [0, 2]}}).encode()
    (tmp_path / SINGLE).write_bytes(len(header).to_bytes(8, "little") + header + b"\0\0")
    raises(tmp_path, "VG0612", "'q'", "F8_E4M3")
