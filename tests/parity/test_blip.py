"""BLIP beside its reference where a call alone does not show it: answers, prompts that lose their end, cosines, what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import vlmgraph
from vlmgraph.diagnostics import DiagnosticError
from vlmgraph.weights.import_config import import_config
from vlmgraph.weights.safetensors_io import open_weights

pytest.importorskip("transformers", minversion="5.0", reason="the reference implementations are those of transformers 5")

from tests.parity.models import CASES, noise, tokens
from tests.parity.models_blip import blip
from tests.parity.test_parity import TOLERANCE, error, write

START, END = 94, 95
LONG = {"max_new_tokens": 6, "do_sample": False}


@pytest.fixture(scope="module")
def answering(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any, Path]:
    folder = tmp_path_factory.mktemp("vqa")
    reference = blip(
        "BlipForQuestionAnswering", {"layer_norm_eps": 1e-2}, {"hidden_size": 40, "num_attention_heads": 5}
    )  # else it cannot run
    write(reference, folder)
    return reference, vlmgraph.load(folder), folder


@torch.no_grad()
def test_answers(answering: tuple[Any, Any, Path]) -> None:
    """The class returns a loss alone, so its inner logits are read. It loses the question's mask on the way to its decoder, which the
    original passes on (and its golden vectors hold): questions of two lengths are given to it one by one."""
    reference, model, _ = answering
    ids, mask = tokens(2, 9, 3, START), torch.ones(2, 9, dtype=torch.long)
    ids[1, 6:], mask[1, 6:] = 0, 0
    answer, real = tokens(2, 5, 3, START, seed=8), torch.ones(2, 5, dtype=torch.long)
    answer[0, 3:], real[0, 3:] = 0, 0
    given = {
        "pixel_values": noise(2, 3, 32, 32), "input_ids": ids, "attention_mask": mask, "decoder_input_ids": answer,
        "decoder_attention_mask": real,
    }  # fmt: skip
    kept: list[Tensor] = []
    hook = reference.text_decoder.register_forward_hook(lambda module, args, out: kept.append(out.logits))
    for row, length in enumerate((9, 6)):
        one = {name: value[row : row + 1] for name, value in given.items()}
        reference(**one | {name: one[name][:, :length] for name in ("input_ids", "attention_mask")})
    hook.remove()
    ours = model(**given)["logits"]
    assert error(ours[real.bool()], torch.cat(kept)[real.bool()]) < TOLERANCE
    for name, value in (("pixel_values", noise(2, 3, 32, 32, seed=4)), ("input_ids", ids.flip(1)), ("attention_mask", mask.flip(1))):
        assert error(model(**{**given, name: value})["logits"], ours) > 100 * TOLERANCE, name


@torch.no_grad()
def test_answers_are_generated(answering: tuple[Any, Any, Path]) -> None:
    reference, model, _ = answering
    given = {"pixel_values": noise(2, 3, 32, 32), "input_ids": tokens(2, 9, 3, START)}
    wanted = reference.generate(**given, **LONG, min_new_tokens=6)
    ours = model.generate(**given, **LONG)
    assert ours.tolist() == wanted.tolist() and (ours[:, 0] == START).all()
    assert torch.equal(ours, model.generate(**given, **LONG, use_cache=False))


@torch.no_grad()
def test_answering_weights_go_back(answering: tuple[Any, Any, Path], tmp_path: Path) -> None:
    _, model, folder = answering
    model.save(tmp_path, format="transformers")
    first, second = open_weights(folder), open_weights(tmp_path)
    assert set(first) == set(second)
    for key, tensor in first.items():
        assert tensor.load().numpy().tobytes() == second[key].load().numpy().tobytes(), key


@torch.no_grad()
def test_a_caption_goes_on_from_its_prompt(tmp_path: Path) -> None:
    """The reference takes the end token off the prompt and puts its start token first; here the processor gives the prompt like that."""
    reference, given, _ = CASES["blip_captioning"]()
    write(reference, tmp_path)
    model = vlmgraph.load(tmp_path)
    prompt = given["input_ids"][:1]
    prompt[:, 0] = START
    pixels = given["pixel_values"][:1]
    whole = torch.cat([prompt, torch.tensor([[END]])], 1)
    wanted = reference.generate(pixel_values=pixels, input_ids=whole.clone(), **LONG, min_new_tokens=6)
    ours = model.generate(pixel_values=pixels, input_ids=prompt, **LONG)
    assert ours.tolist() == wanted.tolist()
    assert torch.equal(ours, model.generate(pixel_values=pixels, input_ids=prompt, **LONG, use_cache=False))


@torch.no_grad()
def test_cosines(tmp_path: Path) -> None:
    """`use_itm_head=False` of the reference: the programs that embed images and texts."""
    reference, given, _ = CASES["blip_matching"]()
    write(reference, tmp_path)
    model = vlmgraph.load(tmp_path)
    wanted = reference(**given, use_itm_head=False)["itm_score"]
    text = {name: given[name] for name in ("input_ids", "attention_mask")}
    images = model.programs["embed_image"](pixel_values=given["pixel_values"])["image_embeds"]
    texts = model.programs["embed_text"](**text)["text_embeds"]
    assert images.shape == (3, 19) and error(images @ texts.t(), wanted) < TOLERANCE


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("architectures", ["BlipModel"], "BlipForImageTextRetrieval"),
        ("tie_word_embeddings", False, "tie_word_embeddings"),
        ("text_config.is_decoder", False, "is_decoder"),
        ("text_config.hidden_act", "mish", "hidden_act"),
        ("vision_config.image_size", [32, 48], "image_size"),
        ("vision_config.num_hiden_layers", 3, "num_hidden_layers"),
        ("text_config.model_type", "bert", "'bert'"),
    ],
)
def test_what_is_refused_is_named(key: str, value: Any, said: str, tmp_path: Path) -> None:
    config = CASES["blip_captioning"]()[0].config.to_dict() | {"architectures": ["BlipForConditionalGeneration"]}
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
