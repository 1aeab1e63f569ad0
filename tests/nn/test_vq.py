"""vision.vq: published counts, the tokenizer's laws, and the transformers port."""

from __future__ import annotations

import re

import pytest
import torch
from pydantic import ValidationError

from vlmgraph.components.vision.vq import VQ
from vlmgraph.ir.dims import Dim
from vlmgraph.presets import load_preset

TINY = {"image_size": 16, "channels": 32, "multipliers": (1, 1, 2), "blocks": 1, "latent": 12, "codes": 40, "code_width": 6}


def build(**fields):
    torch.manual_seed(0)
    return VQ(**{**TINY, **fields}).build().eval()


def test_published_counts():
    config = VQ(**load_preset("llamagen-vq-16", "vision.vq").fields)
    with torch.device("meta"):
        module = config.build()
    count = sum(p.numel() for p in module.parameters())
    assert count == config.total() == 71_883_403
    codebook = 16384 * 8
    assert sum(p.numel() for n, p in module.encode.named_parameters() if "code" not in n) == 29_298_176
    assert sum(p.numel() for n, p in module.decode.named_parameters() if "code" not in n) == 42_449_795
    assert config.parameters()["codebook"] == codebook


@pytest.mark.parametrize("fields", [{}, {"multipliers": (2,)}, {"multipliers": (2, 1), "blocks": 2}])
def test_counts_equal_the_module(fields):
    config = VQ(**{**TINY, **fields})
    assert config.total() == sum(p.numel() for p in config.build().parameters())


def test_shapes_and_flops_follow_the_signature():
    config = VQ(**TINY)
    module = build()
    ids = module.encode(image=torch.randn(3, 3, 16, 16))
    assert ids.shape == (3, 16) and ids.dtype == torch.int64
    assert module.decode(ids=ids).shape == (3, 3, 16, 16)
    assert str(config.signature("encode").outputs["out"]).startswith("ids[B, (image_size/4)")
    encode, decode = config.flops({"B": Dim.of("B")}), config.flops({"G": Dim.of("G")})
    assert [str(s) for s in encode.symbols()] == ["B"] and [str(s) for s in decode.symbols()] == ["G"]


def test_flops_are_those_of_the_convolutions():
    """Counted by hooks on the module's own convolutions; attention and the search are added by hand."""
    config, module = VQ(**TINY), build()
    macs = []
    for part in module.modules():
        if isinstance(part, torch.nn.Conv2d):
            part.register_forward_hook(lambda m, _, y: macs.append(m.weight.numel() * y.shape[-1] * y.shape[-2]))
    ids = module.encode(torch.randn(1, 3, 16, 16))
    attention = 2 * 2 * 16**2 * 64  # middle and one block, scores and values
    assert config.flops({"B": Dim.of(1)}).constant == 2 * (sum(macs) + attention + 16 * 40 * 6)
    macs.clear()
    module.decode(ids)
    assert config.flops({"G": Dim.of(1)}).constant == 2 * (sum(macs) + 2 * 3 * 16**2 * 64)


def test_scaling_a_code_leaves_cosine_ids_unchanged():
    module, images = build(), torch.randn(4, 3, 16, 16)
    before = module.encode(images)
    assert before.unique().numel() > 3
    with torch.no_grad():
        module.encode.codebook.weight.mul_(torch.rand(40, 1) * 5 + 0.1)
    assert torch.equal(module.encode(images), before)
    assert not torch.equal(build(distance="euclidean").encode(images * 9), before)


def test_an_id_changes_the_pixels_and_both_sides_share_one_codebook():
    module = build()
    ids = torch.zeros(1, 16, dtype=torch.long)
    other = ids.clone()
    other[0, 3] = 7
    assert not torch.allclose(module.decode(ids), module.decode(other))
    assert module.encode.codebook.weight is module.decode.codebook.weight


def test_the_nearest_code_is_found():
    """A codebook that holds the features themselves gives back their places."""
    module = build(codes=16)
    image = torch.randn(1, 3, 16, 16)
    with torch.no_grad():
        module.encode.codebook.weight.copy_(module.encode.features(image).flatten(0, 2))
    assert torch.equal(module.encode(image)[0], torch.arange(16))


@pytest.mark.parametrize("fields", [{"image_size": 15}, {"multipliers": (1, 0)}, {"channels": 20}, {"distance": "l1"}, {"codes": 0}])
def test_bad_fields(fields):
    with pytest.raises(ValidationError):
        VQ(**{**TINY, **fields})


NAMES = (
    (r"^quantize\.embedding\.", "encode.codebook."),
    (r"^quant_conv\.", "encode.to_code."),
    (r"^post_quant_conv\.", "decode.from_code."),
    (r"^encoder\.", "encode."),
    (r"^decoder\.", "decode."),
    (r"\.conv_in\.", ".stem."),
    (r"\.conv_out\.", ".out."),
    (r"\.norm_out\.", ".norm."),
    (r"\.(down|up)\.(\d+)\.", r".levels.\2."),
    (r"\.block\.", ".blocks."),
    (r"\.attn\.", ".attentions."),
    (r"\.(down|up)sample\.", ".resample."),
    (r"\.nin_shortcut\.", ".shortcut."),
    (r"\.proj_out\.", ".out."),
    (r"\.mid\.block_1\.", ".middle.0."),
    (r"\.mid\.attn_1\.", ".middle.1."),
    (r"\.mid\.block_2\.", ".middle.2."),
)


def rename(key: str) -> str:
    for pattern, new in NAMES:
        key = re.sub(pattern, new, key)
    return key


def test_equals_transformers():
    pytest.importorskip("transformers")
    from transformers.models.janus.configuration_janus import JanusVQVAEConfig
    from transformers.models.janus.modeling_janus import JanusVQVAE

    torch.manual_seed(3)
    reference = JanusVQVAE(
        JanusVQVAEConfig(
            embed_dim=6,
            num_embeddings=40,
            latent_channels=12,
            base_channels=32,
            channel_multiplier=[1, 1, 2],
            num_res_blocks=1,
            num_patches=4,
        )
    ).eval()
    with torch.no_grad():
        for parameter in reference.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        reference.quantize.embedding.weight.copy_(torch.randn(40, 6))
    state = {rename(k): v for k, v in reference.state_dict().items()}
    images = torch.randn(3, 3, 16, 16)
    for distance in ("euclidean", "cosine"):
        module = build(distance=distance)
        missing, extra = module.load_state_dict(state, strict=False)
        assert not extra and missing == ["decode.codebook.weight"]
        with torch.no_grad():
            told = reference.encode(images)
            wanted = told.image_tokens.view(3, -1)
            if distance == "euclidean":
                assert torch.equal(module.encode(images), wanted) and wanted.unique().numel() > 5
            else:
                # the official code: both sides of the search have unit length
                z = reference.quant_conv(told.last_hidden_state).permute(0, 2, 3, 1)
                cosine = torch.nn.functional.cosine_similarity(z.flatten(0, 2)[:, None], reference.quantize.embedding.weight[None], dim=-1)
                assert torch.equal(module.encode(images), cosine.argmax(-1).view(3, -1))
            torch.testing.assert_close(module.decode(wanted), reference.decode(wanted), rtol=1e-5, atol=1e-5)
