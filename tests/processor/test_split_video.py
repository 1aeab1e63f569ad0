"""Videos in an input of tiles: which frames are taken, how they are written, pictures and videos side by side."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import PIL.Image
import pytest

from tests.processor.test_split import EXPAND
from vlmgraph.diagnostics.core import DiagnosticError
from vlmgraph.processor import Processor, Video, build_processor
from vlmgraph.processor.split import frame_indices
from vlmgraph.processor.split_config import Clip
from vlmgraph.processor.words import words

SAID = {"start": "({count}|{duration})", "part": "<{minutes:02}:{seconds:02}>{tokens}", "end": "."}
TOKENS = {"<i>": 300, "<v>": 300, "<f>": 301, "<g>": 302}
FRAMES = [PIL.Image.new("RGB", (24, 12), (5 * i, 0, 0)) for i in range(40)]


def own(**video: Any) -> Processor:
    """Tiles of 12 pixels with 3 tokens each, the long side 24."""
    places = {"<i>": {"node": "v", "media": "image", "expand": EXPAND}, "<v>": {"node": "v", "media": "video", "expand": SAID}}
    tables = {
        "pixel_values": {"type": "processor.split", "size": 12, "longest": 24, "stats": 0.5, "also": {"m": "mask"}, "video": video},
        "input_ids": {"type": "processor.chat", "place": places},
    }
    return build_processor(tables, TOKENS, {"v": 3})


def ids(made: Processor, text: str) -> list[int]:
    return [piece.id for piece in made.encoders["input_ids"].tokenizer.encode(text)]


def test_frames_are_written_with_their_time() -> None:
    """Forty frames at two a second, one a second taken: the first, the last, and so many between them."""
    made = own(max_frames=5)
    out = made("a<v>b", videos=[Video(FRAMES, fps=0.25)])
    levels = ((out["pixel_values"][0, :, 0, 0, 0] + 1) * 127.5).round().astype(int) // 5
    assert out["pixel_values"].shape == (1, 5, 3, 12, 12) and levels.tolist() == [0, 9, 19, 29, 39] and out["m"].all()
    times = ["00:00", "00:36", "01:16", "01:56", "02:36"]
    text = "a(five|0:02:40)" + "".join(f"<{time}>" + "<i>" * 3 for time in times) + ".b"
    assert out["input_ids"][0].tolist() == ids(made, text)


def test_frames_without_a_rate_are_all_taken() -> None:
    made = own(fps=2)
    out = made("<v>", videos=[FRAMES[:5]])
    wanted = "(five|0:00:02)" + "".join(f"<00:0{k // 2}>" + "<i>" * 3 for k in range(5)) + "."
    assert out["input_ids"][0].tolist() == ids(made, wanted) and out["pixel_values"].shape[1] == 5


def test_the_ends_of_long_videos_are_left_out() -> None:
    """300 frames at ten a second are longer than four frames at one a second show: a second goes at both ends."""
    assert frame_indices(300, 10.0, Clip(max_frames=4)) == [10, 103, 196, 290]
    assert frame_indices(300, 10.0, Clip(max_frames=4, trim=0)) == [0, 99, 199, 299]
    assert frame_indices(300, 10.0, Clip(max_frames=64))[-2:] == [288, 299]
    assert frame_indices(1, 30.0, Clip()) == [0] and frame_indices(2, 0.5, Clip(fps=5)) == [0, 1]


def test_as_in_transformers(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same frames and, but for what is around them, the same text."""
    pytest.importorskip("transformers", minversion="5.0")
    from transformers.models.smolvlm import processing_smolvlm as theirs
    from transformers.models.smolvlm.video_processing_smolvlm import SmolVLMVideoProcessor
    from transformers.video_utils import VideoMetadata

    rng = np.random.default_rng(2)
    for _ in range(60):
        count, rate, most, fps = (
            int(rng.integers(1, 900)),
            float(rng.choice([0.3, 1, 23.976, 30])),
            int(rng.integers(1, 70)),
            rng.choice([1, 0.5, 3]),
        )
        data = VideoMetadata(total_num_frames=count, fps=rate, duration=count / rate)
        wanted = SmolVLMVideoProcessor.sample_frames(None, data, num_frames=most, fps=fps)
        assert frame_indices(count, rate, Clip(fps=fps, max_frames=most)) == wanted.tolist()
    chosen = frame_indices(40, 0.25, Clip(max_frames=5))
    data = VideoMetadata(total_num_frames=40, fps=0.25, duration=160.0, frames_indices=chosen)
    monkeypatch.setattr(theirs, "num2words", lambda n: {5: "five"}[n])
    around = SimpleNamespace(image_seq_len=3, image_token="<i>", fake_image_token="<f>", global_image_token="<g>")
    given = {"pixel_values": np.zeros((1, 5)), "video_metadata": [data]}
    wanted = theirs.SmolVLMProcessor.replace_video_token(around, given, 0)
    tables = {
        "pixel_values": {"type": "processor.split", "size": 12, "longest": 24, "video": {"max_frames": 5}},
        "input_ids": {"type": "processor.text", "place": {"<v>": {"node": "v", "media": "video", "expand": {
            "start": "You are provided the following series of {count} frames from a {duration} [H:MM:SS] video.\n",
            "part": "\nFrame from {minutes:02}:{seconds:02}:<f><g>{tokens}<f>", "end": "\n\n"}}}},
    }  # fmt: skip
    made = build_processor(tables, TOKENS, {"v": 3})
    assert made("<v>", videos=Video(FRAMES, fps=0.25))["input_ids"][0].tolist() == ids(made, wanted)


def test_pictures_and_videos_in_their_order() -> None:
    made = own()
    video, picture = Video(FRAMES[:2], fps=1.0), PIL.Image.new("RGB", (24, 12), (250, 0, 0))
    out = made("<i>x<v>", pixel_values=[[picture, video]])
    levels = ((out["pixel_values"][0, :, 0, 0, 0] + 1) * 127.5).round().astype(int)
    assert levels.tolist() == [250, 250, 250, 0, 5]
    assert (out["input_ids"] == 300).sum() == 5 * 3
    with pytest.raises(DiagnosticError, match=r"VG0708.*<v> stands for a video, but entry 0"):
        made("<v>x<i>", pixel_values=[[picture, video]])
    with pytest.raises(DiagnosticError, match=r"VG0708.*has 1 <i> or <v> for 2 pictures"):
        made("<v>", pixel_values=[[picture, video]])


def test_questions() -> None:
    """A video of a message writes its own placeholder, and `ask` puts it first."""
    made = own()
    said = [{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": "?"}]}]
    assert made.apply_chat(said) == "User: <v>?\nAssistant:"
    out = made.ask("?", videos=Video(FRAMES[:2], fps=1.0))
    assert out["pixel_values"].shape[1] == 2 and (out["input_ids"] == 300).sum() == 6
    assert made.ask("?", images=FRAMES[0])["pixel_values"].shape[1] == 3


def test_what_takes_no_videos() -> None:
    tables: dict[str, Any] = {"pixel_values": {"type": "processor.split", "size": 12, "longest": 24}}
    with pytest.raises(DiagnosticError, match=r"VG0707.*takes no videos"):
        build_processor(tables, {}, {})(pixel_values=[Video(FRAMES[:2])])
    tables["input_ids"] = {"type": "processor.text", "place": {"<v>": {"node": "v", "media": "video", "expand": SAID}}}
    with pytest.raises(DiagnosticError, match=r"VG0701.*is not cut into"):
        build_processor(tables, TOKENS, {"v": 3})


@pytest.mark.parametrize(
    ("number", "said"),
    [(0, "zero"), (13, "thirteen"), (20, "twenty"), (64, "sixty-four"), (100, "one hundred"), (101, "one hundred and one"),
     (999, "nine hundred and ninety-nine"), (1000, "one thousand"), (1005, "one thousand and five"),
     (2345, "two thousand, three hundred and forty-five")],
)  # fmt: skip
def test_words(number: int, said: str) -> None:
    assert words(number) == said
