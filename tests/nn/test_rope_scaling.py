"""Rotary scaling: every rule gives the rotations of transformers' own functions, below and above the old length."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from vlmgraph.components.layer.position import MultimodalRotary, Rotary

LONG = [1.5, 3.0, 8.0, 2.5, 30.0, 4.0]
SHORT = [1.0, 1.2, 1.1, 1.7, 1.0, 2.0]
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "linear": ({"rope_type": "linear", "factor": 4.0}, {"factor": 4.0}),
    "dynamic": ({"rope_type": "dynamic", "factor": 3.0}, {"factor": 3.0, "original": 256}),
    "llama3": (
        {"rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 32},
        {"factor": 4.0, "low": 1.0, "high": 4.0, "original": 32},
    ),
    "yarn": (YARN, {"factor": 4.0, "original": 64}),
    "yarn options": (
        {**YARN, "beta_fast": 9.0, "beta_slow": 0.7, "mscale": 1.3, "mscale_all_dim": 0.6, "truncate": False},
        {"factor": 4.0, "original": 64, "fast": 9.0, "slow": 0.7, "mscale": 1.3, "mscale_all": 0.6, "whole": False},
    ),
    "yarn loudness": ({**YARN, "attention_factor": 0.7}, {"factor": 4.0, "original": 64, "attention": 0.7}),
    "longrope": (
        {"rope_type": "longrope", "short_factor": SHORT, "long_factor": LONG, "original_max_position_embeddings": 64},
        {"length": 256, "original": 64, "short": SHORT, "long": LONG},
    ),
    "longrope loudness": (
        {
            "rope_type": "longrope", "short_factor": SHORT, "long_factor": LONG, "original_max_position_embeddings": 64,
            "attention_factor": 1.3, "factor": 2.0,
        },
        {"factor": 2.0, "original": 64, "short": SHORT, "long": LONG, "attention": 1.3},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", list(CASES))
@pytest.mark.parametrize("length", [50, 64, 65, 300])
def test_rotations_are_those_of_transformers(name: str, length: int) -> None:
    """Within 1e-5 of an angle's sine at positions up to 300: products in another order, in float32."""
    transformers = pytest.importorskip("transformers", minversion="5.0")
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    theirs, ours = CASES[name]
    words = {
        "hidden_size": 24,
        "num_attention_heads": 2,
        "max_position_embeddings": 256,
        "rope_parameters": {"rope_theta": 500.0, **theirs},
    }
    positions = torch.arange(length)[None]
    wanted = LlamaRotaryEmbedding(transformers.LlamaConfig(**words))(torch.zeros(1), positions)
    scaling = {"rule": name.split()[0], **ours}
    module = Rotary(theta=500.0, head_dim=12, scaling=scaling).build()
    plain = Rotary(theta=500.0, head_dim=12).build()
    for mine, other, unscaled in zip(module(positions), wanted, plain(positions)):
        assert (mine - other).abs().max() < 3e-5
        if name != "dynamic" or length > 256:
            assert (unscaled - other).abs().max() > 1e-2  # what ignores the rule is far off


def test_two_regimes_follow_the_length_of_the_call() -> None:
    """Early positions of a long call turn otherwise than those of a short one, in every call anew."""
    for rule, own in (("longrope", {"length": 256, "short": SHORT, "long": LONG}), ("dynamic", {"factor": 2.0})):
        module = Rotary(theta=500.0, head_dim=12, scaling={"rule": rule, "original": 64, **own}).build()
        short, long = (module(torch.arange(n)[None])[0][:, :64] for n in (64, 65))
        assert (short - long).abs().max() > 1e-3
        assert torch.equal(short, module(torch.arange(64)[None])[0])


def test_three_axes_are_scaled_alike() -> None:
    scaling = {"rule": "yarn", "factor": 4.0, "original": 64}
    places = torch.arange(90)[None]
    wanted = Rotary(theta=500.0, head_dim=12, scaling=scaling).build()(places)
    module = MultimodalRotary(sections=(1, 3, 2), theta=500.0, head_dim=12, scaling=scaling).build()
    for positions in (places, places.expand(3, 1, 90)):
        assert all(torch.equal(a, b) for a, b in zip(module(positions), wanted))


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"rule": "yarn"}, "yarn needs `factor` or `length`"),
        ({"rule": "dynamic"}, "dynamic needs `factor`"),
        ({"rule": "linear", "length": 9}, "linear needs `factor`"),
        ({"rule": "yarn", "factor": 2.0, "length": 9}, "stands in place of"),
        ({"rule": "longrope", "factor": 2.0, "short": SHORT}, "go together"),
        ({"rule": "yarn", "factor": 2.0, "short": SHORT, "long": LONG}, "go together"),
        ({"rule": "longrope", "factor": 2.0, "short": SHORT, "long": LONG[1:]}, "6 pairs of a head, not 6 and 5"),
        ({"rule": "llama3", "factor": 2.0, "low": 4.0, "high": 4.0}, "not below"),
        ({"rule": "yarn", "factor": 2.0, "fast": 1.0, "slow": 2.0}, "above fast"),
    ],
)
def test_what_does_not_go_together_is_refused(table: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Rotary(head_dim=12, scaling=table)
    with pytest.raises(ValueError, match=said):
        MultimodalRotary(head_dim=12, sections=(2, 2, 2), scaling=table)


def test_rules_that_a_head_or_a_base_cannot_have_are_refused() -> None:
    with pytest.raises(ValueError, match="more than one pair"):
        Rotary(head_dim=2, scaling={"rule": "dynamic", "factor": 2.0})
    with pytest.raises(ValueError, match="above one"):
        Rotary(head_dim=12, theta=1.0, scaling={"rule": "yarn", "factor": 2.0})
