"""Placeholders, conversations, labels, truncation, the published templates."""

from __future__ import annotations

from typing import Any

import numpy as np
import PIL.Image
import pytest

from vlmgraph.diagnostics.core import DiagnosticError
from vlmgraph.processor import Processor, build_processor
from vlmgraph.processor.template import fill

RED = PIL.Image.new("RGB", (40, 30), (255, 0, 0))


def code_of(call: Any, **arguments: Any) -> tuple[str, str]:
    with pytest.raises(DiagnosticError) as caught:
        call(**arguments)
    assert all(d.fix for d in caught.value.diagnostics)
    return caught.value.diagnostics[0].code, str(caught.value)


def runs(ids: np.ndarray) -> list[tuple[int, int]]:
    """(id, how often in a row)."""
    ends = np.flatnonzero(np.diff(ids, append=-1))
    return [(int(ids[e]), int(n)) for e, n in zip(ends, np.diff(ends, prepend=-1))]


def test_llava(build: Any) -> None:
    processor = build("llava-1.5")
    out = processor.ask("What is this?", images=RED)
    assert out["pixel_values"].shape == (1, 3, 336, 336)
    ids = out["input_ids"][0]
    assert ids[0] == 1
    assert (ids == 32000).sum() == 576
    assert (32000, 576) in runs(ids)  # in one stretch
    assert out["attention_mask"].all()
    assert "labels" not in out
    said = processor.decode(ids)
    assert said.startswith("A chat between a curious user")
    assert said.endswith("the user's questions. USER: \nWhat is this? ASSISTANT:")


def test_multi_turn_and_labels(build: Any) -> None:
    """Labels are the answers with their end tokens, one a round, and nothing else."""
    processor = build("llava-1.5")
    talk = [
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What?"}]},
        {"role": "assistant", "content": "A {red} box."},
        {"role": "user", "content": "Sure?"},
        {"role": "assistant", "content": "Yes."},
    ]
    text = processor.apply_chat(talk, generate=False)
    assert text.endswith("USER: <image>\nWhat? ASSISTANT: A {red} box.</s>USER: Sure? ASSISTANT: Yes.</s>")
    out = processor(messages=talk, images=[RED], train=True)
    labels, ids = out["labels"][0], out["input_ids"][0]
    kept = labels != -100
    assert np.array_equal(labels[kept], ids[kept])
    assert processor.decode(ids[kept], skip_special=False) == "A {red} box.</s>Yes.</s>"
    assert (labels == 2).sum() == 2


def test_labels_of_plain_text_leave_out_pictures_and_padding(build: Any) -> None:
    processor = build("blip-2")
    out = processor(text=["two cats", "a"], images=[RED, RED], train=True)
    assert out["input_ids"].shape == (2, 32 + 1 + 8)
    assert runs(out["input_ids"][0])[:2] == [(50265, 32), (2, 1)]  # pictures stand before the start token
    assert out["attention_mask"].sum(axis=1).tolist() == [41, 34]
    assert (out["labels"] != -100).sum(axis=1).tolist() == [8, 1]
    assert runs(out["input_ids"][1])[-1] == (1, 7)


def test_blip_2_two_text_inputs(build: Any) -> None:
    processor = build("blip-2")
    out = processor(qformer_ids=["A Cat", "dog"])
    assert out["qformer_ids"][:, 0].tolist() == [101, 101]
    assert processor.decode(out["qformer_ids"][0], entry="qformer_ids") == "a cat"
    assert out["qformer_mask"].tolist() == [[True] * 7, [True] * 5 + [False] * 2]
    assert processor.prompt("vqa", question="Why?") == "Question: Why? Answer:"
    long = processor(qformer_ids="x" * 100)["qformer_ids"][0]
    assert len(long) == 32 and long[0] == 101 and long[-1] == 102


def test_cogvlm_pictures_follow_the_start_token(build: Any) -> None:
    processor = build("cogvlm")
    out = processor.ask("What is it?", images=RED)
    assert runs(out["input_ids"][0])[:2] == [(1, 1), (0, 1227)]
    assert processor.decode(out["input_ids"][0]) == "Question: What is it? Answer:"
    alone = processor.ask("Hello")
    assert set(alone) == {"input_ids", "attention_mask"}
    assert 0 not in alone["input_ids"]
    talk = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes"}]
    trained = processor(messages=talk, train=True)
    kept = trained["labels"][0] != -100
    assert processor.decode(trained["input_ids"][0][kept], skip_special=False) == "Yes</s>"


def test_qwen2_vl_expands_by_the_grid(build: Any, photos: dict[str, Any]) -> None:
    processor = build("qwen2-vl")
    frames = [RED.resize((364, 364))] * 4
    talk = [
        {
            "role": "user",
            "content": [{"type": "image"}, {"type": "video"}, {"type": "image"}, {"type": "text", "text": "Compare."}],
        }
    ]
    images = [RED.resize((224, 224)), RED.resize((800, 600))]
    out = processor(messages=talk, images=images, videos=[frames])
    counted = [r for r in runs(out["input_ids"][0]) if r[0] in (151655, 151656)]
    assert counted == [(151655, 64), (151656, 2 * 13 * 13), (151655, 609)]
    starts = np.flatnonzero(out["input_ids"][0] == 151652)
    assert len(starts) == 3
    assert out["input_ids"][0][starts[0] + 65] == 151653
    text = processor.decode(out["input_ids"][0])
    assert text == "system\nYou are a helpful assistant.\nuser\nCompare.\nassistant\n"
    # written out in full, as the published template does, the markers are not doubled
    wrapped = "<|vision_start|><|image_pad|><|vision_end|>x"
    assert np.array_equal(processor(wrapped, images[0])["input_ids"], processor("<|image_pad|>x", images[0])["input_ids"])
    assert processor(wrapped, images[0])["input_ids"].shape == (1, 64 + 2 + 1)


def test_qwen2_vl_template_is_the_published_one(build: Any) -> None:
    talk = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Q"}]}]
    assert build("qwen2-vl").apply_chat(talk) == (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n<|image_pad|>Q<|im_end|>\n<|im_start|>assistant\n"
    )
    own = [{"role": "system", "content": "S"}, *talk]
    assert build("qwen2-vl").apply_chat(own).startswith("<|im_start|>system\nS<|im_end|>\n<|im_start|>user")


def test_janus_has_two_kinds_of_pictures(build: Any) -> None:
    processor = build("janus")
    ids = processor.ask("What?", images=[RED])["input_ids"][0]
    assert ids[0] == 100000
    assert runs(ids[(ids == 100016) | (ids == 100581) | (ids == 100593)]) == [(100016, 1), (100581, 576), (100593, 1)]
    assert processor.decode(ids).endswith("natural language.\n\n<|User|>: \nWhat?\n\n<|Assistant|>:")
    prompt = processor.prompt("generate_image", prompt="a red box")
    assert prompt == "<|User|>: a red box\n\n<|Assistant|>:<begin_of_image>"
    out = processor(prompt + "<gen_placeholder><end_of_image>", gen_values=[RED])
    ids = out["input_ids"][0]
    assert "pixel_values" not in out
    assert out["gen_values"].shape == (1, 3, 384, 384)
    assert runs(ids)[-3:] == [(100016, 1), (100582, 576), (100593, 1)]
    assert (ids == 100016).sum() == 1
    both = processor("<image_placeholder> to <gen_placeholder>", images=[RED], gen_values=[RED])
    assert (both["input_ids"] == 100581).sum() == (both["input_ids"] == 100582).sum() == 576


def test_flamingo_has_one_marker_a_picture(build: Any) -> None:
    processor = build("flamingo")
    shot = processor.prompt("vqa_shot", question="A?", answer="b")
    out = processor(shot + processor.prompt("vqa", question="C?"), images=[RED, RED])
    assert (out["input_ids"] == 50278).sum() == 2
    assert out["pixel_values"].shape == (1, 2, 1, 3, 224, 224)
    assert "<image>Question: A? Answer: b<|endofchunk|><image>" in processor.decode(out["input_ids"][0], skip_special=False)


def test_clip_texts_have_77_tokens(build: Any) -> None:
    processor = build("clip")
    out = processor(text=["a", "A" * 200], images=[RED])
    assert out["input_ids"].shape == (2, 77)
    assert runs(out["input_ids"][0])[0] == (49406, 1)
    assert runs(out["input_ids"][0])[-2:] == [(49407, 1), (0, 74)]
    assert out["input_ids"][1][-1] == 49407
    assert len(set(out["input_ids"][1][1:-1])) == 1  # lower-cased
    assert out["input_ids"][1][1] == out["input_ids"][0][1]
    assert out["attention_mask"][0].sum() == 3
    assert processor.decode(processor.ask("cat")["input_ids"][0]).startswith("a photo of a cat.")


def test_left_padding_aligns_the_ends(build: Any) -> None:
    out = build("llava-1.5")(text=["a", "abc"])
    assert out["input_ids"][0, :2].tolist() == [32001, 32001]
    assert out["attention_mask"].tolist() == [[False, False, True, True], [True] * 4]


def test_numbers_of_pictures_must_fit(build: Any) -> None:
    llava, qwen, cog = build("llava-1.5"), build("qwen2-vl"), build("cogvlm")
    code, message = code_of(llava, text="no placeholder", images=[RED])
    assert code == "VG0708" and "0 <image> for 1 pictures in `pixel_values`" in message
    assert code_of(llava, text="<image>")[0] == "VG0708"
    assert code_of(llava, text=["<image>", "<image>"], images=[RED])[0] == "VG0708"
    assert code_of(llava, text=["<image>", "<image>"], images=[[RED, RED], []])[0] == "VG0708"
    assert code_of(llava.ask, prompt="<image> and <image>", images=[RED])[0] == "VG0708"
    assert code_of(qwen.ask, prompt="<image> and <video>", images=[RED])[0] == "VG0708"
    assert code_of(qwen, text="<|image_pad|>", videos=[[RED, RED]])[0] == "VG0708"
    assert code_of(cog, text=["a", "b"], images=[RED] * 3)[0] == "VG0708"
    nested = cog(text=["a", "b"], images=[[RED, RED], [RED]])
    assert (nested["input_ids"] == 0).sum(axis=1).tolist() == [2454, 1227]


def test_a_question_may_say_where_its_pictures_stand(build: Any) -> None:
    llava, qwen, janus = build("llava-1.5"), build("qwen2-vl"), build("janus")
    text = llava.decode(llava.ask("Is <image> like <image>?", images=[RED, RED])["input_ids"][0], skip_special=False)
    assert text.replace("<image>" * 576, "<image>").endswith("USER: Is <image> like <image>? ASSISTANT:")
    # a model's own name for it, or the common one
    ours, common = (qwen.ask(f"Is {mark} red?", images=[RED])["input_ids"] for mark in ("<|image_pad|>", "<image>"))
    assert np.array_equal(ours, common) and (ours == 151655).sum() > 0
    ids = janus.ask("Is <image>red?", images=[RED])["input_ids"][0]
    assert janus.decode(ids).endswith("<|User|>: Is \nred?\n\n<|Assistant|>:")
    mixed = qwen.ask("<video>then <image>", images=[RED], videos=[[RED] * 2])["input_ids"][0]
    kinds = [r[0] for r in runs(mixed[(mixed == 151655) | (mixed == 151656)])]
    assert kinds == [151656, 151655]
    assert build("clip").ask("an <image>")["input_ids"].shape == (1, 77)  # no placeholder of this model: words


def test_too_long(build: Any) -> None:
    tight = build("llava-1.5", {"input_ids": {"max_length": 500}})
    code, message = code_of(tight, text="<image>", images=RED)
    assert code == "VG0709" and "577 tokens, 576 of them for pictures" in message
    assert tight(text="short")["input_ids"].shape == (1, 6)
    cut = build("llava-1.5", {"input_ids": {"max_length": 580, "truncate": "left"}})
    assert code_of(cut, text="<image>abcd", images=RED)[0] == "VG0709"  # a picture is never cut
    assert cut.decode(cut(text="abcd<image>", images=RED)["input_ids"][0]) == "bcd"


def test_calls_that_make_no_sense(build: Any) -> None:
    llava: Processor = build("llava-1.5")
    assert code_of(llava, text="a", pixels=RED)[0] == "VG0713"
    assert code_of(llava, text="a", videos=[[RED]])[0] == "VG0713"
    assert code_of(llava, text="a", messages=[{"role": "user", "content": "a"}])[0] == "VG0713"
    assert code_of(llava, text=[3])[0] == "VG0713"
    assert code_of(llava, messages=[{"role": "robot", "content": "a"}])[0] == "VG0712"
    assert code_of(llava, messages=[{"role": "user", "content": [{"type": "audio"}]}])[0] == "VG0712"
    assert code_of(llava.prompt, name="long")[0] == "VG0712"
    assert code_of(llava.prompt, name="short")[0] == "VG0712"
    assert code_of(build("clip"), messages=[{"role": "user", "content": "a"}])[0] == "VG0713"
    spec = {"pixel_values": {"type": "processor.image", "size": 8}, "input_ids": {"type": "processor.text", "place": {"<i>": "gone"}}}
    assert code_of(build_processor(spec, {"<i>": 3}, {}), text="<i>", images=RED)[0] == "VG0713"


@pytest.mark.parametrize("entry", [{"bos": 9}, {"eos": "<e>"}, {"pad": -1}, {"wrap": ["<e>", 1]}, {"place": {"<e>": 2}}])
def test_ids_that_the_model_does_not_have(entry: dict[str, Any]) -> None:
    table = {"x": {"type": "processor.image", "size": 8}, "t": {"type": "processor.text", **entry}}
    assert code_of(build_processor, tables=table, tokens={"<e>": 9}, counts={}, vocab=9)[0] == "VG0715"
    build_processor(table | {"t": {"type": "processor.text", **entry, "pad": 0}}, {"<e>": 9}, {}, vocab=10)


def test_a_template_evaluates_nothing() -> None:
    assert fill("{a} {{a}} {b:03}", {"a": "{b}", "b": 7}) == "{b} {a} 007"
    assert fill("{a.__class__} {0} {a!r}", {"a": 1}) == "{a.__class__} {0} {a!r}"
    with pytest.raises(DiagnosticError, match=r"VG0712.*`c`"):
        fill("{c}", {"a": 1})


def test_every_call_gives_the_same(build: Any, photos: dict[str, Any]) -> None:
    one, two = (build("qwen2-vl").ask("Why?", images=[photos["small"]]) for _ in range(2))
    assert all(np.array_equal(one[k], two[k]) for k in one) and set(one) == set(two)
