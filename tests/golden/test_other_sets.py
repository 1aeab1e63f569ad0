"""`--golden-dir` with sets of other dims: written here by our own modules in the vectors' format, read by the tests as they stand."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from tests.golden import test_blip2, test_cogvlm, test_flamingo
from tests.golden.conftest import HERE, Vectors, flat
from vlmgraph.weights.layouts import read_layout
from vlmgraph.weights.load import state_tensors
from vlmgraph.weights.rules import Account

ROOT = HERE.parent.parent


class Recording(Vectors):
    """Stands in for a set that does not exist yet: random weights, and every tensor that a test would compare is written down."""

    def fill(self, module: nn.Module, layout: str, **values: Any) -> None:
        source = torch.Generator().manual_seed(11)
        with torch.no_grad():
            for parameter in module.parameters():
                noise = torch.randn(parameter.shape, generator=source)
                parameter.copy_(0.15 * noise if parameter.dim() > 1 else parameter + 0.2 * noise)
        rules = read_layout(HERE / "layouts" / f"{layout}.toml", {**flat(self.config), **values})
        saved = rules.save(dict(state_tensors(module)))
        self.tensors.update({f"param.{key}": tensor.detach().clone() for key, tensor in saved.items()})
        self.layouts[id(module)] = (rules, Account(layout, sources={key: (key,) for key in saved}))

    def close(self, name: str, ours: Tensor, where: Tensor | None = None, factor: float = 1.0, first: int | None = None) -> None:
        if first is None or name not in self.tensors:
            self.tensors[name] = ours.detach().clone()

    def same(self, name: str, ours: Tensor) -> None:
        self.tensors[name] = ours.clone()

    def gradients_close(self, module: nn.Module, without: tuple[str, ...] = ()) -> None:
        for key, grad in self.gradients(module).items():
            self.tensors[f"out.grad_norm.{key}"] = grad.norm()

    def write(self, folder: Path, part: str) -> None:
        target = folder / part
        target.parent.mkdir(parents=True, exist_ok=True)
        save_file({name: tensor.contiguous() for name, tensor in self.tensors.items()}, target.with_suffix(".safetensors"))
        target.with_suffix(".json").write_text(json.dumps(self.about))


def recording(part: str, inputs: dict[str, Tensor], **changes: Any) -> Recording:
    """A set for `part` with its JSON's dims changed; tables within are given as tables."""
    about = copy.deepcopy(Vectors(HERE / part).about)
    for key, value in changes.items():
        about["config"][key] = {**about["config"][key], **value} if isinstance(value, dict) else value
    made = Recording(Path(part))
    made.__dict__["about"] = about
    made.__dict__["tensors"] = dict(inputs)
    return made


def noise(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def resampler() -> Recording:
    made = recording("10-flamingo/resampler", {"in.x": noise(2, 4, 2, 9, 26)}, dim=26, depth=2, dim_head=4, heads=2, num_latents=7,
                     max_num_media=6, max_num_frames=3, ff_mult=3)  # fmt: skip
    test_flamingo.test_resampler(made)
    return made


def gated_block() -> Recording:
    places = torch.zeros(2, 9, dtype=torch.bool)
    places[0, [2, 5]] = places[1, [0]] = True
    inputs = {"in.x": noise(2, 9, 20), "in.media": noise(2, 2, 3, 14), "in.media_locations": places, "in.x_tail": noise(2, 4, 20)}
    made = recording(
        "10-flamingo/gated_xattn", inputs, dim=20, dim_visual=14, dim_head=6, heads=2, ff_mult=3, latents_per_medium=3, media=2
    )
    test_flamingo.test_gated_block(made)
    return made


def flamingo() -> Recording:
    ids = torch.randint(1, 40, (2, 11), generator=torch.Generator().manual_seed(2))
    ids[0, [1, 6]] = ids[1, [3]] = 44
    mask = torch.ones(2, 11, dtype=torch.long)
    mask[1, 9:] = 0
    labels = ids.masked_fill((ids == 44) | (mask == 0), -100)
    inputs = {
        "in.lang_x": ids,
        "in.attention_mask": mask,
        "in.labels": labels,
        "in.lang_tail": ids[:, -3:].clone(),
        "in.vision_x": noise(2, 2, 1, 3, 15, 15),
    }
    made = recording("10-flamingo/model", inputs, media_token_id=44, eoc_token_id=43,
                     vision={"image": 15, "patch": 5, "width": 18, "layers": 3, "heads": 3},
                     resampler={"depth": 1, "num_latents": 4, "heads": 2}, xattn={"every_n_layers": 3, "heads": 2},
                     lm={"hidden": 32, "layers": 3, "heads": 4, "intermediate": 36, "vocab": 45})  # fmt: skip
    test_flamingo.test_model(made)
    test_flamingo.test_later_text_stays_with_the_last_image(made)
    return made


def blip_2() -> Recording:
    lengths = torch.tensor([7, 4, 6, 3])
    mask = (torch.arange(7) < lengths[:, None]).long()
    ids = torch.randint(3, 30, (4, 7), generator=torch.Generator().manual_seed(2)) * mask
    ids[:, 0] = 1
    inputs = {"in.image": noise(4, 3, 18, 18), "in.ids": ids, "in.mask": mask,
              "out.negative_image_index": torch.tensor([1, 2, 3, 0]), "out.negative_text_index": torch.tensor([3, 0, 1, 2])}  # fmt: skip
    made = recording("18-blip-2/stage1", inputs, embed_dim=9, dec_id=40, label_smoothing=0.2,
                     vision={"image": 18, "patch": 6, "width": 24, "layers": 1, "heads": 3, "mlp": 50},
                     qformer={"hidden": 20, "layers": 3, "heads": 2, "intermediate": 28, "vocab": 41, "max_positions": 12,
                              "queries": 6})  # fmt: skip
    model = test_blip2.built(made)
    test_blip2.test_losses_and_gradients(made, model)
    test_blip2.test_every_program(made, model)
    test_blip2.test_three_masks(made, model)
    return made


def cogvlm() -> Recording:
    ids = torch.tensor([1, *[0] * 6, 20, 21, 22])
    inputs = {"in.images": noise(1, 3, 16, 16), "in.input_ids": ids, "in.text_ids": torch.tensor([9, 8, 7, 6, 5])}
    made = recording("87-cogvlm/sat_vision_expert_lm", inputs, image_size=16, patch=8, image_length=4, dim=24, mlp=36, heads=2, layers=3,
                     vocab=33, vit_dim=20, vit_heads=2, vit_mlp=28, vit_layers=1, two_images=False)  # fmt: skip
    test_cogvlm.test_model(made)
    return made


def read(part: str, folder: Path) -> Vectors:
    return Vectors(folder / part)


PARTS: dict[str, tuple[Callable[[], Recording], list[Callable[[Vectors], None]], str]] = {
    "10-flamingo/resampler": (resampler, [test_flamingo.test_resampler], "out.latents"),
    "10-flamingo/gated_xattn": (gated_block, [test_flamingo.test_gated_block], "out.y_cached"),
    "10-flamingo/model": (flamingo, [test_flamingo.test_model, test_flamingo.test_later_text_stays_with_the_last_image], "out.loss"),
    "18-blip-2/stage1": (
        blip_2,
        [
            lambda v, f=f: f(v, test_blip2.built(v))
            for f in (test_blip2.test_losses_and_gradients, test_blip2.test_every_program, test_blip2.test_three_masks)
        ],
        "out.loss_itm",
    ),
    "87-cogvlm/sat_vision_expert_lm": (cogvlm, [test_cogvlm.test_model], "out.text_only_logits"),
}


WHOLE = ("10-flamingo/model", "18-blip-2/stage1", "87-cogvlm/sat_vision_expert_lm")


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * (name in WHOLE)) for name in PARTS])
def test_other_dims(name: str, tmp_path: Path) -> None:
    """The same tests pass on it as they are; with one value in a recorded tensor or a weight changed they do not."""
    record, tests, output = PARTS[name]
    made = record()
    made.write(tmp_path, name)
    for test in tests:
        test(read(name, tmp_path))
    weight = next(key for key in made.tensors if key.startswith("param.") and key.endswith((".weight", "latents")))
    for key in (output, weight):
        kept = made.tensors[key].clone()
        made.tensors[key] = kept + torch.linspace(0.3, -0.2, kept.numel()).view(kept.shape)
        made.write(tmp_path, name)
        with pytest.raises(AssertionError):
            for test in tests:
                test(read(name, tmp_path))
        made.tensors[key] = kept


@pytest.mark.slow
def test_the_option(tmp_path: Path) -> None:
    """One part as recorded, one with a wrong value, no others."""
    resampler().write(tmp_path, "10-flamingo/resampler")
    wrong = gated_block()
    wrong.tensors["out.y"] += 0.01
    wrong.write(tmp_path, "10-flamingo/gated_xattn")
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "tests/golden/test_flamingo.py",
        "--golden-dir",
        str(tmp_path),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1 and "1 failed, 1 passed, 2 skipped" in done.stdout, done.stdout
    assert "out.y: relative error" in done.stdout
