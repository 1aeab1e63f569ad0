"""BLIP's pixels and ids against transformers' processor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

pytest.importorskip("transformers", minversion="5.0")

import transformers as tf
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

from tests.processor.test_parity import CLIP_STEP, close
from vlmgraph import api, read_spec
from vlmgraph.processor import Processor
from vlmgraph.processor.model import model_processor

WORDS = ["a", "picture", "of", "two", "cat", "##s", "on", "sofa", "."]


def both(tmp_path: Path, variant: str | None) -> tuple[Processor, Any]:
    """Our processor of the tiny size beside transformers', of one WordPiece file."""
    spec = read_spec("blip", size="tiny", variant=variant)
    graph = api.elaborate(spec)
    special = {"[UNK]": 1, "[CLS]": 80, **graph.tokens}
    free = (i for i in range(2, 80))
    made = Tokenizer(models.WordPiece(vocab={**special, **dict(zip(WORDS, free))}, unk_token="[UNK]"))
    made.normalizer, made.pre_tokenizer = normalizers.BertNormalizer(lowercase=True), pre_tokenizers.BertPreTokenizer()
    made.decoder = decoders.WordPiece()
    made.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in special])
    ends = [(t, special[t]) for t in ("[CLS]", "[SEP]")]
    made.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    made.save(str(tmp_path / "tokenizer.json"))
    names = {"cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]", "unk_token": "[UNK]"}
    tokenizer = tf.PreTrainedTokenizerFast(tokenizer_object=made, clean_up_tokenization_spaces=False, **names)
    return model_processor(spec, graph, tmp_path), tf.BlipProcessor(BlipImageProcessorPil(size={"height": 48, "width": 48}), tokenizer)


@pytest.mark.parametrize("variant", [None, "matching"])
def test_texts_of_two_lengths(variant: str | None, tmp_path: Path, photos: dict[str, PIL.Image.Image]) -> None:
    ours, reference = both(tmp_path, variant)
    texts, pictures = ["Two cats on a sofa.", "a SOFA"], list(photos.values())[:2]
    got, wanted = ours(texts, pictures), reference(text=texts, images=pictures, padding=True, return_tensors="np")
    for name in ("input_ids", "attention_mask"):
        assert np.array_equal(got[name], wanted[name]), name
    assert got["input_ids"][1].tolist()[-1] == 0 and got["input_ids"][0, 0] == 80


def test_a_prompt_for_a_caption(tmp_path: Path, photos: dict[str, PIL.Image.Image]) -> None:
    """The reference's `generate` puts [DEC] in the place of the first token and takes the last one off."""
    ours, reference = both(tmp_path, "captioner")
    photo = photos["china"]
    wanted = reference(text="a picture of ", images=photo, return_tensors="np")["input_ids"][:, :-1]
    wanted[:, 0] = 88
    got = ours.ask("", images=photo)
    assert got["input_ids"].tolist() == wanted.tolist()
    assert ours.stop == [81]


@pytest.mark.parametrize("size", [(1, 1), (1, 90), (333, 97), (4000, 300)])
def test_pixels_of_any_size(size: tuple[int, int], tmp_path: Path, photos: dict[str, PIL.Image.Image]) -> None:
    ours, reference = both(tmp_path, None)
    for photo in photos.values():
        picture = photo.resize(size)
        wanted = reference.image_processor(picture, return_tensors="np")["pixel_values"]
        close(ours(images=picture)["pixel_values"], wanted, CLIP_STEP)
