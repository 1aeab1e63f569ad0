"""Folders: what vlmgraph wrote, and what transformers wrote. The second has to answer as transformers does."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch

import vlmgraph
from vlmgraph.processor.model import model_processor


def test_a_compiled_folder(run: Any, photos: list[Path], tmp_path: Path) -> None:
    vlmgraph.compile(vlmgraph.read_spec("llava-1.5", size="tiny"), seed=5).save(tmp_path / "built")
    arguments = ("--image", photos[0], "--prompt", "What?", "--max-new-tokens", 4, "--json")
    said = run(tmp_path / "built", *arguments)
    fresh = run("llava-1.5", "--size", "tiny", "--seed", 5, *arguments)
    assert said.results == fresh.results != run("llava-1.5", "--size", "tiny", *arguments).results
    assert "VG0902" in fresh.err and "VG0902" not in said.err  # weights that were saved are not called random
    assert run(tmp_path / "built", "--size", "tiny", *arguments).code == 2


def test_a_folder_without_weights(run: Any, photos: list[Path], tmp_path: Path) -> None:
    arguments = ("--image", photos[0], "--prompt", "What?", "--max-new-tokens", 2)
    for size, code in (("tiny", 0), (None, 1)):
        folder = tmp_path / str(size)
        vlmgraph.compile(vlmgraph.read_spec("llava-1.5", size=size), device="meta").save(folder)
        said = run(folder, *arguments)
        assert said.code == code and "VG0902" in said.err and "holds no weights" in said.err


tf = pytest.importorskip("transformers", minversion="5.0")


def wrote(reference: Any, image: Any, folder: Path) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        reference.save_pretrained(folder)
        image.save_pretrained(folder)
    return folder


def llava(folder: Path) -> tuple[Any, Any]:
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    from tests.parity.models import CASES

    return CASES["llava_full_strategy"]()[0], CLIPImageProcessorPil(size={"shortest_edge": 40}, crop_size=32, image_mean=[0.4, 0.5, 0.6])


def blip_2(folder: Path) -> tuple[Any, Any]:
    from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

    from tests.parity import models

    made = next(make for name, make in models.CASES.items() if name.startswith("blip_2"))
    return made()[0], BlipImageProcessorPil(size={"height": 32, "width": 32}, resample=2)


def idefics(folder: Path) -> tuple[Any, Any]:
    from transformers.models.idefics.image_processing_pil_idefics import IdeficsImageProcessorPil

    from tests.parity import models

    made = next(make for name, make in models.CASES.items() if name.startswith("idefics"))
    return made()[0], IdeficsImageProcessorPil(image_size=32)


def janus(folder: Path) -> tuple[Any, Any]:
    from transformers.models.janus.image_processing_pil_janus import JanusImageProcessorPil

    from tests.parity.models import CASES

    half = [0.5, 0.5, 0.5]
    return CASES["janus_deeper_aligner"]()[0], JanusImageProcessorPil(image_mean=half, image_std=half, size={"height": 32, "width": 32})


def qwen2_vl(folder: Path) -> tuple[Any, Any]:
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    from tests.parity.models import CASES

    return CASES["qwen2_vl_images_and_video"]()[0], Qwen2VLImageProcessorPil(patch_size=6, min_pixels=144, max_pixels=144 * 20)


@pytest.mark.parametrize("made", [llava, blip_2, idefics, janus, qwen2_vl])
def test_published_folders_answer_as_transformers(made: Any, run: Any, photos: list[Path], tmp_path: Path) -> None:
    """The pixels are those of the folder's own image processor, and the words those that the reference model writes from them."""
    reference, image = made(tmp_path)
    folder = wrote(reference, image, tmp_path / "published")
    (result,) = run(folder, "--image", photos[0], "--prompt", "Why?", "--max-new-tokens", 6, "--json").results
    model = vlmgraph.load(folder)
    processor = model_processor(model.spec, model.graph, folder)
    inputs = processor.ask("Why?", images=photos[0])
    pixels = image(PIL.Image.open(photos[0]))
    pixels = np.asarray(pixels if made is idefics else pixels["pixel_values"])
    assert np.abs(inputs["pixel_values"] - pixels.reshape(inputs["pixel_values"].shape)).max() < 0.02  # within one step of a byte
    given = {k: torch.from_numpy(v) for k, v in inputs.items()}
    if made is qwen2_vl:
        given["mm_token_type_ids"] = (given["input_ids"] == reference.config.image_token_id).long()
    found: list[int] = []
    with torch.no_grad():
        for _ in range(6):  # greedy by whole passes
            token = reference(**given).logits[:, -1].argmax(-1, keepdim=True)
            found.append(int(token))
            if found[-1] in processor.stop:
                break
            given["input_ids"] = torch.cat([given["input_ids"], token], 1)
            for name in ("attention_mask", "image_attention_mask"):
                if name in given:
                    given[name] = torch.cat([given[name], given[name][:, -1:]], 1)
            if made is qwen2_vl:
                given["mm_token_type_ids"] = torch.cat([given["mm_token_type_ids"], torch.zeros_like(token)], 1)
    assert result["ids"] == found


def test_an_imported_folder_answers_as_the_published_one(run: Any, photos: list[Path], tmp_path: Path) -> None:
    """Its image processor, its tokenizer and what ends its answers go along."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    folder = wrote(*llava(tmp_path), tmp_path / "published")
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())[:80]
    library = Tokenizer(models.BPE(vocab=dict(zip(letters, range(5, 85))) | {"<s>": 1, "</s>": 2, "<pad>": 3, "<image>": 95}, merges=[]))
    library.pre_tokenizer, library.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    library.add_special_tokens(["<s>", "</s>", "<pad>", "<image>"])
    library.save(str(folder / "tokenizer.json"))
    arguments = ("--image", photos[0], "--prompt", "Why?", "--max-new-tokens", 6, "--json")
    first = run(folder, *arguments)
    assert first.err == ""  # nothing stands in for anything
    (result,) = first.results
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [result["ids"][1], 96]}))
    (stopped,) = run(folder, *arguments).results
    assert stopped["ids"] == result["ids"][: result["ids"].index(result["ids"][1]) + 1]
    vlmgraph.load(folder).save(tmp_path / "imported")
    assert run(tmp_path / "imported", *arguments).results == [stopped]
    config = json.loads((folder / "preprocessor_config.json").read_text())
    (folder / "preprocessor_config.json").unlink()
    (folder / "processor_config.json").write_text(json.dumps({"processor_class": "LlavaProcessor", "image_processor": config}))
    assert run(folder, *arguments).results == [stopped]
    model = vlmgraph.load(folder)
    pixels = [model_processor(model.spec, model.graph, f).ask("Why?", images=photos[0])["pixel_values"] for f in (folder, tmp_path)]
    assert not np.allclose(*pixels, atol=0.1)  # without it the pictures would be others


def test_clip_folder_scores_as_transformers(run: Any, photos: list[Path], tmp_path: Path) -> None:
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    from tests.parity import models

    reference = next(make for name, make in models.CASES.items() if name.startswith("clip"))()[0]
    folder = wrote(reference, CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=32), tmp_path / "clip")
    positions = reference.config.text_config.max_position_embeddings
    said = run(folder, "--image", photos[0], "--prompt", "a cat", "--prompt", "a dog", "--json")
    model = vlmgraph.load(folder)
    inputs = model_processor(model.spec, model.graph, folder)(text=["a cat", "a dog"], images=photos[0])
    assert inputs["input_ids"].shape == (2, positions)
    with torch.no_grad():
        wanted = reference(**{k: torch.from_numpy(v) for k, v in inputs.items()}).logits_per_image[0]
    scores = {t["text"]: t["score"] for t in said.results[0]["texts"]}
    assert np.allclose([scores["a cat"], scores["a dog"]], wanted.numpy(), rtol=1e-4)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"crop_pct": 0.9, "do_flip": True}, "do_flip = true is not known"),
        ({"resample": 4}, "resample = 4 is not supported"),
        ({"do_resize": False}, "do_resize = false is not supported"),
        ({"do_center_crop": False}, "leaves the longer edge open"),
        ({"image_mean": [0.5]}, "not three numbers"),
        ({"size": {"shortest_edge": 64}, "crop_size": {"height": 64, "width": 64}}, "VG0717"),
        ({"size": "big"}, "no size that is understood"),
        ({"rescale_factor": "x"}, "is not a number"),
        (None, "cannot be read"),
    ],
)
def test_a_processor_configuration_that_cannot_be_honoured(change: Any, says: str, run: Any, photos: list[Path], tmp_path: Path) -> None:
    """A key that would be passed over would change what the model sees."""
    model = vlmgraph.compile(vlmgraph.read_spec("llava-1.5", size="tiny"))
    model.save(tmp_path / "m")
    base = {"image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": 42}, "do_center_crop": True,
            "crop_size": {"height": 42, "width": 42}}  # fmt: skip
    text = "{" if change is None else json.dumps(base | change, indent=1)
    (tmp_path / "m/preprocessor_config.json").write_text(text)
    said = run(tmp_path / "m", "--image", photos[0], "--prompt", "x")
    assert said.code == 1 and says in said.err, said.err
    assert "Traceback" not in said.err and "help:" in said.err
