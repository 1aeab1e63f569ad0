"""Florence-2 beside its reference: answers that are generated, options that are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import vlmgraph
from vlmgraph.diagnostics import DiagnosticError
from vlmgraph.weights.import_config import import_config

pytest.importorskip("transformers", minversion="5.0", reason="the reference implementations are those of transformers 5")

from tests.parity.models_florence import CASES, florence
from tests.parity.test_parity import write


@pytest.mark.parametrize("name", ["florence_2_wide_picture", "florence_2_other_options"])
@torch.no_grad()
def test_same_answers(name: str, tmp_path: Path) -> None:
    """With padding in a prompt; the weights are such that tokens differ from each other."""
    reference, given, _ = CASES[name]()
    decoder = reference.model.language_model.decoder
    decoder.embed_positions.weight.mul_(12)
    for layer in decoder.layers:
        for part in (layer.self_attn, layer.encoder_attn):
            part.q_proj.weight.mul_(5)
            part.v_proj.weight.mul_(5)
    write(reference, tmp_path)
    model = vlmgraph.load(tmp_path)
    del given["decoder_input_ids"]
    options = {"max_new_tokens": 7, "do_sample": False, "eos_token_id": None}
    wanted = reference.generate(**given, **options)[:, :-1]  # the last one is forced to be the end
    assert wanted.unique().numel() > 3
    assert model.generate(**given, **options)[:, :-1].tolist() == wanted.tolist()


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("tie_word_embeddings", False, "tie_word_embeddings"),
        ("vision_config.in_channels", 4, "in_channels"),
        ("vision_config.activation_function", "mish", "activation_function"),
        ("vision_config.patch_prenorm", [0, 1, 1, 1], "a list of true and false"),
        ("vision_config.embed_dims", [1, 2], "embed_dim"),
        ("vision_config.model_type", "davit", "'davit'"),
        ("text_config.model_type", "t5", "'t5'"),
        ("text_config.activation_function", "mish", "activation_function"),
    ],
)
def test_what_is_refused_is_named(key: str, value: Any, said: str, tmp_path: Path) -> None:
    config = florence().config.to_dict()
    *parents, leaf = key.split(".")
    table = config
    for name in parents:
        table = table[name]
    table[leaf] = value
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(DiagnosticError) as caught:
        import_config(tmp_path / "config.json")
    (found,) = caught.value.diagnostics
    assert said in " ".join((found.message, found.fix or "", *found.notes)) and found.primary is not None


@pytest.mark.parametrize(
    "broken",
    [{"num_heads": [2, 4, 3]}, {"num_heads": [5, 4, 3, 5]}, {"num_groups": [3, 2, 4, 7]}, {"depths": [1, 2, 1]}, {"patch_size": [7]}],
)
def test_stages_that_do_not_fit_are_findings(broken: dict[str, list[int]], tmp_path: Path) -> None:
    config = florence().config.to_dict()
    config["vision_config"] |= broken
    (tmp_path / "config.json").write_text(json.dumps(config))
    found = vlmgraph.check(import_config(tmp_path / "config.json").spec)
    assert found and all(d.severity == "error" for d in found)
    assert any("stages" in d.message or "do not divide" in d.message for d in found), [d.message for d in found]
