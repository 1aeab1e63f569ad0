"""Every mode becomes upright RGB; everything that is no picture becomes a diagnostic that names it."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vlmgraph.diagnostics.core import DiagnosticError
from vlmgraph.processor.pictures import open_picture


def code_of(source: Any) -> tuple[str, str]:
    with pytest.raises(DiagnosticError) as caught:
        open_picture(source)
    (diagnostic,) = caught.value.diagnostics
    assert diagnostic.fix
    return diagnostic.code, diagnostic.message


@pytest.mark.parametrize(
    "mode", ["1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB", "HSV", "I", "F", "I;16"]
)
def test_every_mode(mode: str) -> None:
    image = PIL.Image.new(mode, (5, 3))
    result = open_picture(image)
    assert result.mode == "RGB"
    assert result.size == (5, 3)


def test_16_bit_grey_is_scaled_not_clipped(tmp_path: Path) -> None:
    values = np.array([[0, 256, 32768, 65535]], dtype=np.uint16)
    path = tmp_path / "deep.png"
    PIL.Image.fromarray(values).save(path)
    assert np.asarray(open_picture(path))[0, :, 0].tolist() == [0, 1, 128, 255]


def test_floats_in_the_unit_range_are_scaled() -> None:
    assert np.asarray(open_picture(PIL.Image.fromarray(np.array([[0.0, 0.5, 1.0]], dtype=np.float32))))[0, :, 1].tolist() == [0, 127, 255]
    assert np.asarray(open_picture(PIL.Image.fromarray(np.array([[-5.0, 99.0, 900.0]], dtype=np.float32))))[0, :, 1].tolist() == [
        0,
        99,
        255,
    ]
    assert code_of(PIL.Image.fromarray(np.array([[np.nan]], dtype=np.float32)))[0] == "VG0704"


def test_transparency_lies_on_white_or_is_dropped(tmp_path: Path) -> None:
    clear = PIL.Image.new("RGBA", (2, 2), (200, 0, 0, 0))
    assert open_picture(clear).getpixel((0, 0)) == (255, 255, 255)
    assert open_picture(clear, "drop").getpixel((0, 0)) == (200, 0, 0)
    assert open_picture(clear, (1, 2, 3)).getpixel((0, 0)) == (1, 2, 3)
    palette = PIL.Image.new("P", (2, 2), 1)
    palette.putpalette([0, 0, 0, 9, 8, 7])
    palette.save(tmp_path / "p.png", transparency=1)
    assert open_picture(tmp_path / "p.png").getpixel((0, 0)) == (255, 255, 255)
    palette.save(tmp_path / "q.png")
    assert open_picture(tmp_path / "q.png").getpixel((0, 0)) == (9, 8, 7)


@pytest.mark.parametrize(("orientation", "corner"), [(1, (0, 0)), (3, (5, 3)), (6, (3, 0)), (8, (0, 5))])
def test_exif_orientation(orientation: int, corner: tuple[int, int], tmp_path: Path) -> None:
    image = PIL.Image.new("RGB", (6, 4))
    image.putpixel((0, 0), (255, 255, 255))
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    image.save(tmp_path / "o.png", exif=exif)
    turned = open_picture(tmp_path / "o.png")
    assert turned.size == ((6, 4) if orientation in (1, 3) else (4, 6))
    assert turned.getpixel(corner) == (255, 255, 255)


def test_the_first_frame_is_taken(tmp_path: Path) -> None:
    frames = [PIL.Image.new("RGB", (4, 4), c) for c in ((255, 0, 0), (0, 255, 0))]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    image = PIL.Image.open(tmp_path / "a.gif")
    image.seek(1)
    assert open_picture(image).getpixel((0, 0)) == (255, 0, 0)


def test_arrays_and_bytes() -> None:
    pixels = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    assert np.array_equal(np.asarray(open_picture(pixels)), pixels)
    buffer = io.BytesIO()
    PIL.Image.fromarray(pixels).save(buffer, "PNG")
    assert np.array_equal(np.asarray(open_picture(buffer.getvalue())), pixels)


def _png(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def test_bad_files(tmp_path: Path) -> None:
    photo = tmp_path / "photo.jpg"
    PIL.Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(photo)
    whole = photo.read_bytes()
    files = {
        "empty.jpg": (b"", "VG0706"),
        "notes.jpg": (b"these are words, not pixels" * 20, "VG0703"),
        "cut.jpg": (whole[: len(whole) // 2], "VG0704"),
        "header.jpg": (whole[:2], "VG0703"),
        "bomb.png": (_png(60_000, 60_000), "VG0705"),
        "large.png": (_png(14_000, 14_000), "VG0705"),
        "hollow.png": (_png(50, 50), "VG0704"),
    }
    for name, (data, code) in files.items():
        path = tmp_path / name
        path.write_bytes(data)
        found, message = code_of(path)
        assert found == code, name
        assert name in message
    assert code_of(tmp_path / "absent.jpg")[0] == "VG0702"
    assert code_of(tmp_path)[0] == "VG0702"
    assert code_of("a\0b.jpg")[0] == "VG0704"
    assert code_of(b"")[0] == "VG0706"


def test_bad_objects() -> None:
    assert code_of(PIL.Image.new("RGB", (0, 4)))[0] == "VG0706"
    assert code_of(np.zeros((0, 4, 3), dtype=np.uint8))[0] == "VG0706"
    assert code_of(np.zeros((4, 4, 3)))[0] == "VG0703"
    assert code_of(np.zeros((4, 4, 7), dtype=np.uint8))[0] == "VG0703"
    assert code_of(42)[0] == "VG0703"
    assert code_of(None)[0] == "VG0703"


_BUFFERS = {}
for _kind in ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP"):
    _buffer = io.BytesIO()
    PIL.Image.fromarray(np.random.default_rng(3).integers(0, 256, (20, 20, 3), dtype=np.uint8)).save(_buffer, _kind)
    _BUFFERS[_kind] = _buffer.getvalue()


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.sampled_from(sorted(_BUFFERS)), st.data())
def test_damaged_bytes_never_end_in_a_traceback(kind: str, data: st.DataObject) -> None:
    """A damaged file is a picture or a diagnostic."""
    content = bytearray(_BUFFERS[kind][: data.draw(st.integers(1, len(_BUFFERS[kind])))])
    for _ in range(data.draw(st.integers(0, 6))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    try:
        assert open_picture(bytes(content)).mode == "RGB"
    except DiagnosticError as error:
        assert error.diagnostics[0].code in {"VG0703", "VG0704", "VG0705", "VG0706"}
