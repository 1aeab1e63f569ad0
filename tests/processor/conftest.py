"""The processor tables of the bundled specs, photos, and processors built of them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

from vlmgraph.ir.types import parse_type
from vlmgraph.processor import Processor, build_processor
from vlmgraph.processor.native import grid_tokens

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

SPECS = Path(__file__).parents[2] / "specs"
FIXED = {"projector": 576, "wrap": 1227, "llm_proj": 32, "und_adaptor": 576, "gen_adaptor": 576}


def read(path: Path) -> dict[str, Any]:
    return tomllib.loads(path.read_text(encoding="utf-8"))


def counts(node: str, inputs: Any) -> list[int]:
    """What the compiler derives from the graph: fixed numbers, and t * h * w / 4 for Qwen2-VL."""
    if node == "visual":
        return grid_tokens(inputs["image_grid_thw"], 2)
    if node == "visual_video":
        return grid_tokens(inputs["video_grid_thw"], 2)
    name = "gen_values" if node == "gen_adaptor" else "pixel_values"
    return [FIXED[node]] * len(inputs[name])


@pytest.fixture(scope="session")
def tables() -> Callable[[str], dict[str, Any]]:
    return lambda name: read(SPECS / f"{name}.toml")


@pytest.fixture(scope="session")
def load() -> Callable[[Path], dict[str, Any]]:
    return read


@pytest.fixture(scope="session")
def build(tables: Callable[[str], dict[str, Any]]) -> Callable[..., Processor]:
    def made(name: str, change: dict[str, dict[str, Any]] | None = None, **options: Any) -> Processor:
        spec = tables(name)
        for entry, fields in (change or {}).items():
            spec["processor"][entry] |= fields
        inputs = {key: parse_type(text) for key, text in spec["inputs"].items()}
        return build_processor(spec["processor"], spec["tokens"], counts, inputs=inputs, **options)

    return made


@pytest.fixture(scope="session")
def photos() -> dict[str, PIL.Image.Image]:
    """Two real photographs (640 x 427) and odd sizes of them."""
    found = find_spec("sklearn")  # not imported: its photos are files
    if found is None or not found.submodule_search_locations:
        pytest.skip("scikit-learn, which ships the photos, is not installed")
    folder = Path(found.submodule_search_locations[0], "datasets/images")
    china, flower = (PIL.Image.open(folder / f"{name}.jpg").convert("RGB") for name in ("china", "flower"))
    noise = np.random.default_rng(7).integers(0, 256, (90, 1200, 3), dtype=np.uint8)
    return {
        "china": china,
        "flower": flower,
        "upright": china.crop((100, 0, 301, 427)),
        "small": flower.resize((37, 23)),
        "pixel": china.crop((5, 5, 6, 6)),
        "line": flower.crop((0, 9, 300, 10)),
        "wide": PIL.Image.fromarray(noise),
    }
