"""What can be exported: checkpoints whose files say less than the spec, and nothing that was changed for this process."""

from __future__ import annotations

from pathlib import Path

import pytest

import vlmgraph
from tests.parity.models import llava, tokens
from vlmgraph.diagnostics import DiagnosticError


def test_a_checkpoint_without_a_pad_token(tmp_path: Path) -> None:
    """Its tokens are those of its own files: a row that stands alone needs no padding."""
    peer = llava(tokens(2, 24, 5, 90), None, 0, {"pad_token_id": None})[0]
    peer.save_pretrained(tmp_path / "llava")
    report = vlmgraph.export(vlmgraph.load(tmp_path / "llava"), "onnx", tmp_path / "onnx", programs=["encode_image"])
    assert report.graphs == ["encode_image"]


def test_a_compiled_model_is_refused(tmp_path: Path) -> None:
    model = vlmgraph.compile(vlmgraph.read_spec("clip", size="tiny"), mode="compile")
    with pytest.raises(DiagnosticError, match="compiled for this process"):
        vlmgraph.export(model, "onnx", tmp_path / "onnx")
    assert not (tmp_path / "onnx").exists()
