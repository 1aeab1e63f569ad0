"""Our pixels against transformers' image processors, within one 8-bit step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

pytest.importorskip("transformers")

from transformers.image_utils import load_image
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
    "janus": (
        "janus",
        {"rounding": "nearest"},
        lambda: JanusImageProcessorPil(image_mean=HALF, image_std=HALF, do_convert_rgb=True),
        2 / 255,
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_pixels(case: str, build: Any, photos: dict[str, Any]) -> None:
    name, changes, theirs, step = CASES[case]
    ours = build(name, {"pixel_values": changes})
    images = list(photos.values())
    result = ours(images=images)["pixel_values"]
    reference = theirs()
    for one, photo in zip(result, images):
        expected = reference(photo)
        close(one, np.asarray(expected if case == "idefics" else expected["pixel_values"])[0], step)


def modes(photo: PIL.Image.Image) -> dict[str, PIL.Image.Image]:
    """A photo in every mode that files come in, with transparency where the mode has it."""
    alpha = PIL.Image.fromarray(np.random.default_rng(3).integers(0, 256, (photo.height, photo.width), dtype=np.uint8))
    see_through, grey = photo.copy(), photo.convert("L")
    see_through.putalpha(alpha)
    grey.putalpha(alpha)
    palette = photo.quantize(32)
    keyed = palette.copy()
    keyed.info["transparency"] = 3
    found = {"RGBA": see_through, "LA": grey, "P": palette, "P with a transparent colour": keyed, "PA": palette.convert("PA")}
    return found | {mode: photo.convert(mode) for mode in ("1", "L", "CMYK", "YCbCr", "HSV", "I", "F")}


@pytest.mark.parametrize("case", [c for c in CASES if c != "llava crop"])
def test_modes(case: str, build: Any, photos: dict[str, Any]) -> None:
    name, changes, theirs, step = CASES[case]
    ours, reference = build(name, {"pixel_values": changes}), theirs()
    for mode, photo in modes(photos["china"].resize((161, 107))).items():
        expected = reference(photo)
        result = ours(images=photo)["pixel_values"][0]
        assert result.std() > 0.2, mode  # a blank picture would agree with a blank one
        close(result, np.asarray(expected if case == "idefics" else expected["pixel_values"])[0], step)


def test_sixteen_bits(build: Any, photos: dict[str, Any]) -> None:
    """16-bit grey is scaled to bytes. transformers clips it there and sees white, so its 8-bit picture is what ours has to equal."""
    grey = photos["flower"].convert("L").resize((161, 107))
    deep = PIL.Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    assert deep.mode == "I;16"
    expected = np.asarray(CLIPImageProcessorPil()(grey)["pixel_values"])[0]
    assert np.asarray(CLIPImageProcessorPil()(deep)["pixel_values"]).std(axis=(2, 3)).max() < 1e-6
    close(build("clip")(images=deep)["pixel_values"][0], expected, CLIP_STEP)


@pytest.mark.parametrize("case", ["clip", "llava pad", "janus"])
def test_orientations(case: str, build: Any, photos: dict[str, Any], tmp_path: Path) -> None:
    """Files are turned as their EXIF block says; transformers does so where it opens files, before its image processor."""
    name, changes, theirs, step = CASES[case]
    ours, reference = build(name, {"pixel_values": changes}), theirs()
    photo = photos["china"].resize((160, 107))
    seen = set()
    for orientation in range(1, 9):
        exif = photo.getexif()
        exif[0x0112] = orientation
        path = tmp_path / f"{orientation}.png"
        photo.save(path, exif=exif)
        result = ours(images=path)["pixel_values"][0]
        close(result, np.asarray(reference(load_image(str(path)))["pixel_values"])[0], step)
        seen.add(result.tobytes())
    assert len(seen) == 8


def test_video_frames(build: Any, photos: dict[str, Any]) -> None:
    """Each frame of a video has the pixels that transformers' image processor gives it alone, at its place in time."""
    frames = [photos["china"].crop((x, 0, x + 300, 200)) for x in (0, 40, 80, 120, 160)]
    table = {"min_pixels": 3136, "max_pixels": 28 * 28 * 40}
    out = build("qwen2-vl", {"pixel_values_videos": table})(videos=[frames])
    reference = Qwen2VLImageProcessorPil(**table)
    t, h, w = out["video_grid_thw"][0].tolist()
    assert t == 3 and len(out["pixel_values_videos"]) == t * h * w
    ours = out["pixel_values_videos"].reshape(t, h * w, 3, 2, 14 * 14)
    for index, frame in enumerate([*frames, frames[-1]]):  # an odd number: the last one is repeated
        expected = reference(frame)
        assert expected["image_grid_thw"].tolist() == [[1, h, w]]
        wanted = np.asarray(expected["pixel_values"]).reshape(h * w, 3, 2, 14 * 14)[:, :, 0]
        close(ours[index // 2, :, :, index % 2], wanted, CLIP_STEP)


@pytest.mark.parametrize("photo", ["china", "flower", "upright", "small"])
def test_cogvlm_is_bicubic(photo: str, build: Any, photos: dict[str, Any]) -> None:
    """The published transform by hand: Resize((490, 490), bicubic) of a PIL image is Pillow's, ToTensor, Normalize."""
    resized = np.asarray(photos[photo].resize((490, 490), PIL.Image.Resampling.BICUBIC), dtype=np.float64) / 255
    mean, std = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
    wanted = ((resized - mean) / std).transpose(2, 0, 1)
    close(build("cogvlm")(images=photos[photo])["pixel_values"][0], wanted, CLIP_STEP / 100)


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
