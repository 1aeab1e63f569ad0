"""moondream2's code of May 2024 and of 2025: pictures to crops, crops to tokens, and objects as numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor

import vlmgraph
from tests.golden.conftest import Vectors
from vlmgraph.api import elaborate
from vlmgraph.lower.model import CompiledModel
from vlmgraph.lower.value_loop import locate
from vlmgraph.nn.stitch import Stitch
from vlmgraph.processor import Processor
from vlmgraph.processor.crops import crop_grid, cut
from vlmgraph.processor.crops_config import Crops
from vlmgraph.processor.model import model_processor
from vlmgraph.weights.import_config import import_config


def opened(folder: Path, config: dict[str, Any], weights: dict[str, Tensor]) -> tuple[CompiledModel, Processor]:
    """Every key of the file accounted for, and the same file when it is saved."""
    (folder / "config.json").write_text(json.dumps({"model_type": "moondream1", **config}))
    save_file(weights, folder / "model.safetensors")
    model = vlmgraph.load(folder)
    model.save(folder / "again", format="transformers")
    again = load_file(folder / "again/model.safetensors")
    assert again.keys() == weights.keys() and all(torch.equal(again[key], weights[key]) for key in weights)
    spec = vlmgraph.read_spec(import_config(folder / "config.json").spec)
    return model, model_processor(spec, elaborate(spec), folder)


def painted(width: int, height: int, index: int) -> PIL.Image.Image:
    """The picture that the record's JSON gives as a formula."""
    y, x, k = np.meshgrid(np.arange(height), np.arange(width), np.arange(3), indexing="ij")
    value = 127 + 80 * np.sin(0.07 * x * (k + 1) + 0.04 * y + index) + 40 * np.cos(0.05 * y * (k + 1) - 0.02 * x)
    return PIL.Image.fromarray(np.clip(np.round(value), 0, 255).astype(np.uint8))


@pytest.mark.part("63-moondream/crops_2025")
def test_crops(vectors: Vectors) -> None:
    """Grids of 65 sizes, every pixel that is recorded, and maps put together without a gap."""
    config = Crops(size=378, overlap=56, max=12, resample="lanczos", stats=0.5)
    for (width, height), grid in zip(vectors.given("sizes_w_h").tolist(), vectors.tensors["out.tilings"].tolist(), strict=True):
        assert list(crop_grid(height, width, config)) == grid, (width, height)
    for i, (width, height) in enumerate(vectors.config["images"]):
        whole, parts, grid = cut(painted(width, height, i), config)
        vectors.same(f"out.tiling_{i}", torch.tensor(grid))
        pixels = np.round((np.concatenate([whole[None], parts]) + 1) * 127.5)[:, :, 5::31, 7::29].transpose(0, 2, 3, 1)
        vectors.same(f"out.crops_sampled_{i}", torch.tensor(pixels))
        features = vectors.given(f"features_{i}").flatten(1, 2)
        got = Stitch(27, 27, margin=4, mode="average")(features, torch.tensor([grid]))
        wanted = F.adaptive_avg_pool2d(vectors.tensors[f"out.stitched_{i}"].permute(2, 0, 1), 27).flatten(1).T
        assert (got[0] - wanted).abs().max() < 1e-5


@pytest.mark.part("63-moondream/vision_2024_05")
def test_tiles(vectors: Vectors, tmp_path: Path) -> None:
    """Four pictures of four grids in one call; of the words, which are not recorded, any."""
    c = vectors.config
    vision = {
        "model_type": "siglip_vision_model", "hidden_size": c["v_dim"], "intermediate_size": c["v_ff"], "num_hidden_layers": c["v_layers"],
        "num_attention_heads": c["v_heads"], "image_size": c["grid"] * c["patch"], "patch_size": c["patch"], "vision_use_head": False,
        "layer_norm_eps": 1e-5,
    }  # fmt: skip
    words = {"model_type": "phi", "hidden_size": c["dim"], "intermediate_size": 20, "num_hidden_layers": 1, "num_attention_heads": 1,
             "partial_rotary_factor": 0.4, "vocab_size": 30}  # fmt: skip
    config = {"architectures": ["Moondream"], "vision_config": vision, "text_config": words}
    weights = {f"vision_encoder.{key}": value for key, value in vectors.group("param.").items()}
    wide = c["dim"]
    shapes = {"ln": (wide,), "mixer.Wqkv": (3 * wide, wide), "mixer.out_proj": (wide, wide), "mlp.fc1": (20, wide), "mlp.fc2": (wide, 20)}
    shapes = {f"transformer.h.0.{name}": shape for name, shape in shapes.items()} | {"lm_head.ln": (wide,), "lm_head.linear": (30, wide)}
    for name, shape in shapes.items():
        weights |= {f"text_model.{name}.weight": torch.randn(shape), f"text_model.{name}.bias": torch.randn(shape[0])}
    weights["text_model.transformer.embd.wte.weight"] = torch.randn(30, wide)
    model, _ = opened(tmp_path, config, weights)
    crops = Crops(size=c["grid"] * c["patch"], choose="nearest", small=c["max_dim_single"], whole="canvas", stats=0.5)
    made = [cut(PIL.Image.fromarray(vectors.given(f"image_{i}").numpy()), crops) for i in range(len(c["images"]))]
    for i, (_, parts, (rows, columns)) in enumerate(made):
        canvas = np.concatenate([np.concatenate(parts[row * columns :][:columns], 2) for row in range(rows)], 1)
        vectors.close(f"mid.pixels_{i}", torch.from_numpy(canvas))
    inputs = {
        "pixel_values": torch.from_numpy(np.stack([whole for whole, *_ in made])),
        "tiles": torch.from_numpy(np.concatenate([parts for _, parts, _ in made])),
        "tile_grid": torch.tensor([grid for *_, grid in made]),
    }
    assert inputs["tile_grid"].tolist() == [[1, 1], [1, 2], [2, 2], [2, 1]]
    with torch.no_grad():
        vectors.close("out.image_embeds", model.programs["encode_image"](**inputs)["projection"])


@pytest.mark.part("63-moondream/whole_model_2025")
def test_whole_model(vectors: Vectors, tmp_path: Path) -> None:
    """From pictures to logits, boxes and points."""
    c = vectors.config
    config = {
        "architectures": ["HfMoondream"],
        "config": {
            "text": {"dim": c["dim"], "ff_dim": c["ff"], "n_layers": c["layers"], "vocab_size": c["vocab"], "n_heads": c["heads"],
                     "max_context": c["max_context"], "prefix_attn": c["grid"] ** 2 + 1},
            "vision": {"enc_dim": c["v_dim"], "enc_patch_size": c["patch"], "enc_n_layers": c["grid"], "enc_ff_dim": c["v_ff"],
                       "enc_n_heads": c["v_heads"], "proj_out_dim": c["dim"], "crop_size": c["crop"], "in_channels": 3,
                       "max_crops": c["max_crops"], "overlap_margin": c["margin"], "proj_inner_dim": c["proj_inner"]},
            "region": {"dim": c["dim"], "coord_feat_dim": c["coord_feat"], "coord_out_dim": c["coord_bins"],
                       "size_feat_dim": c["size_feat"], "size_out_dim": 2 * c["size_bins"], "inner_dim": c["region_inner"]},
            "tokenizer": {"bos_id": 0, "eos_id": 0, "templates": {"detect": {"prefix": c["detect_prefix"], "suffix": [3]}}},
        },
    }  # fmt: skip
    weights = {f"model.{key}": value for key, value in vectors.group("param.").items()}
    model, ready = opened(tmp_path, config, weights)
    image = [c["vocab"] - 1] * c["grid"] ** 2
    assert len(c["images"]) > 1
    for i in range(len(c["images"])):
        made = ready(images=[PIL.Image.fromarray(vectors.given(f"image_{i}").numpy())])
        crops = torch.from_numpy(np.concatenate([made["pixel_values"], made["tiles"]]))
        vectors.same(f"out.tiling_{i}", torch.from_numpy(made["tile_grid"][0]))
        assert (crops - vectors.tensors[f"mid.crops_{i}"]).abs().max() < 1e-6
        pictures = {"pixel_values": crops[:1], "tiles": crops[1:], "tile_grid": vectors.tensors[f"out.tiling_{i}"][None]}
        ids = torch.cat([torch.tensor([[0, *image]]), vectors.given(f"prompt_{i}")], 1)
        with torch.no_grad():
            vectors.close(f"mid.encoded_{i}", model.vision(crops))
            vectors.close(f"out.image_embeds_{i}", model.programs["encode_image"](**pictures)["projection"][0])
            vectors.close(f"out.logits_{i}", model(input_ids=ids, **pictures)["logits"])
            embedded = model.splice(model.embed(ids), ids, vision=vectors.tensors[f"out.image_embeds_{i}"])["out"]
            states = model.llm(embedded, prefix=model.prefix(ids), taps=(c["layers"],))
            vectors.close(f"out.hidden_{i}", states[f"hidden.{c['layers']}"])
        for name, recorded, prefix in (("detect", "detect", c["detect_prefix"]), ("point", "points", c["detect_prefix"][:1])):
            prompt = torch.tensor([[0, *image, *prefix, *map(int, c["object"].split()), 3]])
            (found,) = locate(model, name, max_objects=c["max_objects"], input_ids=prompt, **pictures)
            vectors.close(f"out.{recorded}_{i}", found)
    refs = c["spatial_refs"]
    places = [x for r in refs for x in (r if len(r) == 2 else ((r[0] + r[2]) / 2, (r[1] + r[3]) / 2))]
    sizes = [(r[2] - r[0], r[3] - r[1]) for r in refs if len(r) == 4]
    with torch.no_grad():
        vectors.close("out.coord_embeds", model.points(vectors.given("coords")))
        vectors.close("out.size_embeds", model.sizes(vectors.given("sizes")))
        vectors.close("out.coord_logits", model.coord(vectors.given("region_hidden")))
        vectors.close("out.size_logits", model.split(model.size(vectors.given("region_hidden")))[0])
        vectors.close("out.ref_coords", model.points(torch.tensor(places)[:, None]))
        vectors.close("out.ref_sizes", model.sizes(torch.tensor(sizes)))
