"""Images of any aspect ratio, padded to one size: padding images left out, masked patches, positions by fractions of an image."""

from __future__ import annotations

import pytest
import torch

import vlmgraph
from tests.nn.stack_reference import CLIP, close, fill, shake
from vlmgraph.components.vision.vit import VisionTransformer
from vlmgraph.nn.padding import RealImages
from vlmgraph.nn.position import FractionalPositions

transformers = pytest.importorskip("transformers")

SPEC = {
    "vlmgraph": 1,
    "model": {"name": "any-aspect"},
    "inputs": {
        "pixel_values": "image[B, M, 3, H, W]?",
        "pixel_attention_mask": "mask[B, M, H, W]?",
        "input_ids": "ids[B, T]",
    },
    "outputs": {"logits": "logits[B, T, V]"},
    "tokens": {"<image>": 9},
    "components": {
        "images": {"type": "op.real_images", "patch": 4},
        "vision": {
            "type": "vision.vit", "layers": 2, "width": 16, "heads": 2, "mlp": 24, "patch": 4, "image_size": 20, "cls": False,
            "position": "position.fractional",
        },
        "pool": {"type": "op.pool"},
        "projector": {"type": "connector.mlp", "depth": 1},
        "embed": {"type": "text.embedding", "of": "llm"},
        "splice": {"type": "op.splice", "token": "<image>"},
        "llm": {"type": "decoder.transformer", "layers": 1, "width": 24, "heads": 2, "mlp": 48, "vocab": 32},
        "head": {"type": "head.lm", "of": "llm"},
    },
    "graph": {
        "edges": [
            "pixel_values -> images -> vision -> projector -> pool -> splice.vision", "pixel_attention_mask -> images.pixel_mask",
            "input_ids -> [embed, splice.ids]", "embed -> splice.text", "splice -> llm -> head -> logits",
        ]
    },
    "programs": {"encode_image": {"outputs": ["pool"]}, "forward": {"outputs": ["logits"]}},
}  # fmt: skip


def boxes(count: int, height: int, width: int, real: list[tuple[int, int]]) -> torch.Tensor:
    """[count, height, width], True in the upper left corner of the given sizes."""
    mask = torch.zeros(count, height, width, dtype=torch.bool)
    for i, (rows, columns) in enumerate(real):
        mask[i, :rows, :columns] = True
    return mask


@pytest.fixture(scope="module")
def theirs():
    torch.manual_seed(3)
    config = transformers.Idefics2VisionConfig(
        hidden_size=24, intermediate_size=36, num_hidden_layers=2, num_attention_heads=4, image_size=37, patch_size=4
    )
    return shake(transformers.models.idefics2.modeling_idefics2.Idefics2VisionTransformer(config))


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(4)
    return vlmgraph.compile(vlmgraph.read_spec(SPEC)).eval()


@torch.no_grad()
def test_a_tower_over_images_of_any_size_and_their_masks(theirs):
    ours = VisionTransformer(
        image_size=37, patch=4, cls=False, layers=2, width=24, heads=4, mlp=36, act="gelu_tanh", norm_eps=1e-6,
        position={"type": "position.fractional"},
    ).build()  # fmt: skip
    front = [
        (r"embeddings\.patch_embedding\.(.*)", r"patch.proj.\1"),
        (r"embeddings\.position_embedding\.weight", "position.weight"),
        (r"post_layernorm\.(.*)", r"final_norm.\1"),
    ]
    fill(ours, theirs.state_dict(), front + CLIP, r"^encoder\.")
    images = torch.randn(3, 3, 30, 22)  # 7 x 5 patches and a rest
    mask = boxes(3, 7, 5, [(7, 5), (3, 5), (6, 1)])
    expected, out = theirs(images, patch_attention_mask=mask).last_hidden_state, ours(images, mask=mask.flatten(1))
    close(out[mask.flatten(1)], expected[mask.flatten(1)])
    close(ours(images), theirs(images).last_hidden_state)
    noisy = torch.where(mask.repeat_interleave(4, 1).repeat_interleave(4, 2)[:, None], images[..., :28, :20], torch.tensor(5.0))
    assert torch.equal(
        ours(noisy, mask=mask.flatten(1))[mask.flatten(1)], ours(images[..., :28, :20], mask=mask.flatten(1))[mask.flatten(1)]
    )


@torch.no_grad()
@pytest.mark.parametrize("side", [4, 9, 26, 70])
def test_places_are_those_that_the_reference_computes(side):
    """Every number of patches: what single precision does with a fraction on the border of two rows is part of the published weights."""
    config = transformers.Idefics2VisionConfig(hidden_size=1, image_size=side, patch_size=1, num_attention_heads=1)
    theirs = transformers.models.idefics2.modeling_idefics2.Idefics2VisionEmbeddings(config)
    theirs.patch_embedding.weight.zero_()
    theirs.patch_embedding.bias.zero_()
    theirs.position_embedding.weight.copy_(torch.arange(side * side)[:, None])
    ours = FractionalPositions(side, 1)
    for rows in range(1, side + 3):
        mask = boxes(2, side + 2, 5, [(rows, 5), (1, rows % 5 + 1)])
        expected = theirs(torch.zeros(2, 3, side + 2, 5), mask)[..., 0].long()
        assert torch.equal(ours.places(side + 2, 5, mask.flatten(1), mask.device), expected), rows


def test_places_of_published_sizes():
    """A whole grid is read in order; 35 x 28 patches take every second row and five of two columns in seven."""
    places = FractionalPositions(70, 1).places(70, 70, None, torch.device("cpu"))
    assert torch.equal(places[0], torch.arange(4900))
    part = FractionalPositions(70, 1).places(35, 28, None, torch.device("cpu")).view(35, 28)
    assert (part[:, 0] // 70).tolist() == list(range(0, 70, 2)) and part[0, :5].tolist() == [0, 2, 5, 7, 10]


@pytest.mark.parametrize(("covered", "expected"), [("all", [1, 1, 0, 0, 0, 0]), ("any", [1, 1, 1, 1, 1, 1])])
def test_patches_of_partly_real_pixels(covered, expected):
    mask = boxes(1, 9, 13, [(5, 10)])  # 2 x 3 patches of 4 pixels; the last row and column of pixels are behind them
    out = RealImages(4, covered)(torch.ones(1, 3, 9, 13), mask)
    assert out["mask"].long().tolist() == [expected]
    assert torch.equal(RealImages(4, covered)(torch.ones(1, 3, 9, 13), mask.long())["mask"], out["mask"])


def test_images_of_zeros_are_left_out_in_reading_order():
    x = torch.randn(2, 3, 3, 8, 8)
    x[0, 1] = x[1, 0] = 0
    mask = torch.ones(2, 3, 8, 8)
    mask[1, 1, :, 4:] = 0
    out = RealImages(4)(x, mask)
    assert torch.equal(out["out"], torch.stack([x[0, 0], x[0, 2], x[1, 1], x[1, 2]]))
    assert out["mask"].long().tolist() == [[1] * 4, [1] * 4, [1, 0, 1, 0], [1] * 4]
    assert "mask" not in RealImages(4)(x) and len(RealImages(4)(x * 0)["out"]) == 0
    kept = RealImages(4, keep_one=True)
    assert len(kept(x * 0)["out"]) == 1 and torch.equal(kept(x)["out"], out["out"])


@torch.no_grad()
def test_the_mask_travels_from_pixels_to_what_reads_the_tokens(model):
    """No edge names it: the tower's positions and keys, and the pooling behind a projection, see the same mask."""
    torch.manual_seed(1)
    small = torch.randn(3, 12, 8)
    padded = torch.zeros(1, 2, 3, 16, 20)
    padded[0, 0, :, :12, :8] = small
    mask = torch.zeros(1, 2, 16, 20)
    mask[0, 0, :12, :8] = 1
    alone = model.programs["encode_image"](pixel_values=small[None, None])["pool"]
    out = model.programs["encode_image"](pixel_values=padded, pixel_attention_mask=mask)["pool"]
    assert out.shape == alone.shape == (1, 16 + 8)
    torch.testing.assert_close(out, alone, rtol=1e-5, atol=1e-6)  # the order of sums differs
    unmasked = model.programs["encode_image"](pixel_values=padded[:, :1])["pool"]
    assert (unmasked - alone).abs().max() > 1e-2


@torch.no_grad()
def test_text_needs_no_images(model):
    ids = torch.tensor([[1, 2, 3]])
    assert model(input_ids=ids)["logits"].shape == (1, 3, 32)
