"""Florence-2's pixels and prompts against transformers' processor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

pytest.importorskip("transformers", minversion="5.0")

import transformers as tf
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from tests.processor.test_parity import close
from tests.processor.test_parity_text import library
from vlmgraph import api, read_spec
from vlmgraph.processor import Processor
from vlmgraph.processor.model import model_processor

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
STEP = 1 / 255 / 0.224


def both(tmp_path: Path) -> tuple[Processor, Any]:
    names = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "image_token": "<image>"}
    spec = read_spec("florence-2", size="tiny")
    graph = api.elaborate(spec)
    named = {name: id for name, id in graph.tokens.items() if name != "<decoder_start>"}  # another name of </s>
    made = library(named | {f"<loc_{k}>": 300 + k for k in range(100)})
    made.save(str(tmp_path / "tokenizer.json"))
    tokenizer = tf.PreTrainedTokenizerFast(
        tokenizer_object=made, extra_special_tokens={"image_token": names.pop("image_token")}, clean_up_tokenization_spaces=False, **names
    )
    ours = model_processor(spec, graph, tmp_path)
    assert not ours.notes  # the file was found
    image = CLIPImageProcessorPil(size={"height": 96, "width": 96}, do_center_crop=False, image_mean=MEAN, image_std=STD)
    image.image_seq_length = 10
    return ours, tf.Florence2Processor(image, tokenizer)


TASKS = {
    "caption": ("<CAPTION>", {}),
    "od": ("<OD>", {}),
    "ocr_with_region": ("<OCR_WITH_REGION>", {}),
    "caption_to_phrase_grounding": ("<CAPTION_TO_PHRASE_GROUNDING>", {"input": "the cat"}),
    "region_to_ocr": ("<REGION_TO_OCR>", {"input": "<loc_1><loc_2><loc_3><loc_40>"}),
}


@pytest.mark.parametrize("task", TASKS)
def test_a_task_is_a_sentence(task: str, tmp_path: Path, photos: dict[str, PIL.Image.Image]) -> None:
    ours, reference = both(tmp_path)
    token, values = TASKS[task]
    photo = photos["china"]
    wanted = reference(text=token + values.get("input", ""), images=photo, return_tensors="np")
    got = ours(ours.prompt(task, **values), images=photo)
    for name in ("input_ids", "attention_mask"):
        assert np.array_equal(got[name], wanted[name]), name
    assert (got["input_ids"][0, :11] == [410] * 10 + [0]).all() and got["input_ids"][0, -1] == 2


def test_every_task_of_the_reference_is_there(tmp_path: Path) -> None:
    ours, reference = both(tmp_path)
    theirs = {**reference.task_prompts_without_inputs, **reference.task_prompts_with_input}
    for name, text in theirs.items():
        values = {"input": "a {word}"} if "{input}" in text else {}
        assert ours.prompt(name.strip("<>").lower(), **values) == text.format(**values)


@pytest.mark.parametrize("size", [(1, 1), (90, 1), (333, 97), (4000, 300)])
def test_pixels_of_any_size(size: tuple[int, int], tmp_path: Path, photos: dict[str, PIL.Image.Image]) -> None:
    ours, reference = both(tmp_path)
    picture = photos["china"].resize(size)
    wanted = reference.image_processor(picture, return_tensors="np")["pixel_values"]
    close(ours(text="x", images=picture)["pixel_values"], wanted, STEP)
