"""KOSMOS-2's decoder and connector against the released code of microsoft/unilm: values, loss and gradients, first weights."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch.nn.functional as F
from torch import Tensor, nn

import vlmgraph
from tests.golden.conftest import Vectors
from vlmgraph.nn.init import sub_ln


class Table(nn.Module):
    """The record's own positions in the place of sines and cosines."""

    def __init__(self, rows: Tensor) -> None:
        super().__init__()
        self.rows = rows

    def forward(self, positions: Tensor) -> Tensor:
        return self.rows[positions.clamp(min=0)]


def spec(c: dict[str, Any]) -> dict[str, Any]:
    heads = {"heads": c["heads"], "head_dim": c["dim"] // c["heads"]}
    decoder = {
        "vocab": c["vocab"],
        "layers": c["layers"],
        "width": c["dim"],
        "heads": c["heads"],
        "mlp": c["ffn"],
        "scale": c["dim"] ** 0.5,
    }
    vision = {"image_size": 42, "layers": 1, "width": c["img_dim"], "heads": 2, "mlp": 8}
    tags = {name: {"remove": True} for name, id in vlmgraph.read_spec("kosmos-2").data["tokens"].items() if id >= c["vocab"]}
    return {
        "vlmgraph": 1, "extends": "kosmos-2", "expect": {"remove": True}, "tokens": tags,
        "inputs": {"pixel_values": "image[N, 3, 42, 42]?"},
        "components": {"vision": vision, "resampler": {"queries": c["latents"], **heads}, "llm": decoder},
        "processor": {name: {"remove": True} for name in ("pixel_values", "input_ids", "boxes")},
    }  # fmt: skip


@pytest.mark.part("66-kosmos-1/whole_model_absolute")
def test_decoder_and_connector(vectors: Vectors) -> None:
    """Two images in a text, one, none; their features come with length one."""
    model = vlmgraph.compile(vlmgraph.read_spec(spec(vectors.config)))
    parts = nn.ModuleDict({name: model.get_submodule(name) for name in ("dense", "resampler", "embed", "llm", "head")})
    vectors.fill(parts, "unilm-kosmos")
    model.llm.position = Table(vectors.given("positions"))
    ids, where = vectors.given("tokens"), vectors.given("image_mask")
    real = ids != 1
    images = model.resampler(model.dense(vectors.given("image_features").transpose(0, 1)))
    vectors.close("mid.image_embeds", images)
    x = model.splice(text=model.embed(ids), ids=ids, where=where, vision=images, mask=real)["out"]
    states = model.llm(model.scaled(x), mask=real, positions=model.positions(ids)["positions"], taps=(1,))
    vectors.close("mid.hidden_layer1", states["hidden.1"], real)
    logits = model.head(states["out"])
    vectors.close("out.logits", logits, real)
    counts = vectors.given("loss_mask")
    loss = F.cross_entropy(logits[counts], vectors.given("targets")[counts], reduction="sum")
    vectors.close("out.loss_sum", loss)
    loss.backward()
    vectors.gradients_close(parts)


@pytest.mark.part("66-kosmos-1/subln_init")
def test_first_weights(vectors: Vectors) -> None:
    """How much larger than a linear layer's own the first weights and biases are."""
    names = {
        "self_attn.q_proj": "q",
        "self_attn.k_proj": "k",
        "self_attn.v_proj": "v",
        "self_attn.out_proj": "out",
        "ffn.fc1": "fc1",
        "ffn.fc2": "fc2",
    }
    block = nn.ModuleDict({ours: nn.Linear(6, 6) for ours in names.values()})
    before = {name: p.detach().clone() for name, p in block.named_parameters()}
    sub_ln(block, vectors.config["layers"])
    for theirs, ours in names.items():
        for kind in ("weight", "bias"):
            ratio = block.get_parameter(f"{ours}.{kind}").norm() / before[f"{ours}.{kind}"].norm()
            wanted = vectors.tensors[f"out.ratio.layers.0.{theirs}.{kind}"]
            assert math.isclose(ratio.item(), wanted.item(), rel_tol=vectors.tolerance)
