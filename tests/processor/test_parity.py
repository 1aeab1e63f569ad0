"""Our pixels against transformers' image processors, within one 8-bit step."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("transformers")

from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.idefics.image_processing_pil_idefics import IdeficsImageProcessorPil
from transformers.models.janus.image_processing_pil_janus import JanusImageProcessorPil
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

CLIP_STEP = 1 / 255 / 0.26130258
HALF = [0.5, 0.5, 0.5]


def close(ours: np.ndarray, theirs: np.ndarray, step: float) -> None:
    assert ours.shape == theirs.shape
    assert ours.dtype == np.float32
    difference = np.abs(ours.astype(np.float64) - theirs)
    assert difference.max() <= step * 1.001, difference.max() / step
    assert (difference > step / 100).mean() < 0.01  # a step apart is the exception


CASES: dict[str, tuple[str, dict[str, Any], Any, float]] = {
    "clip": ("clip", {}, lambda: CLIPImageProcessorPil(), CLIP_STEP),
    "llava crop": ("llava-1.5", {"fit": "crop"}, lambda: CLIPImageProcessorPil(size={"shortest_edge": 336}, crop_size=336), CLIP_STEP),
    "llava pad": (
        "llava-1.5",
        {},
        lambda: LlavaImageProcessorPil(do_pad=True, do_center_crop=False, size={"height": 336, "width": 336}),
        CLIP_STEP,
    ),
    "blip-2": ("blip-2", {}, lambda: BlipImageProcessorPil(size={"height": 224, "width": 224}), CLIP_STEP),
    "idefics": ("idefics", {"batch": "images"}, lambda: IdeficsImageProcessorPil(), CLIP_STEP),
    "cogvlm": ("cogvlm", {}, lambda: BlipImageProcessorPil(size={"height": 490, "width": 490}), CLIP_STEP),
    "janus": ("janus", {"rounding": "nearest"}, lambda: JanusImageProcessorPil(image_mean=HALF, image_std=HALF), 2 / 255),
}


@pytest.mark.parametrize("case", CASES)
def test_pixels(case: str, build: Any, photos: dict[str, Any]) -> None:
    name, changes, theirs, step = CASES[case]
    ours = build(name, {"pixel_values": changes})
    images = [photo for which, photo in photos.items() if not (case == "llava pad" and which == "wide")]  # 4000 x 4000 takes long
    result = ours(images=images)["pixel_values"]
    reference = theirs()
    for one, photo in zip(result, images):
        expected = reference(photo)
        close(one, np.asarray(expected if case == "idefics" else expected["pixel_values"])[0], step)


@pytest.mark.parametrize("budget", [12_845_056, 28 * 28 * 1280, 28 * 28 * 16])
def test_qwen2_vl(budget: int, build: Any, photos: dict[str, Any]) -> None:
    ours = build("qwen2-vl", {"pixel_values": {"max_pixels": budget}})
    reference = Qwen2VLImageProcessorPil(min_pixels=3136, max_pixels=budget)
    images = [photos[name] for name in ("china", "upright", "small", "pixel", "wide")]
    result, expected = ours(images=images), reference(images)
    assert np.array_equal(result["image_grid_thw"], expected["image_grid_thw"])
    close(result["pixel_values"], expected["pixel_values"], CLIP_STEP)


def test_published_truncation_differs_from_transformers(build: Any, photos: dict[str, Any]) -> None:
    """201 x 427: the short side is 180.76 pixels, 180 in the published code of Janus and 181 in transformers."""
    reference = np.asarray(JanusImageProcessorPil(image_mean=HALF, image_std=HALF)(photos["upright"])["pixel_values"])[0]
    widths = {}
    for rounding in ("floor", "nearest"):
        pixels = build("janus", {"pixel_values": {"rounding": rounding}})(images=photos["upright"])["pixel_values"][0]
        grey = np.abs(pixels - (127 / 255 - 0.5) / 0.5).max(axis=(0, 1)) < 1e-6
        widths[rounding] = int((~grey).sum())
        assert np.allclose(pixels, reference, atol=2 / 255) == (rounding == "nearest")
    assert widths == {"floor": 180, "nearest": 181}
