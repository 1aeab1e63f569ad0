"""`vlmgraph import` writes what a person would: presets, and beside them what differs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.weights.test_import_config import LLAVA, changed
from vlmgraph import api
from vlmgraph.cli import main
from vlmgraph.spec import read_spec
from vlmgraph.weights.import_config import import_config
from vlmgraph.weights.tidy import meaning, spec_text, tidied


def imported(folder: Path, config: Any) -> dict[str, Any]:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    return import_config(folder / "config.json").spec


def test_a_published_file_is_the_published_spec(tmp_path: Path) -> None:
    """llava-1.5-7b says nothing that the spec does not; the id of the padding token is the tokenizer's to say."""
    assert tidied(imported(tmp_path, LLAVA)) == {
        "extends": "llava-1.5", "tokens": {"<pad>": {"remove": True}}, "processor": {"input_ids": {"remove": True}},
    }  # fmt: skip


def test_published_counts_stay_where_they_hold(tmp_path: Path) -> None:
    smaller = changed("text_config.num_hidden_layers", 31)
    assert "expect" not in tidied(imported(tmp_path, LLAVA)) and tidied(imported(tmp_path, smaller))["expect"] == {"remove": True}


@pytest.mark.parametrize(
    "changes, llm",
    [
        ({"hidden_size": 5120, "intermediate_size": 13824, "num_hidden_layers": 40, "num_attention_heads": 40},
         {"preset": "vicuna-13b-v1.5"}),
        ({"num_hidden_layers": 31}, {"layers": 31}),
        ({"num_key_value_heads": 8, "rope_theta": 5e5}, {"kv_heads": 8, "position": {"type": "position.rope", "theta": 500000.0}}),
        ({"num_key_value_heads": 32, "head_dim": 128}, None),
        # as in Mistral 7B v0.2, and in InternLM 2.5 as well, whose preset is not taken for it
        ({"model_type": "mistral", "rope_theta": 1e6, "max_position_embeddings": 32768, "sliding_window": None},
         {"preset": "mistral-7b-v0.2"}),
    ],
)  # fmt: skip
def test_the_nearest_preset(tmp_path: Path, changes: dict[str, Any], llm: Any) -> None:
    config = json.loads(json.dumps(LLAVA))
    config["text_config"] |= changes
    long = imported(tmp_path, config)
    short = tidied(long)
    assert short.get("components", {}).get("llm") == llm
    # without a tokenizer there are no ids for the prompts, and no processor of text
    short["processor"].pop("input_ids")
    assert meaning(short) == meaning(long) != meaning({"extends": "llava-1.5"})


def test_no_preset_that_is_contradicted(tmp_path: Path) -> None:
    """A small model shares single values with many published ones; naming one of them would only mislead."""
    sizes = {"hidden_size": 48, "intermediate_size": 88, "num_hidden_layers": 3, "num_attention_heads": 6, "vocab_size": 151}
    config = {**LLAVA, "image_token_index": 150, "text_config": {**LLAVA["text_config"], **sizes}}
    llm = tidied(imported(tmp_path, config))["components"]["llm"]
    assert llm == {"vocab": 151, "width": 48, "mlp": 88, "layers": 3, "heads": 6}


def test_ids_from_the_tokenizer_beside_it(tmp_path: Path) -> None:
    from tokenizers import AddedToken, Tokenizer, models

    tokenizer = Tokenizer(models.BPE({"a": 0}, []))
    tokenizer.add_special_tokens([AddedToken("<image>", special=True), AddedToken("<pad>", special=True)])
    long = imported(tmp_path, LLAVA)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    assert tidied(long, tmp_path) == {"extends": "llava-1.5", "tokens": {"<pad>": 2}}


def test_what_does_not_check_is_not_shortened(tmp_path: Path) -> None:
    long = imported(tmp_path, LLAVA)
    long["components"]["vision"]["heads"] = 7
    assert meaning(long) is None and tidied(long) == long


def test_the_written_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = changed("text_config.num_hidden_layers", 5)
    imported(tmp_path / "my-llava", config)
    assert main(["import", str(tmp_path / "my-llava"), "-o", str(tmp_path / "my.toml")]) == 0
    text = (tmp_path / "my.toml").read_text()
    assert text.startswith(
        '# from my-llava/config.json, model type llava\n\nvlmgraph = 1\nextends = "llava-1.5"\n\n[model]\nname = "my-llava"\n'
    )
    assert main(["check", str(tmp_path / "my.toml")]) == 0
    assert api.elaborate(read_spec(tmp_path / "my.toml")).components["llm"].layers == 5  # type: ignore[attr-defined]
    long = imported(tmp_path / "my-llava", config)
    assert text == spec_text(tidied(long), "my-llava", "from my-llava/config.json, model type llava")
    assert "no problems" in capsys.readouterr().err
