"""Every bundled spec at its tiny size, from the command line to what it says, held against the same steps done by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch

import vlmgraph
from vlmgraph.lower.model import CompiledModel
from vlmgraph.lower.sample_image import draw
from vlmgraph.processor import Processor
from vlmgraph.processor.model import model_processor

WRITE = ["llava-1.5", "blip-2", "blip-2:flan-t5", "idefics", "flamingo", "cogvlm", "janus", "qwen2-vl"]


def by_hand(name: str) -> tuple[CompiledModel, Processor]:
    model = vlmgraph.compile(vlmgraph.read_spec(name, size="tiny"))
    return model, model_processor(model.spec, model.graph)


def greedy(model: CompiledModel, inputs: dict[str, np.ndarray], count: int) -> list[int]:
    """The most likely tokens, each from a whole forward pass: no cache, no decoding step."""
    given = {name: torch.from_numpy(value) for name, value in inputs.items()}
    written = "decoder_input_ids" if "decoder_input_ids" in model.graph.inputs else "input_ids"
    given.setdefault(written, torch.tensor([[model.graph.tokens.get("<decoder_start>", 0)]]))
    found: list[int] = []
    for _ in range(count):
        with torch.no_grad():
            token = model(**given)["logits"][:, -1].argmax(-1, keepdim=True)
        found.append(int(token))
        given[written] = torch.cat([given[written], token], 1)
        for name in ("attention_mask", "image_attention_mask") if written == "input_ids" else ():
            if name in given:
                given[name] = torch.cat([given[name], given[name][:, -1:]], 1)
    return found


@pytest.mark.parametrize("name", WRITE)
def test_an_answer_is_the_models_own(name: str, run: Any, photos: list[Path]) -> None:
    said = run(name, "--size", "tiny", "--image", photos[0], "--prompt", "What is this?", "--max-new-tokens", 5, "--json")
    (result,) = said.results
    assert "VG0902" in said.err and "VG0711" in said.err  # weights and tokens are no trained ones, and that is said
    model, processor = by_hand(name)
    inputs = processor.ask("What is this?", images=photos[0])
    assert result["prompt_tokens"] == inputs["input_ids"].shape[1]
    wanted = greedy(model, inputs, 5)
    ends = next((k + 1 for k, i in enumerate(wanted) if i in processor.stop), 5)
    assert result["ids"] == wanted[:ends]
    assert result["answer"] == processor.decode(wanted[:ends])


@pytest.mark.parametrize("name", WRITE)
def test_the_photo_reaches_the_answer(name: str, photos: list[Path]) -> None:
    """Through the processor's own inputs: another photo gives other logits, the same gives the same."""
    model, processor = by_hand(name)
    logits = []
    for photo in (photos[0], photos[1], photos[0]):
        inputs = {k: torch.from_numpy(v) for k, v in processor.ask("What?", images=photo).items()}
        if "decoder_input_ids" in model.graph.inputs:
            inputs["decoder_input_ids"] = torch.tensor([[0]])
        for parameter in (p for n, p in model.named_parameters() if ".gates." in n):
            torch.nn.init.ones_(parameter)  # tanh gates start closed
        with torch.no_grad():
            logits.append(model(**inputs)["logits"][0, -1])
    assert (logits[0] - logits[1]).norm() > 1e-3 * logits[0].norm()
    assert torch.equal(logits[0], logits[2])


def test_what_is_printed_is_the_answer(run: Any, photos: list[Path]) -> None:
    arguments = ("qwen2-vl", "--size", "tiny", "--image", photos[0], "--max-new-tokens", 6)
    (result,) = run(*arguments, "--prompt", "Why?", "--json").results
    plain = run(*arguments, "--prompt", "Why?")
    assert plain.code == 0
    assert plain.out == "".join(c if c.isprintable() or c in "\n\t" else ascii(c)[1:-1] for c in result["answer"]) + "\n"
    two = run(*arguments, "--prompt", "Why?", "--prompt", "How?")
    assert two.out.startswith("> Why?\n") and "\n> How?\n" in two.out


def test_seeds(run: Any, photos: list[Path]) -> None:
    """A seed decides weights and draws; sampling is not greedy."""

    def ids(*more: object) -> list[int]:
        return run("cogvlm", "--size", "tiny", "--image", photos[0], "--prompt", "x", "--max-new-tokens", 8, "--json", *more).results[0][
            "ids"
        ]

    drawn = ids("--sample", "--seed", 3, "--temperature", 2)
    assert drawn == ids("--sample", "--seed", 3, "--temperature", 2)
    assert drawn != ids("--sample", "--seed", 4, "--temperature", 2)
    assert ids("--seed", 3) != ids("--seed", 4)
    assert ids("--sample", "--seed", 3, "--top-k", 1) == ids("--seed", 3) == ids("--sample", "--seed", 3, "--top-p", "1e-9")


def test_qwen2_vl_takes_several_pictures_and_videos(run: Any, photos: list[Path], tmp_path: Path) -> None:
    china, flower, part = photos
    arguments = ("qwen2-vl", "--size", "tiny", "--max-new-tokens", 3, "--json")
    model, processor = by_hand("qwen2-vl")
    (two,) = run(*arguments, "--image", china, "--image", part, "--prompt", "<image> or <image>?").results
    inputs = processor.ask("<image> or <image>?", images=[china, part])
    assert len(inputs["image_grid_thw"]) == 2 and two["ids"] == greedy(model, inputs, 3)
    (video,) = run(*arguments, "--video", china, flower, china, flower, "--prompt", "What happens?").results
    inputs = processor.ask("What happens?", videos=[[PIL.Image.open(p) for p in (china, flower, china, flower)]])
    assert inputs["video_grid_thw"][0, 0] == 2 and video["ids"] == greedy(model, inputs, 3)
    frames = [PIL.Image.open(p) for p in (china, flower, china, flower)]
    frames[0].save(tmp_path / "clip.png", save_all=True, append_images=frames[1:], duration=500)  # two a second, as the model wants
    (animation,) = run(*arguments, "--video", tmp_path / "clip.png", "--prompt", "What happens?").results
    assert animation == video


def test_clip_compares(run: Any, photos: list[Path]) -> None:
    china, flower, _ = photos
    prompts = ["a temple", "a flower", "a dog"]
    asked = [a for p in prompts for a in ("--prompt", p)]
    results = run("clip", "--size", "tiny", "--image", china, "--image", flower, *asked, "--json").results
    model, processor = by_hand("clip")
    inputs = processor(text=prompts, images=[china, flower])
    with torch.no_grad():
        table = model(**{k: torch.from_numpy(v) for k, v in inputs.items()})["logits_per_image"]
    assert [r["image"] for r in results] == [str(china), str(flower)]
    for result, row in zip(results, table):
        found = {t["text"]: (t["score"], t["share"]) for t in result["texts"]}
        assert np.allclose([found[p] for p in prompts], torch.stack([row, row.softmax(-1)], 1).numpy(), atol=1e-6)
        assert sorted(result["texts"], key=lambda t: -t["share"]) == result["texts"]
    plain = run("clip", "--size", "tiny", "--image", china, *asked)
    assert [line.split(maxsplit=2)[2] for line in plain.out.splitlines()] == [t["text"] for t in results[0]["texts"]]
    (alone,) = run("clip", "--size", "tiny", "--prompt", "a dog", "--json").results
    assert alone["output"] == "text_embeds" and np.isclose(np.linalg.norm(alone["values"]), 1)


def test_janus_draws(run: Any, tmp_path: Path) -> None:
    target = tmp_path / "made" / "box.png"
    (result,) = run("janus", "--size", "tiny", "--prompt", "a red box", "-o", target, "--json").results
    image = PIL.Image.open(target)
    assert image.size == (16, 16) and image.mode == "RGB" and len(result["codes"]) == 16
    model, processor = by_hand("janus")
    with torch.no_grad():
        pixels = model.programs["decode_image"](image_ids=torch.tensor([result["codes"]]))["pixels"]
    assert np.array_equal(np.asarray(processor.pictures(pixels.numpy())[0]), np.asarray(image))
    (again,) = run("janus", "--size", "tiny", "--prompt", "a red box", "-o", target, "--json").results
    (other,) = run("janus", "--size", "tiny", "--prompt", "a red box", "-o", target, "--json", "--seed", 1).results
    assert again["codes"] == result["codes"] != other["codes"]
    inputs = {k: torch.from_numpy(v) for k, v in processor(processor.prompt("generate_image", prompt="a red box")).items()}
    _, codes = draw(model, **inputs, generator=torch.Generator().manual_seed(0))
    assert codes[0].tolist() == result["codes"]
