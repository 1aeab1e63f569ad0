"""Boxes as pairs of location tokens, against the functions of transformers' KOSMOS-2 processor; whole calls against the processor."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("transformers", minversion="5.0")

import transformers as tf
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.kosmos2 import processing_kosmos2 as reference

from vlmgraph import api, read_spec
from vlmgraph.diagnostics import DiagnosticError
from vlmgraph.processor import build_processor
from vlmgraph.processor.grid_boxes import GridBoxCodec
from vlmgraph.processor.grid_boxes_config import GridBoxes
from vlmgraph.processor.model import model_processor
from vlmgraph.processor.published import overlaid

CODEC = GridBoxCodec(GridBoxes())
SNOWMAN = (
    "<grounding> An image of<phrase> a snowman</phrase><object><patch_index_0044><patch_index_0863></object> warming himself by"
    "<phrase> a fire</phrase><object><patch_index_0005><patch_index_0911></object>."
)
side = st.integers(0, 4096).map(lambda n: n / 4096)


def test_published_example() -> None:
    caption, (snowman, fire) = CODEC.entities(SNOWMAN)
    assert caption == "An image of a snowman warming himself by a fire."
    assert (snowman.phrase, caption[snowman.start : snowman.end]) == ("a snowman", "a snowman")
    assert snowman.boxes.tolist() == [[0.390625, 0.046875, 0.984375, 0.828125]]
    assert (fire.phrase, fire.start, fire.end) == ("a fire", 41, 47) and fire.boxes.tolist() == [[0.171875, 0.015625, 0.484375, 0.890625]]
    plain = "<grounding> An image of<phrase> a snowman</phrase> warming himself by<phrase> a fire</phrase>."
    assert CODEC.marked(plain, [snowman.boxes, fire.boxes], (1, 1)) == SNOWMAN
    assert CODEC.text(snowman.boxes * [640, 427, 640, 427], (640, 427), " a snowman") in SNOWMAN


@given(st.lists(st.tuples(side, side, side, side), min_size=1, max_size=3))
def test_boxes_go_to_the_bins_of_the_reference_and_back(corners: list[tuple[float, ...]]) -> None:
    """Lines of the grid among them; every side comes back within one bin."""
    boxes = np.array([[min(a, c), min(b, d), max(a, c), max(b, d)] for a, b, c, d in corners if a != c and b != d])
    if not len(boxes):
        return
    text = CODEC.text(boxes, (1, 1), "it")
    pairs = [reference.coordinate_to_patch_index(tuple(box), 32) for box in boxes.tolist()]
    wanted = "</delimiter_of_multi_objects/>".join(f"<patch_index_{a:04}><patch_index_{b:04}>" for a, b in pairs)
    assert text == f"<phrase>it</phrase><object>{wanted}</object>"
    (found,) = CODEC.parse(text, (1, 1))
    assert found.boxes.tolist() == [list(reference.patch_index_to_coordinate(a, b, 32)) for a, b in pairs]
    assert np.abs(found.boxes - boxes).max() <= 1 / 32


@pytest.mark.parametrize("text", [
    SNOWMAN,
    "  <grounding><phrase>  two dogs </phrase><object><patch_index_0000><patch_index_0033></delimiter_of_multi_objects/>"
    "<patch_index_0034><patch_index_1023></object> and <phrase>a cat</phrase> sleep ",
    "<phrase>one bin</phrase><object><patch_index_0700><patch_index_0700></object>,<phrase>a row</phrase><object><patch_index_0064>"
    "<patch_index_0070></object>,<phrase>a column</phrase><object><patch_index_0001><patch_index_0097></object>",
    "<object><patch_index_0001> nothing <phrase></phrase>",
])  # fmt: skip
def test_captions_are_read_as_the_reference_reads_them(text: str) -> None:
    caption, entities = CODEC.entities(text)
    wanted, found = reference.clean_text_and_extract_entities_with_bboxes(text)
    assert caption == wanted
    ours = [(e.phrase, (e.start, e.end), [tuple(box) for box in e.boxes.tolist()]) for e in entities]
    assert ours == found


def test_boxes_without_a_phrase_and_what_is_no_box() -> None:
    (found,) = CODEC.parse("it <object><patch_index_0000><patch_index_1023></object>", (64, 32))
    assert found.phrase == "" and found.boxes.tolist() == [[1, 0.5, 63, 31.5]]
    assert (
        CODEC.parse("<object><patch_index_0005><patch_index_1024></object><object><patch_index_0040><patch_index_0005></object>", (1, 1))
        == []
    )
    assert CODEC.text(np.array([[-5, 3, 99, 3]]), (10, 10)) == "<object><patch_index_0288><patch_index_0319></object>"  # at the edges
    for bad in ([[0, 0, 1]], [[2, 0, 1, 1]], [[0, 0, float("nan"), 1]]):
        with pytest.raises(DiagnosticError, match="VG0714"):
            CODEC.text(np.array(bad), (1, 1))
    with pytest.raises(DiagnosticError, match="the text has 1 phrases, but there are boxes for 0"):
        CODEC.marked("<phrase>a</phrase>", [], (1, 1))
    with pytest.raises(ValueError, match="box must hold"):
        GridBoxes(box="{first}")


def test_published_configuration(tmp_path: Path) -> None:
    """The file says a shortest edge and then that pictures are squares."""
    tables = {"pixel_values": {"type": "processor.image", "fit": "crop", "stats": "clip"}}
    config = {"do_center_crop": True, "size": {"shortest_edge": 224}, "crop_size": {"height": 224, "width": 224}, "use_square_size": True}
    path = tmp_path / "preprocessor_config.json"
    path.write_text(json.dumps({"image_processor_type": "CLIPImageProcessor", "do_resize": True, **config}))
    assert overlaid(tables, tmp_path)["pixel_values"] | {"fit": "squash", "size": 224} == overlaid(tables, tmp_path)["pixel_values"]
    image = PIL.Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 300, 3), np.uint8))
    made = CLIPImageProcessorPil(**config)(image, return_tensors="np")["pixel_values"]
    ours = build_processor(overlaid(tables, tmp_path), {}, {})(images=image)["pixel_values"]
    assert ours.shape == made.shape and np.abs(ours - made).max() < 1 / 255 / 0.26


def library(tokens: dict[str, int]) -> Tokenizer:
    """Bytes, and the tokens of the spec, which take the blank in front of them along."""
    free = (i for i in range(1000) if i not in tokens.values())
    vocab = tokens | dict(zip(sorted(pre_tokenizers.ByteLevel.alphabet()), free))
    made = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=True), decoders.ByteLevel()
    ends = ("<s>", "<pad>", "</s>", "<unk>")
    made.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in ends])
    made.add_tokens([AddedToken(t, lstrip=True, normalized=False) for t in tokens if t not in ends])
    return made


def test_whole_calls(tmp_path: Path, photos: dict[str, PIL.Image.Image]) -> None:
    """Ids, fillers in the places of the image, marks and pixels; boxes given as numbers; padding on both sides."""
    spec = read_spec("kosmos-2", size="tiny", overrides={"components.llm.vocab": 345})
    graph = api.elaborate(spec)
    tokens = {**graph.tokens, "<unk>": 3, **{f"<patch_index_{k:04}>": 321 + k for k in range(16)}}
    made = library(tokens)
    made.save(str(tmp_path / "tokenizer.json"))
    ours = model_processor(spec, graph, tmp_path)
    assert not ours.notes
    names: dict[str, Any] = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    tokenizer = tf.PreTrainedTokenizerFast(tokenizer_object=made, clean_up_tokenization_spaces=False, padding_side="left", **names)
    image = CLIPImageProcessorPil(size={"height": 42, "width": 42}, crop_size=42)
    theirs = tf.Kosmos2Processor(image, tokenizer, num_patch_index_tokens=16)
    pictures = [photos["china"], photos["flower"].crop((0, 0, 90, 300))]
    texts = ["<grounding> the<phrase> old house</phrase>, and<phrase> a tree</phrase>", "<grounding> An image of"]
    boxes = [[(0.1, 0.0, 0.6, 1.0), [(0.0, 0.5, 0.25, 0.75), (0.5, 0.5, 1.0, 1.0)]], None]
    wanted = theirs(text=texts, images=pictures, bboxes=boxes, num_image_tokens=6, padding=True, return_tensors="np")
    codec = ours.codecs["boxes"]
    assert isinstance(codec, GridBoxCodec)
    given_boxes = [np.array([boxes[0][0]]), np.array(boxes[0][1])]
    got = ours([codec.marked(texts[0], given_boxes, (1, 1)), texts[1]], pictures)
    for name in ("input_ids", "attention_mask", "image_embeds_position_mask"):
        assert np.array_equal(got[name].astype(int), wanted[name].astype(int)), name
    assert np.abs(got["pixel_values"] - wanted["pixel_values"]).max() < 1 / 255 / 0.26
    alone = theirs(text="the photo", return_tensors="np")
    assert np.array_equal(ours("the photo")["input_ids"], alone["input_ids"])
    said = ours.decode(got["input_ids"][0], skip_special=False)
    assert codec.parse(said, (1, 1))[0].phrase == "old house"
