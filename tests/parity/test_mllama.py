"""Published files of Llama 3.2-Vision: the keys and the levels of the release of transformers that wrote them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import vlmgraph

pytest.importorskip("transformers", minversion="5.0", reason="the reference implementations are those of transformers 5")

from safetensors.torch import load_file, save_file

from tests.parity.models import CASES
from tests.parity.test_parity import TOLERANCE, error, write


def in_front(encoder: Any, hidden_states: torch.Tensor, attention_mask: torch.Tensor | None = None) -> Any:
    """The reference's stack with the states that enter its layers, as releases up to 4.54 collected them."""
    from transformers.modeling_outputs import BaseModelOutput

    states = []
    for layer in encoder.layers:
        states.append(hidden_states)
        hidden_states = layer(hidden_states=hidden_states, attention_mask=attention_mask)
    return BaseModelOutput(last_hidden_state=hidden_states, hidden_states=(*states, hidden_states))


@torch.no_grad()
def test_a_file_of_an_older_release(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reference, inputs, _ = CASES["mllama_three_images_left_padding"]()
    write(reference, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "transformers_version": "4.45.0.dev0"}))
    stored = load_file(tmp_path / "model.safetensors")
    hub = {}
    for key, value in stored.items():
        name = key.replace("model.language_model.", "language_model.model.").removeprefix("model.")
        hub[f"language_model.{name}" if name.startswith("lm_head") else name] = value
    assert {key.split(".")[0] for key in hub} == {"language_model", "multi_modal_projector", "vision_model"}
    save_file(hub, tmp_path / "model.safetensors")
    real, now = inputs["attention_mask"].bool(), reference(**inputs)["logits"]
    encoder = type(reference.model.vision_model.transformer)
    monkeypatch.setattr(encoder, "forward", in_front)
    then = reference(**inputs)["logits"]
    assert error(now[real], then[real]) > 100 * TOLERANCE
    model = vlmgraph.load(tmp_path)
    assert error(model(**inputs)["logits"][real], then[real]) < TOLERANCE
    model.save(tmp_path / "back", format="transformers")
    assert set(load_file(tmp_path / "back/model.safetensors")) == set(hub)
