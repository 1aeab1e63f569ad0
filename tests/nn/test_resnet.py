"""vision.resnet and connector.attention_pool: published counts, Alpha-CLIP's vectors, SigLIP's pooling head."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file

from vlmgraph.components.connector.attention_pool import AttentionPool
from vlmgraph.components.vision.resnet import ResNet
from vlmgraph.ir.dims import Dim
from vlmgraph.presets import load_preset

GOLDEN = Path(__file__).parents[1] / "golden" / "04-alpha-clip" / "resnet"


def test_published_count():
    """CLIP RN50: 38,316,896 parameters in the image tower, pooling included."""
    body = ResNet(**load_preset("clip-rn50", "vision.resnet").fields)
    pool = AttentionPool(**load_preset("clip-rn50", "connector.attention_pool").fields, d=2048, count=49)
    assert body.total() + pool.total() == 38_316_896
    with torch.device("meta"):
        for config in (body, pool):
            assert sum(p.numel() for p in config.build().parameters()) == config.total()


@pytest.mark.parametrize("fields", [{"layers": (1, 2)}, {"layers": (2, 1, 1), "width": 6, "channels": 4}])
def test_counts_equal_the_module(fields):
    config = ResNet(**fields)
    module = config.build()
    for part, count in config.parameters().items():
        assert sum(p.numel() for n, p in module.named_parameters() if n.startswith(part + ".")) == count


@pytest.mark.parametrize(
    "fields", [{"position": True, "count": 5}, {"query": "learned", "mlp": 10}, {"query": "learned", "position": True, "count": 3}]
)
def test_pool_counts_equal_the_module(fields):
    config = AttentionPool(d=8, out=8, heads=2, **fields)
    module = config.build()
    assert config.total() == sum(p.numel() for p in module.parameters())
    assert module(torch.randn(3, config.count or 4, 8)).shape == (3, 8)


def ours(key):
    """The official names → ours, for the body."""
    stage = lambda m: f"stages.{int(m[1]) - 1}."  # noqa: E731
    key = re.sub(r"^layer(\d)\.", stage, key)
    key = (
        re.sub(r"^(conv|bn)(\d)", r"stem.\1\2", key)
        .replace(".downsample.0.", ".shortcut.conv.")
        .replace(".downsample.1.", ".shortcut.norm.")
    )
    return re.sub(r"bn(\d)", r"norm\1", key)


def test_equals_the_official_vectors():
    tensors, info = load_file(f"{GOLDEN}.safetensors"), json.loads(GOLDEN.with_suffix(".json").read_text())
    c = info["config"]
    params = {k[6:]: v for k, v in tensors.items() if k.startswith("param.")}
    # a second convolution for the mask, added to the first, is one convolution on four channels
    params["conv1.weight"] = torch.cat([params["conv1.weight"], params.pop("conv1_alpha.weight")], dim=1)
    body = ResNet(image_size=c["input_resolution"], layers=c["blocks"], width=c["width"], channels=4)
    module = body.build().eval()
    module.load_state_dict({ours(k): v for k, v in params.items() if not k.startswith("attnpool.")})
    count = (c["input_resolution"] // body.factor) ** 2
    pool = AttentionPool(d=32 * c["width"], out=c["output_dim"], heads=c["heads"], position=True, count=count).build().eval()
    names = {"positional_embedding": "positions"}
    state = {k[9:]: v for k, v in params.items() if k.startswith("attnpool.")}
    pool.load_state_dict(
        {names.get(k, re.sub(r"^(q|k|v)_proj", r"attention.\1", k).replace("c_proj", "attention.out")): v for k, v in state.items()}
    )
    out = pool(module(torch.cat([tensors["in.image"], tensors["in.alpha"]], dim=1)))
    wanted = tensors["out.image_features"]
    assert ((out - wanted).norm() / wanted.norm()).item() < info["tolerance"]


def test_pool_equals_the_head_of_siglip():
    pytest.importorskip("transformers")
    from transformers import SiglipVisionConfig
    from transformers.models.siglip.modeling_siglip import SiglipMultiheadAttentionPoolingHead

    torch.manual_seed(0)
    reference = SiglipMultiheadAttentionPoolingHead(SiglipVisionConfig(hidden_size=12, num_attention_heads=3, intermediate_size=20)).eval()
    with torch.no_grad():
        for parameter in reference.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    from vlmgraph.nn.attention_pool import AttentionPool as Module

    module = Module(12, 3, 12, torch.nn.GELU("tanh"), query="learned", mlp=20)
    state = {}
    for key, value in reference.state_dict().items():
        if match := re.fullmatch(r"attention\.in_proj_(weight|bias)", key):
            state |= {f"attention.{n}.{match[1]}": v for n, v in zip("qkv", value.chunk(3))}
        else:
            key = key.replace("out_proj", "out").replace("layernorm", "norm")
            state["query" if key == "probe" else key] = value[0] if key == "probe" else value
    module.load_state_dict(state)
    x = torch.randn(2, 5, 12)
    torch.testing.assert_close(module(x), reference(x), rtol=1e-5, atol=1e-5)


def test_flops_are_those_of_the_convolutions():
    config = ResNet(image_size=32, layers=(1, 2, 1), width=4)
    module, macs = config.build().eval(), []
    for part in module.modules():
        if isinstance(part, torch.nn.Conv2d):
            part.register_forward_hook(lambda m, _, y: macs.append(m.weight.numel() * y.shape[-1] * y.shape[-2]))
    assert module(torch.randn(1, 3, 32, 32)).shape == (1, 4, 64)
    assert config.flops({"B": Dim.of(1)}).constant == 2 * sum(macs)
    pool = AttentionPool(d=8, out=6, heads=2)
    assert pool.flops({"B": Dim.of(1), "N": Dim.of(4)}).constant == 2 * (5 * 2 * 8 * 8 + 8 * 8 + 8 * 6 + 5 * 2 * 8)


def test_residual_branches_start_at_zero():
    module = ResNet(layers=(1, 1), width=4).build()
    for block in module.stages:
        block[0].init_weights()
        assert not block[0].norm3.weight.any()


def test_mistakes():
    for fields in ({"image_size": 100}, {"layers": (1, 0)}, {"width": 5}):
        with pytest.raises(ValidationError):
            ResNet(**fields)
    with pytest.raises(ValidationError, match="heads"):
        AttentionPool(d=10, heads=3)
