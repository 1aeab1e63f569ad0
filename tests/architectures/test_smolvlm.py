"""SmolVLM (Marafioti et al. 2025, arXiv 2504.05299): Idefics3 made small, with blocks of nine or sixteen patches; videos frame by frame."""

from __future__ import annotations

import json
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
    meta,
    noise,
    placed,
    processor,
    published,
    random_ids,
    spec,
    trains,
)
from vlmgraph import api
from vlmgraph.processor import Video
from vlmgraph.report.measure import report
from vlmgraph.weights.import_config import import_config

IMAGE, N = 318, 4  # of the tiny size: placeholder, tokens of a tile
WORDS: dict[str, dict[str, int]] = {
    "2.2b": {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 24, "num_attention_heads": 32, "num_key_value_heads": 32},
    "256m": {"hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3},
    "500m": {"hidden_size": 960, "intermediate_size": 2560, "num_hidden_layers": 32, "num_attention_heads": 15, "num_key_value_heads": 5},
}
LARGE = {"hidden_size": 1152, "num_hidden_layers": 27, "intermediate_size": 4304, "patch_size": 14, "image_size": 384}
BASE = {"hidden_size": 768, "num_attention_heads": 12, "patch_size": 16, "image_size": 512}


@pytest.fixture(scope="module")
def model():
    return lively("smolvlm")


def encode(model, images: Tensor) -> Tensor:
    with torch.no_grad():
        return model.programs["encode_image"](pixel_values=images)["projector"]


@pytest.mark.parametrize(
    ("size", "variant", "total", "vocab"),
    [
        (None, None, 2_246_272_880, 49_155),
        (None, "v2", 2_246_784_880, 49_280),
        ("256m", None, 256_484_928, 49_280),
        ("500m", None, 507_482_304, 49_280),
    ],
    ids=["2.2b", "v2", "256m", "500m"],
)
def test_published_parameters(size: str | None, variant: str | None, total: int, vocab: int) -> None:
    counts = published("smolvlm", size, variant)
    words, tower, factor = WORDS[size or "2.2b"], BASE if size else LARGE, 4 if size else 3
    assert counts["total"] == total and counts["embed"] == counts["head"] == vocab * words["hidden_size"]
    assert counts["projector"] == factor**2 * tower["hidden_size"] * words["hidden_size"]
    tf = pytest.importorskip("transformers", minversion="5.0")
    text = {"model_type": "llama", "vocab_size": vocab, **words}
    with torch.device("meta"):
        config = tf.SmolVLMConfig(text_config=text, vision_config=tower, scale_factor=factor)
        theirs = tf.SmolVLMForConditionalGeneration(config)
    assert sum(p.numel() for p in theirs.parameters()) == total


@pytest.mark.parametrize(
    ("size", "height", "width", "tokens"),
    [
        (None, 1080, 1920, 13 * 81),
        (None, 1000, 1000, 17 * 81),
        (None, 400, 1600, 5 * 81),
        ("256m", 1080, 1920, 13 * 64),
        ("500m", 1, 1, 17 * 64),
    ],
)
def test_published_tokens(size: str | None, height: int, width: int, tokens: int) -> None:
    found = report(graph("smolvlm", size), images=[(width, height)], processor=spec("smolvlm", size).data["processor"]).by_image
    assert found[0]["tokens"] == {"splice.vision": tokens}


def test_published_context_and_positions() -> None:
    """Waves of base 273768 for 16384 tokens; a tile of 384 pixels has the rows 0 to 728 of the table."""
    llm = graph("smolvlm").components["llm"]
    assert (llm.position.theta, llm.max_positions, llm.kv_heads) == (273_768.0, 16_384, 32)
    position = meta("smolvlm").vision.position
    assert position.places(27, 27, None, torch.device("cpu")).tolist() == [list(range(729))]


def test_nine_patches_and_one_linear_layer(model) -> None:
    """Token (i, j) is the matrix times the patches (3i + a, 3j + b), row by row; the pixels left over at the end do not count."""
    images = noise(1, 1, 3, 86, 86)
    with torch.no_grad():
        grid = model.vision(images[0]).unflatten(1, (6, 6))
        rows = [torch.cat([grid[:, 3 * i + a, 3 * j + b] for a in range(3) for b in range(3)], -1) for i in (0, 1) for j in (0, 1)]
        close(encode(model, images), torch.stack(rows, 1) @ model.projector.proj.weight.T, 1e-6)
    other = images.clone()
    other[..., 84:, :] += 1
    other[..., 84:] += 1
    assert torch.equal(encode(model, images), encode(model, other))


def test_padding_alone(tmp_path: Path) -> None:
    """The second release keeps one image of a batch that has none, as the reference does; the first leaves all out."""
    assert encode(lively("smolvlm"), torch.zeros(1, 2, 3, 86, 86)).shape[0] == 0
    assert encode(lively("smolvlm", "tiny", "v2"), torch.zeros(1, 2, 3, 86, 86)).shape == (1, N, 48)
    pytest.importorskip("transformers", minversion="5.0")
    from tests.parity.models import models_idefics3

    theirs = models_idefics3.idefics3("SmolVLM", {}, {}, scale_factor=3)
    theirs.save_pretrained(tmp_path)
    given = {"pixel_values": torch.zeros(2, 1, 3, 48, 48), "input_ids": placed(random_ids(2, 9, high=90), 95, (0, 1, 4))}
    with torch.no_grad():
        close(vlmgraph.load(tmp_path)(**given)["logits"], theirs(**given).logits, 2e-6)


def test_a_video_is_written_frame_by_frame(model) -> None:
    """Eight frames at two a second: four of them, each one tile, with their times."""
    own = processor("smolvlm")
    frames = [PIL.Image.fromarray(np.full((30, 40, 3), 20 * i, dtype=np.uint8)) for i in range(8)]
    said = [{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": "What?"}]}]
    row = own(messages=said, videos=[Video(frames, fps=2.0)])
    assert row["pixel_values"].shape == (1, 4, 3, 86, 86) and (row["input_ids"] == IMAGE).sum() == 4 * N
    text = own.decode(row["input_ids"][0][row["input_ids"][0] != IMAGE], skip_special=False)
    fake = "<fake_token_around_image>"
    assert text == (
        "<|im_start|>User:You are provided the following series of four frames from a 0:00:04 [H:MM:SS] video.\n"
        + "".join(f"\nFrame from 00:0{t}:{fake}<global-img>{fake}" for t in (0, 1, 2, 3))
        + "\n\nWhat?<end_of_utterance>\nAssistant:"
    )
    given = {name: torch.from_numpy(value) for name, value in row.items()}
    ids = model.generate(**given, max_new_tokens=3)
    assert torch.equal(ids, model.generate(**given, max_new_tokens=3, use_cache=False))


LEFT = {"architectures": ["VLlama3ForCausalLM"], "head_dim": 64, "is_llama_config": True, "neftune_noise_alpha": 0.0, "pad_token_id": 2,
    "pixel_shuffle_factor": 4, "qk_layer_norms": False, "rms_norm_eps": 1e-5, "rope_interleaved": False, "use_resampler": False,
    "model_type": "llama", "torch_dtype": "bfloat16"}  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "size", "top", "words", "tower", "total"),
    [
        (
            "idefics3", None, {"image_token_id": 49153, "scale_factor": 3, "image_seq_len": 81},
            {"rope_theta": 273768.0, "vocab_size": 49155, "max_position_embeddings": 16384}, {**LARGE, "model_type": "idefics3"},
            2_246_272_880,
        ),
        (
            "smolvlm", "500m", {"image_token_id": 49190, "scale_factor": 4, "pad_token_id": 128002, "use_reentrant_checkpointing": False},
            {"rope_theta": 100000, "vocab_size": 49280, "max_position_embeddings": 8192},
            {**BASE, "model_type": "smolvlm_vision", "max_image_size": {"longest_edge": 512}, "use_base_siglip": False}, 507_482_304,
        ),
    ],
)  # fmt: skip
def test_published_configurations(
    kind: str, size: str | None, top: dict[str, Any], words: dict[str, Any], tower: dict[str, Any], total: int, tmp_path: Path
) -> None:
    """The first release is an idefics3, the second a smolvlm; both become the model of this spec."""
    text = {**WORDS[size or "2.2b"], **LEFT, **words}
    config = {"model_type": kind, "text_config": text, "vision_config": tower, "tie_word_embeddings": False, "vocab_size": 0, **top}
    (tmp_path / "config.json").write_text(json.dumps(config))
    read = vlmgraph.read_spec(import_config(tmp_path / "config.json").spec)
    found, own = api.elaborate(read), graph("smolvlm", size).components
    assert report(found).total == total and read.data["processor"]["input_ids"]["bos"] == "<|im_start|>"
    assert found.components["llm"].sense() == own["llm"].model_copy(update={"vocab": words["vocab_size"], "head_dim": 64}).sense()
    tower_read = found.components["vision"].model_copy(update={"crop": own["vision"].crop})  # says nothing where positions are fractions
    assert tower_read == own["vision"] and found.components["shuffle"] == own["shuffle"]


@pytest.mark.parametrize(
    ("stage", "parts"), [("context", "llm embed head"), ("vision", "vision projector llm embed.added head"), ("tune", "")]
)
def test_stages(stage: str, parts: str) -> None:
    ids = placed(random_ids(1, 12), IMAGE, (0, 2, N))
    ids[0, 8:10] = torch.tensor([317, 319])  # rows that were added
    given = {"pixel_values": noise(1, 1, 3, 86, 86), "input_ids": ids, "labels": ids}
    model = fresh("smolvlm")
    assert trains(model, stage, given, lr=5e-3) == {
        n for n, _ in model.named_parameters() if not parts or any(n.startswith(f"{p}.") for p in parts.split())
    }


def test_stages_in_order() -> None:
    """Context first, pictures then; nothing of Idefics3's own stages is left."""
    assert {s.stage: s.trainable for s in measured("smolvlm").stages} == {
        "context": 1_711_382_528 + 100_669_440,
        "vision": 2_246_272_880 - 49_152 * 2048,
        "tune": 2_246_272_880,
    }
