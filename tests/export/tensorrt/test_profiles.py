"""Profiles of specs at published and tiny sizes, beside numbers worked out by hand."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest

import vlmgraph
from vlmgraph.diagnostics import DiagnosticError
from vlmgraph.export.tensorrt import Limits, Options, Plan, make_plan
from vlmgraph.export.tensorrt.limits import parse_limits
from vlmgraph.spec import specs_dir

SPECS = sorted(path.stem for path in specs_dir().glob("*.toml"))
USUAL = Limits()
SMALL = Limits(picture=((56, 56), (640, 480), (896, 896)), batch=(1, 1, 2))


@cache
def planned(name: str, size: str | None, program: str | None, limits: Limits = USUAL) -> Plan:
    model = vlmgraph.compile(vlmgraph.read_spec(name, size=size), device="meta")
    return make_plan(model, limits, Options({}), [program] if program else None)


def phases(plan: Plan, graph: str) -> dict[str, Any]:
    return {p.phase: p for p in plan.graphs[graph][1]}


@pytest.mark.parametrize(
    ("size", "side", "tokens", "width", "heads", "head_dim"), [(None, 336, 576, 4096, 32, 128), ("tiny", 42, 9, 48, 6, 8)]
)
def test_llava(size: str | None, side: int, tokens: int, width: int, heads: int, head_dim: int) -> None:
    plan = planned("llava-1.5", size, "generate")
    longest, usual = tokens + 1024, tokens + 64
    assert list(plan.graphs) == ["vision_encoder", "embed_tokens", "merge", "decoder_model_merged"]
    assert phases(plan, "vision_encoder")["prompt"].shapes == {"pixel_values": ((1, 3, side, side), (1, 3, side, side), (4, 3, side, side))}
    merge = phases(plan, "merge")
    assert list(merge) == ["prompt"]
    assert merge["prompt"].shapes["projector"] == ((1, tokens, width), (1, tokens, width), (4, tokens, width))
    assert merge["prompt"].shapes["input_ids"] == ((1, tokens + 1), (1, usual), (4, longest))  # a token at least beside the picture
    prompt, step = phases(plan, "decoder_model_merged").values()
    key = "past_key_values.0.key"
    assert prompt.shapes["inputs_embeds"] == ((1, 1, width), (1, usual, width), (4, longest, width))  # a text without a picture too
    assert prompt.shapes["attention_mask"] == ((1, 1), (1, usual), (4, longest))
    assert prompt.shapes[key] == ((1, heads, 0, head_dim), (1, heads, 0, head_dim), (4, heads, 0, head_dim))
    assert step.shapes["inputs_embeds"] == ((1, 1, width), (1, 1, width), (4, 1, width))
    assert step.shapes["attention_mask"] == ((1, 2), (1, usual + 1), (4, longest))
    assert step.shapes[key] == ((1, heads, 1, head_dim), (1, heads, usual, head_dim), (4, heads, longest - 1, head_dim))
    assert {p.phase: p.shapes["input_ids"] for p in plan.graphs["embed_tokens"][1]} == {
        "prompt": ((1, 1), (1, usual), (4, longest)),
        "step": ((1, 1), (1, 1), (4, 1)),
    }


def test_pictures_of_a_sample_make_tokens_of_its_text() -> None:
    plan = planned("llava-1.5", "tiny", "generate", Limits(batch=(1, 2, 3), pictures=(1, 2, 4), text=(5, 50, 500)))
    dims = phases(plan, "merge")["prompt"].dims
    assert dims == {"B": (1, 2, 3), "N": (1, 4, 12), "T": (9 + 5, 2 * 9 + 50, 4 * 9 + 500)}


def test_qwen2_vl() -> None:
    """56x56 are 4x4 patches of 14; 640x480 become 644x476, 46x34 patches; 896x896 are 64x64. Four patches are a token."""
    plan = planned("qwen2-vl", None, "generate", SMALL)
    vision, merge = phases(plan, "vision_encoder")["prompt"], phases(plan, "merge")["prompt"]
    assert vision.shapes["pixel_values"] == ((16, 1176), (46 * 34, 1176), (2 * 64 * 64, 1176))
    assert vision.shapes["image_grid_thw"] == ((1, 3), (1, 3), (2, 3))
    assert merge.shapes["visual_mlp"] == ((4, 3584), (391, 3584), (2 * 1024, 3584))
    assert merge.dims["T"] == (4 + 1, 391 + 64, 1024 + 1024)
    step = phases(plan, "decoder_model_merged")["step"]
    assert step.dims == {"B": (1, 1, 2), "T": (1, 1, 1), "past": (1, 455, 2047), "total": (2, 456, 2048)}
    assert step.shapes["position_ids"] == ((3, 1, 1), (3, 1, 1), (3, 2, 1))
    assert step.shapes["past_key_values.27.value"] == ((1, 4, 1, 128), (1, 4, 455, 128), (2, 4, 2047, 128))
    assert "past_key_values.28.key" not in step.shapes


@pytest.mark.parametrize(("size", "side", "queries", "width"), [(None, 224, 64, 1024), ("tiny", 42, 5, 40)])
def test_flamingo(size: str | None, side: int, queries: int, width: int) -> None:
    """Media are keys of cross-attention and not of the text: their tokens follow from the pictures of a sample alone."""
    plan = planned("flamingo", size, "generate", Limits(pictures=(1, 2, 3), text=(1, 64, 1024 if size else 100_000)))
    images = phases(plan, "vision_encoder")["prompt"].shapes["pixel_values"]
    assert images == ((1, 1, 1, 3, side, side), (1, 2, 1, 3, side, side), (4, 3, 1, 3, side, side))
    for name, phase in (("decoder_model", "prompt"), ("decoder_with_past_model", "step")):
        shapes = phases(plan, name)[phase].shapes
        assert shapes["encoder_hidden_states"] == ((1, queries, width), (1, 2 * queries, width), (4, 3 * queries, width))
    step = phases(plan, "decoder_with_past_model")["step"]
    longest = 1024 if size else 2048  # MPT-1B has no more positions
    assert step.dims["past"] == (1, 64, longest - 1)
    assert step.dims["total"] == (2, 65, longest)
    media = [s for name, s in step.shapes.items() if ".media." in name]
    assert media
    assert all((a[2], b[2], c[2]) == (queries, 2 * queries, 3 * queries) for a, b, c in media)


@pytest.mark.parametrize(("size", "side"), [(None, 224), ("tiny", 42)])
def test_clip(size: str | None, side: int) -> None:
    """Texts are padded to 77 tokens, whatever they say; images and texts are counted apart."""
    plan = planned("clip", size, None, Limits(batch=(1, 8, 32), pictures=(1, 1, 2)))
    [call] = plan.graphs["forward"][1]
    assert call.phase == "call"
    assert call.shapes["pixel_values"] == ((1, 3, side, side), (8, 3, side, side), (64, 3, side, side))
    assert call.shapes["input_ids"] == ((1, 77), (8, 77), (32, 77))
    assert plan.graphs["encode_text"][1][0].dims == {"C": (1, 8, 32), "T": (77, 77, 77)}


@pytest.mark.parametrize(("size", "tokens", "codes"), [(None, 576, 576), ("tiny", 16, 16)])
def test_janus(size: str | None, tokens: int, codes: int) -> None:
    """A drawn image is as many tokens as it has codes; the call for training shows a picture beside it."""
    plan = planned("janus", size, "forward_image")
    [call] = plan.graphs["forward_image"][1]
    assert call.shapes["image_ids"] == ((1, codes), (1, codes), (4, codes))
    assert call.dims["T"] == (tokens + codes + 1, tokens + codes + 64, tokens + codes + 1024)


def test_past_and_new_are_the_longest_text_together() -> None:
    for _, profiles in planned("qwen2-vl", None, "generate", SMALL).graphs.values():
        for profile in profiles:
            if "past" in profile.dims:
                for new, past, total in zip(profile.dims["T"], profile.dims["past"], profile.dims["total"]):
                    assert past + new == total <= 2048


def test_no_more_tokens_than_there_are_positions() -> None:
    with pytest.raises(DiagnosticError) as raised:
        planned("llava-1.5", None, "generate", Limits(batch=(1, 1, 1), pictures=(1, 1, 8)))  # 8 x 576 over Vicuna's 4096
    assert raised.value.diagnostics[0].code == "VG0727"
    assert "4608 tokens" in raised.value.diagnostics[0].message


@pytest.mark.parametrize(
    ("text", "said"),
    [("batches=1", "no limit 'batches'"), ("batch=4,2,8", "the middle one"), ("batch=0", "1 or more"), ("batch=a", "whole numbers"),
     ("picture=3", "whole numbers"), ("batch=1,2", "1 or more")],
)  # fmt: skip
def test_limits_that_cannot_be_meant(text: str, said: str) -> None:
    with pytest.raises(DiagnosticError) as raised:
        parse_limits([text])
    assert said in raised.value.diagnostics[0].message
    assert raised.value.diagnostics[0].fix


def test_limits_are_read() -> None:
    limits = parse_limits(["batch=2", "picture=28x28,640x480,1280x720", "text=1,8,16"])
    assert (limits.batch, limits.text, limits.picture) == ((2, 2, 2), (1, 8, 16), ((28, 28), (640, 480), (1280, 720)))


@pytest.mark.slow
@pytest.mark.parametrize("name", SPECS)
def test_every_program_of_every_spec_has_profiles(name: str) -> None:
    """Nothing is refused, no dim is left open, and each profile is in order and in step with itself."""
    plan = planned(name, "tiny", None)
    assert not plan.refused
    for graph, profiles in plan.graphs.values():
        assert profiles
        for profile in profiles:
            assert set(profile.shapes) == {e.name for e in graph.inputs}
            for low, usual, high in profile.shapes.values():
                assert all(0 <= a <= b <= c for a, b, c in zip(low, usual, high, strict=True))
            for at in range(3):
                related(graph, profile, at, name)


def related(graph: Any, profile: Any, at: int, name: str) -> None:
    """At one point: a name is one number in all inputs, past and new tokens are the total, no longer than positions go."""
    sizes: dict[str, int] = {}
    for entry in graph.inputs:
        for dim, size in zip(entry.dims, profile.shapes[entry.name][at], strict=True):
            assert size == (dim.constant if dim.constant is not None else sizes.setdefault(str(dim), size)), (entry.name, str(dim))
    if "past" not in sizes:
        return
    new, past = sizes[graph.length], sizes["past"]
    assert (past == 0) == (profile.phase == "prompt") and (new == 1 or profile.phase == "prompt")
    assert sizes.get("total", past + new) == past + new
    model = vlmgraph.elaborate(vlmgraph.read_spec(name, size="tiny"))
    stacks = [model.components[c] for c in model.programs[graph.program].cache]
    assert past + new <= min([getattr(c, "max_positions", None) or 1 << 30 for c in stacks])
    if at == 2:  # of the longest text both phases reach the end together
        assert past + new == max(p.dims["past"][2] + p.dims[graph.length][2] for p in planned(name, "tiny", None).graphs[graph.name][1])
