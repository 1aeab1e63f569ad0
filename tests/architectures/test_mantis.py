"""MANTIS (Jiang et al. 2024, arXiv 2405.01483): interleaved images, each numbered in its prompt, over LLaVA's graph or Idefics2."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from torch import Tensor

import vlmgraph
from tests.architectures.common import (
    close,
    fresh,
    graph,
    lively,
    measured,
    noise,
    padded,
    placed,
    processor,
    published,
    random_ids,
    trains,
)  # fmt: skip
from tests.processor import test_parity_text
from vlmgraph import api, codegen
from vlmgraph.diagnostics import DiagnosticError
from vlmgraph.processor.chat import Written
from vlmgraph.processor.model import model_processor
from vlmgraph.processor.tags import Edit, edited
from vlmgraph.weights.import_config import import_config

IMAGE, EOT, N = 305, 304, 9  # of the tiny size: tokens, and tokens of an image


@pytest.fixture(scope="module")
def model():
    return lively("mantis")


def logits(model, ids: Tensor, images: Tensor | None = None, **given: Tensor) -> Tensor:
    with torch.no_grad():
        return model(input_ids=ids, **given, **({} if images is None else {"pixel_values": images}))["logits"]


def pictures(count: int) -> list[PIL.Image.Image]:
    return [PIL.Image.new("RGB", (42, 42), (40 * i, 9, 200 - 40 * i)) for i in range(count)]


# ---- numbers


def test_published_parameters() -> None:
    siglip, clip = published("mantis"), published("mantis", variant="clip")
    assert siglip["total"] == 8_480_007_232 and clip["total"] == 8_354_764_800
    assert (siglip["vision"], siglip["pool"], siglip["projector"]) == (412_987_248, 15_238_352, 21_504_000)
    assert (clip["vision"], clip["projector"]) == (303_507_456, 20_979_712)
    assert sum(siglip[name] for name in ("embed", "llm", "head")) == 8_030_277_632
    assert measured("mantis-idefics2").total == 8_402_768_112


@pytest.mark.parametrize("variant", [None, "clip"])
def test_as_many_parameters_as_in_transformers(variant: str | None) -> None:
    """At the published widths, of two layers."""
    tf = pytest.importorskip("transformers", minversion="5.0")
    tower: dict[str, Any] = {"model_type": "siglip_vision_model", "hidden_size": 1152, "intermediate_size": 4304, "image_size": 384}
    if variant:
        tower = {"model_type": "clip_vision_model", "hidden_size": 1024, "intermediate_size": 4096, "image_size": 336}
    tower |= {"num_hidden_layers": 2, "num_attention_heads": 16, "patch_size": 14}
    words = {"model_type": "llama", "vocab_size": 128_258, "hidden_size": 4096, "intermediate_size": 14336, "num_key_value_heads": 8}
    with torch.device("meta"):
        theirs = tf.LlavaForConditionalGeneration(tf.LlavaConfig(vision_config=tower, text_config={**words, "num_hidden_layers": 2}))
    small = {"vision.layers": 2, "llm.layers": 2, "expect.params": {"remove": True}}
    ours = vlmgraph.compile(vlmgraph.read_spec("mantis", variant=variant, overrides=small), device="meta")
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters())


def test_positions_of_many_images() -> None:
    """T ids with n placeholders are T + n (P - 1) positions: ten images with CLIP, eleven with SigLIP, stay below 8192."""
    for variant, each, count in ((None, 729, 11), ("clip", 576, 10)):
        made = processor("mantis", None, variant)
        words = len(made("hi")["input_ids"][0])
        row = made("hi " + "<image>" * count, pictures(count))["input_ids"][0]
        tags = sum(len(f"(image {j}: <Image></Image>)") for j in range(1, count + 1))  # bytes stand in for words
        assert (row == 128_256).sum() == count * each and len(row) == words + 1 + tags + count * each
        assert count * each <= 8192 < (count + 5) * each
        assert graph("mantis", None, variant).components["llm"].max_positions == 8192


# ---- prompts


def by_hand(text: str, count: int) -> str:
    """The published rule, said once more: fill up behind the first user tag, leave out what is too many, number from 1."""
    missing = count - text.count("<image>")
    if missing > 0:
        tag = next((tag for tag in ("USER:", "Human:", "HUMAN:") if tag in text), "")
        text = text.replace(tag, tag + "<image>" * missing, 1) if tag else "<image>" * missing + text
    parts = text.split("<image>")
    return parts[0] + "".join((f"(image {j}: <Image><image></Image>)" if j <= count else "") + part for j, part in enumerate(parts[1:], 1))


TEXTS = [
    ("Compare <image> and <image>", 2),
    ("<image>", 3),
    ("A USER: what? USER: <image> and that?", 3),
    ("Human: hello HUMAN: <image>", 2),
    ("<image> <image> <image>end", 1),
    ("USER:<image>x", 1),
    ("no tag, no placeholder", 2),
    ("<image>\n" * 12, 12),
]


@pytest.mark.parametrize(("text", "count"), TEXTS)
def test_prompts_as_published(text: str, count: int) -> None:
    made = processor("mantis")
    ids = made(text, pictures(count))["input_ids"][0]
    written = re.sub(f"(?:<image>){{{N}}}", "<image>", made.decode(ids, skip_special=False).removeprefix("<|begin_of_text|>"))
    assert written == by_hand(text, count) and (ids == IMAGE).sum() == N * count


def test_ids_are_those_of_the_whole_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tag is text like any other: its first characters make one token with the blank in front of it."""
    merges = [*test_parity_text.MERGES, ("Ġ", "("), ("a", "g"), (")", "Ġ")]
    monkeypatch.setattr(test_parity_text, "MERGES", merges)
    own = vlmgraph.read_spec("mantis", size="tiny")
    built = api.elaborate(own)
    made = test_parity_text.library(dict(built.tokens))
    made.save(str(tmp_path / "tokenizer.json"))
    ours = model_processor(own, built, tmp_path)
    for text, count in TEXTS:
        expected = made.encode(by_hand(text, count).replace("<image>", "<image>" * N), add_special_tokens=False).ids
        assert ours(text, pictures(count))["input_ids"][0].tolist() == [300, *expected]
    assert "Ġ(" in made.encode("Compare (image").tokens


def test_numbers_start_anew_with_every_sample() -> None:
    made = processor("mantis")
    batch = made(["<image> a <image>", "b <image>", "c"], [pictures(2), pictures(1), []])
    shown = [made.decode(row, skip_special=False) for row in batch["input_ids"]]
    assert [re.findall(r"image (\d+):", text) for text in shown] == [["1", "2"], ["1"], []] and batch["pixel_values"].shape[0] == 3
    flat = made(["a", "b"], pictures(2))["input_ids"]
    assert all((row == IMAGE).sum() == N for row in flat), "one each, where no placeholder says otherwise"
    with pytest.raises(DiagnosticError, match="which belongs to which"):
        made(["a", "b"], pictures(3))
    with pytest.raises(DiagnosticError, match="1 <image> for 0 pictures"):
        made("a <image>")


def conversation() -> list[dict[str, Any]]:
    picture, text = {"type": "image"}, lambda said: {"type": "text", "text": said}
    return [
        {"role": "user", "content": [picture, picture, text("Which is red?")]},
        {"role": "assistant", "content": "Image 2."},
        {"role": "user", "content": [text("And here: "), picture]},
        {"role": "assistant", "content": "Neither."},
    ]


def test_a_dialogue_counts_through_its_turns() -> None:
    made = processor("mantis")
    row = made(messages=conversation()[:3], images=pictures(3))["input_ids"][0]
    start, end = "<|start_header_id|>", "<|end_header_id|>\n\n"
    tags = [f"(image {j}: <Image>{'<image>' * N}</Image>) " for j in (1, 2, 3)]
    assert made.decode(row, skip_special=False) == (
        f"<|begin_of_text|>{start}user{end}{tags[0]}{tags[1]}Which is red?<|eot_id|>{start}assistant{end}Image 2.<|eot_id|>"
        f"{start}user{end}And here: {tags[2]}<|eot_id|>{start}assistant{end}"
    )
    assert made.stop == [304, 301]


def test_only_answers_are_learnt() -> None:
    """Up to and with the end of their turn; no tag, no place of an image, no question."""
    made = processor("mantis")
    row = made(messages=conversation(), images=pictures(3), train=True)
    learnt = row["labels"][0][row["labels"][0] >= 0].tolist()
    assert made.decode(learnt, skip_special=False) == "Image 2.<|eot_id|>Neither.<|eot_id|>" and len(learnt) == len("Image 2.Neither.") + 2


def test_edits_keep_answers_at_their_words() -> None:
    said = Written("ab<i>cd<i>ef", ((2, 7), (7, 12)))
    after = edited(said, [Edit(0, 0, "+++"), Edit(2, 5, "(1)<i>"), Edit(7, 10, "")])
    assert after.text == "+++ab(1)<i>cdef" and [after.text[a:b] for a, b in after.answers] == ["(1)<i>cd", "ef"]


def test_a_picture_is_never_cut_off() -> None:
    """The published code drops the last pictures silently where the text is too long."""
    spec = vlmgraph.read_spec(
        "mantis", size="tiny", overrides={"processor.input_ids.max_length": 40, "processor.input_ids.truncate": "right"}
    )
    made = model_processor(spec, api.elaborate(spec))
    assert made("<image>", pictures(1))["input_ids"].shape[1] == 1 + len("(image 1: <Image></Image>)") + N
    with pytest.raises(DiagnosticError, match="max_length is 40"):
        made("<image><image>", pictures(2))


def test_faults_of_a_tag() -> None:
    for tag in ("(image {number})", "{image}{image}", "{image} {name}"):
        spec = vlmgraph.read_spec("mantis", overrides={"processor.input_ids.place": {"<image>": {"tag": tag}}})
        assert any("tag must hold {image} once" in d.message for d in vlmgraph.check(spec))


# ---- several images in a sample


def given() -> dict[str, Tensor]:
    """Two samples: two images and one, the second padded at the left."""
    first = placed(random_ids(1, 30), IMAGE, (0, 2, N), (0, 15, N))
    second, seen = padded(placed(random_ids(1, 20, seed=3), IMAGE, (0, 4, N)), torch.ones(1, 20, dtype=torch.long), left=10)
    mask = torch.cat([torch.ones(1, 30, dtype=torch.long), seen])
    return {"pixel_values": noise(3, 3, 42, 42), "input_ids": torch.cat([first, second]), "attention_mask": mask}


def test_merging_as_published(model) -> None:
    """One placeholder an image: rows are moved apart, features fill what is left, positions count what is no padding."""
    inputs = given()
    out = logits(model, inputs["input_ids"], inputs["pixel_values"], attention_mask=inputs["attention_mask"])
    with torch.no_grad():
        features = model.projector(model.vision(inputs["pixel_values"], taps=(2,))["hidden.2"])
        for row, images in ((0, features[:2]), (1, features[2:])):
            ids = inputs["input_ids"][row][inputs["attention_mask"][row].bool()]
            short = [int(t) for k, t in enumerate(ids) if t != IMAGE or ids[k - 1] != IMAGE]
            assert len(ids) == len(short) + len(images) * (N - 1)
            stretches, source = [], iter(images)
            for token in short:
                stretches.append(next(source) if token == IMAGE else model.embed(torch.tensor([[token]]))[0])
            expected = model.head(model.llm(torch.cat(stretches)[None]))[0]
            close(out[row][inputs["attention_mask"][row].bool()], expected, 5e-6)


def test_every_patch_of_the_layer_before_the_last(model) -> None:
    """SigLIP has no class token to leave out; with CLIP it is left out."""
    image = noise(1, 3, 42, 42)
    with torch.no_grad():
        out = model.programs["encode_image"](pixel_values=image)["projector"]
        close(out, model.projector(model.vision(image, taps=(2,))["hidden.2"]), 1e-6)
        clip = lively("mantis", variant="clip")
        theirs = clip.programs["encode_image"](pixel_values=image)["projector"]
        close(theirs, clip.projector(clip.vision(image, taps=(2,))["hidden.2"][:, 1:]), 1e-6)
    assert out.shape[1] == theirs.shape[1] == N


def test_images_stand_where_their_placeholders_do(model) -> None:
    """Causal over all images of a sample: what an image changes begins at its place; swapping two images is not swapping places."""
    inputs = {k: v[:1] if k != "pixel_values" else v[:2] for k, v in given().items()}
    ids, images = inputs["input_ids"], inputs["pixel_values"]
    out = logits(model, ids, images)
    second = logits(model, ids, torch.cat([images[:1], noise(1, 3, 42, 42, seed=5)]))
    changed = (second != out).any(-1)[0]
    assert not changed[:15].any() and changed[15:].all()
    swapped = logits(model, ids, images.flip(0))
    assert (swapped != out).any(-1)[0, 2:].all() and not (swapped != out).any(-1)[0, :2].any()


def test_generated_source_is_the_same(model) -> None:
    for name, variant in (("mantis", None), ("mantis", "clip")):
        space: dict[str, Any] = {"__name__": "generated"}
        made = lively(name, variant=variant)
        exec(compile(codegen.source(made), "model.py", "exec"), space)
        theirs = space["Model"]().eval()
        theirs.load_state_dict(made.state_dict())
        with torch.no_grad():
            assert torch.equal(theirs(**given())["logits"], made(**given())["logits"])


def test_decoding_with_a_cache(model) -> None:
    assert torch.equal(model.generate(**given(), max_new_tokens=5), model.generate(**given(), max_new_tokens=5, use_cache=False))


# ---- training


def test_stages() -> None:
    """First the projector, then the decoder too; the tower never."""
    inputs = {**given(), "labels": given()["input_ids"]}
    for stage, parts in (("align", {"projector"}), ("instruct", {"projector", "embed", "llm", "head"})):
        assert {n.split(".")[0] for n in trains(fresh("mantis"), stage, inputs, lr=1e-2 if stage == "align" else 2e-3)} == parts
    model = fresh("mantis-idefics2")
    ids = placed(random_ids(1, 12), 318, (0, 2, 5))
    names = trains(model, "mantis", {"pixel_values": noise(1, 1, 3, 42, 28), "input_ids": ids, "labels": ids})
    assert {n.split(".")[0] for n in names} == {"projection", "resampler", "llm"}


def test_mantis_over_idefics2_keeps_pictures_whole() -> None:
    made = processor("mantis-idefics2", None, stage="mantis")
    assert processor("mantis-idefics2", None, stage="instruct").entries.media["pixel_values"].quarters, "as Idefics2 was trained"
    row = made(
        messages=[{"role": "user", "content": [{"type": "image"}, {"type": "image"}, {"type": "text", "text": "Differences?"}]}],
        images=pictures(2),
    )
    assert (row["input_ids"] == 32001).sum() == 2 * 64 and (row["input_ids"] == 32000).sum() == 3


# ---- opening


@pytest.mark.parametrize(
    ("tower", "written", "spec"),
    [
        ("siglip_vision_model", "MLlavaProcessor", "mantis"),
        ("clip_vision_model", "MLlavaProcessor", "mantis:clip"),
        ("siglip_vision_model", "LlavaProcessor", "llava-1.5"),
        ("siglip_vision_model", None, "llava-1.5"),
        ("clip_vision_model", None, "llava-1.5"),
    ],
)
def test_the_class_of_processor_tells_prompts_apart(tower: str, written: str | None, spec: str, tmp_path: Path) -> None:
    """Weights and config.json of MANTIS are those of any LLaVA."""
    config = {
        "model_type": "llava", "image_token_index": 128_256, "vision_feature_select_strategy": "full", "vision_feature_layer": -2,
        "vision_config": {"model_type": tower, "image_size": 42, "patch_size": 14},
        "text_config": {"model_type": "llama", "vocab_size": 128_258},
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config))
    if written:
        (tmp_path / "preprocessor_config.json").write_text(json.dumps({"processor_class": written, "image_processor_type": "x"}))
    read = vlmgraph.read_spec(import_config(tmp_path / "config.json").spec)
    assert import_config(tmp_path / "config.json").spec["extends"] == spec
    assert [d for d in vlmgraph.check(read) if d.severity == "error"] == []
    place = read.data["processor"]["input_ids"]["place"]["<image>"]
    assert (isinstance(place, dict) and place.get("tag", "").startswith("(image {number}")) == spec.startswith("mantis")


def test_names_of_older_releases(tmp_path: Path) -> None:
    """A tower inside a tower, and the decoder as a model of its own: as MANTIS was published."""
    pytest.importorskip("transformers", minversion="5.0")
    from safetensors.torch import load_file, save_file

    from tests.parity.models import CASES

    reference, inputs, _ = CASES["llava_siglip_left_padding"]()
    reference.save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text('{"processor_class": "MLlavaProcessor"}')
    stored = load_file(tmp_path / "model.safetensors")
    old = {}
    for key, value in stored.items():
        key = key.removeprefix("model.")
        key = re.sub(r"^language_model\.(?!model\.|lm_head)", "language_model.model.", key)
        key = re.sub(r"^lm_head", "language_model.lm_head", key)
        old[re.sub(r"^vision_tower\.(?!vision_model)", "vision_tower.vision_model.", key)] = value
    assert "vision_tower.vision_model.head.probe" in old and "language_model.model.norm.weight" in old
    save_file(old, tmp_path / "model.safetensors")
    ours = vlmgraph.load(tmp_path)
    with torch.no_grad():
        wanted = reference(**inputs)["logits"]
        real = inputs["attention_mask"].bool()
        close(ours(**inputs)["logits"][real], wanted[real], 2e-5)
    ours.save(tmp_path / "back", format="transformers")
    assert set(load_file(tmp_path / "back/model.safetensors")) == set(old)
    assert ours.graph.name != "llava-1.5-7b" and np.isfinite(wanted.numpy()).all()
