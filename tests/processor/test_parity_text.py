"""Ids, masks and pixels of whole calls against transformers' processors, both with one tokenizer file and the tiny size of a spec."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

pytest.importorskip("transformers", minversion="5.0")

import transformers as tf
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.idefics.image_processing_pil_idefics import IdeficsImageProcessorPil
from transformers.models.janus.image_processing_pil_janus import JanusImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from vlmgraph import api, read_spec
from vlmgraph.diagnostics import DiagnosticError
from vlmgraph.processor import Processor
from vlmgraph.processor.model import model_processor

MERGES = [("t", "h"), ("th", "e"), ("Ġ", "the"), ("i", "n"), ("a", "t")]


def library(tokens: dict[str, int], start: str | None = None, end: str | None = None) -> Tokenizer:
    """A byte-level BPE with a few merges, its special tokens at the ids of the spec."""
    taken = set(tokens.values())
    words = [*sorted(pre_tokenizers.ByteLevel.alphabet()), *("".join(pair) for pair in MERGES)]
    free = (i for i in range(10_000) if i not in taken)
    vocab = tokens | dict(zip(words, free))
    made = Tokenizer(models.BPE(vocab=vocab, merges=MERGES))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in tokens])
    if start is not None:
        around = f"{start} $A" + (f" {end}" if end else "")
        pairs = [(t, tokens[t]) for t in (start, end) if t is not None]
        made.post_processor = processors.TemplateProcessing(single=around, special_tokens=pairs)
    return made


def pair(tmp_path: Path, name: str, names: dict[str, str], **ends: str) -> tuple[Processor, Any]:
    """Our processor of a spec's tiny size beside transformers' tokenizer, of one file."""
    spec = read_spec(name, size="tiny")
    graph = api.elaborate(spec)
    made = library(dict(graph.tokens), **ends)
    made.save(str(tmp_path / "tokenizer.json"))
    extra = {k: v for k, v in names.items() if k.startswith(("image", "boi", "eoi", "video"))}
    usual = {k: v for k, v in names.items() if k not in extra}
    theirs = tf.PreTrainedTokenizerFast(tokenizer_object=made, extra_special_tokens=extra, clean_up_tokenization_spaces=False, **usual)
    ours = model_processor(spec, graph, tmp_path)
    assert not ours.notes  # the file was found
    return ours, theirs


def same(ours: dict[str, np.ndarray], theirs: Any, *names: str) -> None:
    for name in names:
        expected = np.asarray(theirs[name])
        if name.startswith("pixel_values"):
            assert ours[name].shape == expected.shape
            assert np.abs(ours[name] - expected).max() < 1e-5, name
        else:
            assert np.array_equal(ours[name].astype(np.int64), expected.astype(np.int64)), (name, ours[name], expected)


@pytest.fixture
def pictures(photos: dict[str, PIL.Image.Image]) -> list[PIL.Image.Image]:
    return [photos["china"].resize((200, 134)), photos["flower"].crop((0, 0, 180, 130))]


def test_llava(tmp_path: Path, pictures: list[PIL.Image.Image]) -> None:
    (tmp_path / "preprocessor_config.json").write_text(
        '{"image_processor_type": "CLIPImageProcessor", "do_center_crop": true, "size": {"shortest_edge": 42}, "resample": 3,'
        ' "crop_size": {"height": 42, "width": 42}, "do_resize": true, "do_rescale": true, "rescale_factor": 0.00392156862745098}'
    )
    names = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "image_token": "<image>"}
    ours, tokenizer = pair(tmp_path, "llava-1.5", names, start="<s>")
    tokenizer.padding_side = "left"
    image = CLIPImageProcessorPil(size={"shortest_edge": 42}, crop_size=42)
    reference = tf.LlavaProcessor(image, tokenizer, 14, "default", num_additional_image_tokens=1)
    texts = ["USER: <image>\nWhat is in the photo? ASSISTANT:", "USER: the <image> ASSISTANT: in</s>"]
    got, wanted = ours(texts, pictures), reference(text=texts, images=pictures, padding=True, return_tensors="np")
    same(got, wanted, "input_ids", "attention_mask", "pixel_values")
    assert ours.decode(got["input_ids"][0]) == tokenizer.decode(wanted["input_ids"][0], skip_special_tokens=True)


def test_blip_2(tmp_path: Path, pictures: list[PIL.Image.Image]) -> None:
    ours, tokenizer = pair(tmp_path, "blip-2:opt", {"bos_token": "</s>", "eos_token": "</s>", "pad_token": "<pad>"}, start="</s>")
    reference = tf.Blip2Processor(BlipImageProcessorPil(size={"height": 42, "width": 42}), tokenizer, num_query_tokens=7)
    text = "Question: what is in the photo? Answer:"
    wanted = reference(text=text, images=pictures[0])
    same(ours.ask("what is in the photo?", images=pictures[0]), wanted, "input_ids", "attention_mask", "pixel_values")


def test_idefics(tmp_path: Path, pictures: list[PIL.Image.Image]) -> None:
    names = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<s>", "image_token": "<image>"}
    ours, tokenizer = pair(tmp_path, "idefics", names)
    reference = tf.IdeficsProcessor(IdeficsImageProcessorPil(image_size=42), tokenizer)
    prompt = ["User:", pictures[0], "What is in it?\nAssistant: the cat.</s>", "User: and", pictures[1], "?\nAssistant:"]
    text = "User:<image>What is in it?\nAssistant: the cat.</s>User: and<image>?\nAssistant:"
    got, wanted = ours(text, pictures), reference(text=[prompt])
    same(got, wanted, "input_ids", "attention_mask", "pixel_values", "image_attention_mask")
    seen = got["image_attention_mask"][0]
    assert not seen[0].any() and seen[:, 0].any() and seen[:, 1].any() and not seen.all(axis=1).any()


def test_janus(tmp_path: Path, pictures: list[PIL.Image.Image]) -> None:
    names = {
        "bos_token": "<begin_of_sentence>", "eos_token": "<end_of_sentence>", "pad_token": "<pad>", "image_token": "<image_placeholder>",
        "boi_token": "<begin_of_image>", "eoi_token": "<end_of_image>",
    }  # fmt: skip
    ours, tokenizer = pair(tmp_path, "janus", names, start="<begin_of_sentence>")
    half = [0.5, 0.5, 0.5]
    image = JanusImageProcessorPil(image_mean=half, image_std=half, size={"height": 56, "width": 56})
    reference = tf.JanusProcessor(image, tokenizer, num_image_tokens=16, use_default_system_prompt=True)
    text = "<|User|>: <image_placeholder>\nWhat is in the photo?\n\n<|Assistant|>:"
    wanted = reference(text=text, images=pictures[:1])
    got = ours.ask("What is in the photo?", images=pictures[:1])
    same(got, wanted, "input_ids", "attention_mask")
    drawn = reference(text="<|User|>: the cat\n\n<|Assistant|>:", generation_mode="image")
    same(ours(ours.prompt("generate_image", prompt="the cat")), drawn, "input_ids", "attention_mask")


def test_qwen2_vl(tmp_path: Path, pictures: list[PIL.Image.Image], monkeypatch: pytest.MonkeyPatch) -> None:
    """Two pictures of different sizes. The video processor of transformers needs torchvision, so it stays out."""
    names = {
        "pad_token": "<|endoftext|>", "eos_token": "<|im_end|>", "image_token": "<|image_pad|>", "video_token": "<|video_pad|>"
    }  # fmt: skip
    ours, tokenizer = pair(tmp_path, "qwen2-vl", names)
    monkeypatch.setattr(tf.Qwen2VLProcessor, "check_argument_for_proper_class", lambda *a, **k: None)
    reference = tf.Qwen2VLProcessor(Qwen2VLImageProcessorPil(min_pixels=3136, max_pixels=50176), tokenizer, None)
    text = ours.apply_chat(
        [{"role": "user", "content": [{"type": "image"}, {"type": "image"}, {"type": "text", "text": "What changed in the photo?"}]}]
    )
    published = text.replace("<|image_pad|>", "<|vision_start|><|image_pad|><|vision_end|>")
    wanted = reference(text=[published], images=pictures)
    got = ours.ask("What changed in the photo?", images=pictures)
    same(got, wanted, "input_ids", "attention_mask", "pixel_values", "image_grid_thw")


LLAVA = (
    "{% for message in messages %}{% if message['role'] != 'system' %}{{ message['role'].upper() + ': '}}{% endif %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>\n' }}{% endfor %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}{{ content['text'] + ' '}}{% endfor %}"
    "{{ eos_token if message['role'] == 'assistant' }}{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)


@pytest.mark.parametrize("place", ["chat_template.jinja", "chat_template.json", "tokenizer_config.json"])
def test_a_folders_own_chat_template(place: str, tmp_path: Path, pictures: list[PIL.Image.Image]) -> None:
    """The text is what transformers' `apply_chat_template` writes, and the ids are those of its processor."""
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": {"content": "</s>"}, "bos_token": "<s>"}))
    (tmp_path / place).write_text(LLAVA if place.endswith("jinja") else json.dumps({"chat_template": LLAVA, "eos_token": "</s>"}))
    names = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "image_token": "<image>"}
    ours, tokenizer = pair(tmp_path, "llava-1.5", names, start="<s>")
    image = CLIPImageProcessorPil(size={"shortest_edge": 42}, crop_size=42)
    reference = tf.LlavaProcessor(image, tokenizer, 14, "default", chat_template=LLAVA, num_additional_image_tokens=1)
    talk = [
        {"role": "user", "content": [{"type": "text", "text": "What is the <b>?"}, {"type": "image"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "A {cat}."}]},
        {"role": "user", "content": [{"type": "text", "text": "Sure?"}]},
    ]
    text = reference.apply_chat_template(talk, add_generation_prompt=True)
    assert ours.apply_chat(talk) == text and "A {cat}. </s>" in text and text.endswith("ASSISTANT:")
    same(ours(messages=talk, images=pictures[:1]), reference(text=[text], images=pictures[:1]), "input_ids", "attention_mask")
    asked = reference.apply_chat_template(
        [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Why?"}]}], add_generation_prompt=True
    )
    same(ours.ask("Why?", images=pictures[0]), reference(text=[asked], images=pictures[:1]), "input_ids")
    labels = ours(messages=talk[:2], images=pictures[:1], train=True)["labels"]  # training keeps the spec's roles
    assert ours.decode(labels[labels != -100]) == "A {cat}."


@pytest.mark.parametrize(
    "text",
    [
        "{% for", "{{ raise_exception('no system message') }}", "{{ messages.__class__.__mro__[1].__subclasses__() }}", "{{ 1 / 0 }}",
        "{{ messages.append(1) }}", "{% for i in range(10 ** 9) %}x{% endfor %}", "{{ ''.join.__globals__['x'] }}",
        "{% include '/etc/passwd' %}",
    ],
)  # fmt: skip
def test_templates_that_fail_or_reach_out(text: str, tmp_path: Path) -> None:
    """A checkpoint's template is not trusted: what it may not do is a finding, and nothing comes of it."""
    (tmp_path / "chat_template.jinja").write_text(text)
    spec = read_spec("llava-1.5", size="tiny")
    with pytest.raises(DiagnosticError, match="VG0712") as caught:
        model_processor(spec, api.elaborate(spec), tmp_path).apply_chat([{"role": "user", "content": "x"}])
    assert "chat_template.jinja" in str(caught.value) and caught.value.diagnostics[0].fix


def test_clip(tmp_path: Path, pictures: list[PIL.Image.Image]) -> None:
    names = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"}
    ours, tokenizer = pair(tmp_path, "clip", names, start="<|startoftext|>", end="<|endoftext|>")
    reference = tf.CLIPProcessor(CLIPImageProcessorPil(size={"shortest_edge": 42}, crop_size=42), tokenizer)
    texts = ["a photo of the cat", "in the hat " * 30]
    wanted = reference(text=texts, images=pictures, padding="max_length", max_length=77, truncation=True)
    got = ours(text=texts, images=pictures)
    same(got, wanted, "attention_mask", "pixel_values")
    real = got["attention_mask"]
    assert np.array_equal(got["input_ids"][real], np.asarray(wanted["input_ids"])[real])  # transformers pads with the end token
