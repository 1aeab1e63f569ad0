"""VideoLLaMA 3 (arXiv 2501.13106): a SigLIP of any resolution, blocks merged image by image, tokens of a video that are left out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import vlmgraph
from tests.architectures.common import close, fresh, graph, lively, noise, placed, published, random_ids, trains
from vlmgraph.api import elaborate
from vlmgraph.diagnostics import DiagnosticError
from vlmgraph.lower.model import CompiledModel
from vlmgraph.report.measure import report
from vlmgraph.weights.import_config import import_config

SPEC, IMAGE, VIDEO = "videollama-3", 305, 306
VISION: dict[str, Any] = {
    "model_type": "video_llama_3_vision", "hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 27,
    "num_attention_heads": 16, "patch_size": 14,
}  # fmt: skip
PUBLISHED: dict[str | None, dict[str, Any]] = {
    None: {"hidden_size": 3584, "intermediate_size": 18944, "num_attention_heads": 28, "num_hidden_layers": 28, "num_key_value_heads": 4,
           "vocab_size": 152064},
    "2b": {"hidden_size": 1536, "intermediate_size": 8960, "num_attention_heads": 12, "num_hidden_layers": 28, "num_key_value_heads": 2,
           "vocab_size": 151936, "tie_word_embeddings": True},
}  # fmt: skip


@pytest.fixture(scope="module")
def model() -> CompiledModel:
    return lively(SPEC)


def config(folder: Path, words: dict[str, Any], vision: dict[str, Any] = VISION, **keys: Any) -> Path:
    path = folder / "config.json"
    text = {"model_type": "qwen2", "max_position_embeddings": 131072, "rms_norm_eps": 1e-6, "rope_theta": 1e6, **words}
    path.write_text(json.dumps({"model_type": "video_llama_3", "vision_config": vision, "text_config": text, **keys}))
    return path


def grids(*rows: list[int]) -> tuple[Tensor, Tensor]:
    table = torch.tensor(rows)
    return table[:, :3], table[:, 3]


@torch.no_grad()
def encode(model: CompiledModel, patches: Tensor, *rows: list[int]) -> Tensor:
    """Rows are frames, rows, columns and the side of a block."""
    grid, merges = grids(*rows)
    return model.programs["encode_image"](pixel_values=patches, image_grid_thw=grid, image_merge_sizes=merges)["visual"]


# ---- what was published


@pytest.mark.parametrize(("size", "total", "projector"), [(None, 8_044_744_944, 16_980_992), ("2b", 1_959_993_584, 4_131_840)])
def test_parameters(size: str | None, total: int, projector: int, tmp_path: Path) -> None:
    """SigLIP-so400m without 729 positions and without its pooling head; as imported, and as transformers counts."""
    counts = published(SPEC, size)
    assert counts["total"] == total and counts["visual.projector"] == projector and counts["visual.vision"] == 412_147_440
    siglip: Any = graph("siglip", "so400m-384").components["vision"]
    assert sum(siglip.parameters().values()) - 729 * 1152 == counts["visual.vision"]
    again = elaborate(vlmgraph.read_spec(import_config(config(tmp_path, PUBLISHED[size])).spec))
    assert report(again).total == total
    for name in ("visual.vision", "visual.projector", "llm"):
        assert again.components[name].sense() == graph(SPEC, size).components[name].sense()
    tf = pytest.importorskip("transformers", minversion="5.0", reason="the reference is that of transformers 5")
    with torch.device("meta"):
        reference = tf.VideoLlama3ForConditionalGeneration(tf.VideoLlama3Config(vision_config=VISION, text_config=PUBLISHED[size]))
    assert sum(p.numel() for p in reference.parameters()) == total


@pytest.mark.parametrize("place", ["text_config", "top"])
def test_either_key_ties(place: str, tmp_path: Path) -> None:
    keys = {"tie_word_embeddings": True} if place == "top" else {}
    words = {"tie_word_embeddings": place == "text_config"}
    assert import_config(config(tmp_path, words, **keys)).spec["components"]["llm"]["tie"] is True
    assert import_config(config(tmp_path, {}, tie_word_embeddings=False)).spec["components"]["llm"]["tie"] is False


@pytest.mark.parametrize(
    ("key", "value"),
    [("patch_size", [14, 14]), ("hidden_act", "mish"), ("rope_parameters", {"rope_type": "linear"}), ("head_dim", 80), ("image_size", 384)],
)
def test_what_is_refused_is_named(key: str, value: Any, tmp_path: Path) -> None:
    with pytest.raises(DiagnosticError, match=key):
        import_config(config(tmp_path, {}, {**VISION, key: value}))
    with pytest.raises(DiagnosticError, match="layer_types"):
        import_config(config(tmp_path, {"use_sliding_window": True}))


# ---- the tower


def test_blocks_are_merged_image_by_image(model: CompiledModel) -> None:
    """Each image is what it is alone. A block of one patch is that patch, of two its mean, behind the last norm and before the MLP."""
    x = noise(24 + 24 + 12, 588)
    rows = ([1, 4, 6, 2], [1, 4, 6, 1], [1, 3, 4, 1])
    parts = x.split([24, 24, 12])
    out = encode(model, x, *rows)
    assert len(out) == 6 + 24 + 12
    close(out, torch.cat([encode(model, part, row) for part, row in zip(parts, rows, strict=True)]), 2e-6)
    visual: Any = model.visual
    with torch.no_grad():
        grid, merges = grids(rows[0])
        states = visual.vision(parts[0], grid=grid, merges=merges)
        close(encode(model, parts[0], rows[0]), visual.projector(states.unflatten(0, (6, 4)).mean(1)), 2e-6)
        assert (visual.projector(states).unflatten(0, (6, 4)).mean(1) - encode(model, parts[0], rows[0])).norm() > 0.1
        grid, merges = grids(rows[1])
        close(encode(model, parts[1], rows[1]), visual.projector(visual.vision(parts[1], grid=grid, merges=merges)), 2e-6)


def test_order_of_patches_follows_the_blocks(model: CompiledModel) -> None:
    """The same picture in blocks of two and of one: the same states, in the order of the blocks."""
    picture = noise(4, 6, 588)
    blocks = picture.unflatten(1, (3, 2)).unflatten(0, (2, 2)).transpose(1, 2).flatten(0, 3)
    vision: Any = model.visual.vision  # type: ignore[union-attr]
    with torch.no_grad():
        one = vision(picture.flatten(0, 1), grid=torch.tensor([[1, 4, 6]]), merges=torch.tensor([1]))
        two = vision(blocks, grid=torch.tensor([[1, 4, 6]]), merges=torch.tensor([2]))
    close(two, one.view(4, 6, -1).unflatten(1, (3, 2)).unflatten(0, (2, 2)).transpose(1, 2).flatten(0, 3), 2e-6)


def test_frames_do_not_see_each_other(model: CompiledModel) -> None:
    x = noise(3, 16, 588)
    out = encode(model, x.flatten(0, 1), [3, 4, 4, 2]).view(3, 4, -1)
    swapped = encode(model, x[[2, 1, 0]].flatten(0, 1), [3, 4, 4, 2]).view(3, 4, -1)
    close(swapped, out[[2, 1, 0]], 2e-6)
    other = x.clone()
    other[1, 3] += 1
    moved = (encode(model, other.flatten(0, 1), [3, 4, 4, 2]).view(3, 4, -1) != out).any(-1)
    assert moved.any(1).tolist() == [False, True, False] and bool(moved[1].all())


def test_positions_are_rotary_by_row_and_column(model: CompiledModel) -> None:
    """No table: equal patches everywhere give equal states, and a patch that differs tells by where it stands."""
    one = noise(1, 588)
    flat = encode(model, one.expand(12, -1).contiguous(), [1, 3, 4, 1])
    close(flat, flat[:1].expand(12, -1), 1e-5)
    x = one.repeat(12, 1)
    x[0] += 1
    apart = encode(model, x, [1, 3, 4, 1])[1:]
    assert torch.pdist(apart).min() > 1e-4


# ---- tokens that are left out


@torch.no_grad()
def test_left_out_tokens_leave_no_trace(model: CompiledModel) -> None:
    """What stays stands side by side in the text, at positions counted without gaps: as if the features were spliced by hand."""
    x = noise(2 * 16, 588)
    grid, merges = grids([2, 4, 4, 2])
    keep = torch.tensor([True] * 4 + [False, True, False, False])
    inputs = {"pixel_values_videos": x, "video_grid_thw": grid, "video_merge_sizes": merges}
    ids = placed(random_ids(1, 12), VIDEO, (0, 2, 4), (0, 8, 1))
    pruned = model(**inputs, video_compression_mask=keep, input_ids=ids)["logits"]
    features = model.programs["encode_video"](**inputs)["prune"]
    assert features.shape == (8, 48)
    words = model.embed(ids)
    words[0, ids[0] == VIDEO] = features[keep]
    close(pruned, model.head(model.llm(words)), 2e-6)
    close(model.programs["encode_video"](**inputs, video_compression_mask=keep)["prune"], features[keep], 1e-6)
    with pytest.raises(DiagnosticError, match="8 feature rows"):
        model(**inputs, input_ids=ids)


@torch.no_grad()
def test_text_is_that_of_the_decoder(model: CompiledModel) -> None:
    ids = random_ids(2, 9)
    assert torch.equal(model(input_ids=ids)["logits"], model.head(model.llm(model.embed(ids))))


def test_images_and_videos_in_their_places(model: CompiledModel) -> None:
    """Rows of the one tower under two tokens; each moves what comes behind it and nothing before."""
    ids = placed(random_ids(1, 20), IMAGE, (0, 2, 6))
    ids = placed(ids, VIDEO, (0, 12, 4))
    image, video = grids([1, 2, 3, 1]), grids([1, 4, 4, 2])
    given: dict[str, Any] = {
        "input_ids": ids, "pixel_values": noise(6, 588), "image_grid_thw": image[0], "image_merge_sizes": image[1],
        "pixel_values_videos": noise(16, 588, seed=3), "video_grid_thw": video[0], "video_merge_sizes": video[1],
    }  # fmt: skip
    with torch.no_grad():
        before = model(**given)["logits"]
        for name, first in (("pixel_values", 2), ("pixel_values_videos", 12)):
            after = model(**{**given, name: given[name] + 1})["logits"]
            assert (before != after).any(-1)[0].nonzero()[0].item() == first


def test_generated_tokens_are_those_of_the_reference(tmp_path: Path) -> None:
    pytest.importorskip("transformers", minversion="5.0", reason="the reference is that of transformers 5")
    from tests.parity.models import CASES
    from tests.parity.test_parity import write

    reference, inputs, _ = CASES["video_llama_3_images_and_pruned_videos"]()
    with torch.no_grad():
        for matrix in reference.model.language_model.layers.parameters():
            matrix.mul_(3 if matrix.dim() > 1 else 1)  # so that the same token does not come again and again
    write(reference, tmp_path)
    options = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": None}
    wanted = reference.generate(**inputs, **options, pad_token_id=0)[:, -8:]
    ours = vlmgraph.load(tmp_path)
    for cached in (True, False):
        assert ours.generate(**inputs, **options, use_cache=cached)[:, -8:].tolist() == wanted.tolist()
    assert wanted.unique().numel() > 2


# ---- stages


@pytest.mark.parametrize(("stage", "parts"), [("adapt", {"visual"}), ("align", {"visual", "embed", "llm", "head"})])
def test_training(stage: str, parts: set[str]) -> None:
    own = fresh(SPEC)
    grid, merges = grids([2, 4, 4, 2])
    ids = placed(random_ids(1, 14), VIDEO, (0, 2, 7))
    keep = torch.tensor([True] * 7 + [False])
    inputs = {"input_ids": ids, "labels": ids, "pixel_values_videos": noise(32, 588), "video_grid_thw": grid, "video_merge_sizes": merges}
    names = trains(own, stage, {**inputs, "video_compression_mask": keep}, steps=2)
    assert {name.partition(".")[0] for name in names} == parts
    stages = graph(SPEC).stages
    assert set(stages["video"].train) == set(stages["tune"].train) == set(stages["align"].train)
