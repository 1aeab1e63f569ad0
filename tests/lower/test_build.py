"""Graph → modules: meta and real builds agree, first values are those of the papers, nothing stays uninitialised."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest
import torch
from torch import nn

import vlmgraph
from vlmgraph.diagnostics import DiagnosticError
from vlmgraph.diagnostics import codes as C
from vlmgraph.lower.build import allocate, build_one

SPECS = ["clip", "llava-1.5", "cogvlm", "blip-2", "flamingo", "idefics", "qwen2-vl", "janus"]


def tiny(spec: str, **options):
    return vlmgraph.compile(vlmgraph.read_spec(spec, size="tiny"), **options)


@pytest.mark.parametrize("spec", SPECS)
def test_meta_allocated_later_is_the_model_built_at_once(spec):
    """No buffer is lost on meta and every first value comes from a module's own method, so the two ways agree bit for bit."""
    meta = tiny(spec, device="meta")
    assert all(t.is_meta for t in [*meta.parameters(), *meta.buffers()])
    with torch.random.fork_rng():
        torch.manual_seed(7)
        allocate(meta, "cpu", torch.float32)
    with torch.random.fork_rng():
        real = tiny(spec, seed=7)
    assert list(meta.state_dict()) == list(real.state_dict())
    ours, theirs = dict(real.named_buffers()), dict(meta.named_buffers())
    assert ours.keys() == theirs.keys()
    for name, tensor in [*real.named_parameters(), *real.named_buffers()]:
        other = meta.get_parameter(name) if name not in ours else theirs[name]
        assert torch.equal(tensor, other) and tensor.dtype == other.dtype, name
        assert tensor.isfinite().all(), name


@pytest.mark.parametrize("spec", SPECS)
def test_every_value_is_written(spec):
    """Memory that nobody initialises keeps the poison it had before."""
    model = tiny(spec)
    poison(model)
    empty = torch.nn.Module.to_empty
    try:
        torch.nn.Module.to_empty = lambda self, device, recurse=True: self
        allocate(model, "cpu", torch.float32)
    finally:
        torch.nn.Module.to_empty = empty
    assert [n for n, t in [*model.named_parameters(), *model.named_buffers()] if not t.isfinite().all() or (t == -77).any()] == []


def poison(model: nn.Module) -> None:
    with torch.no_grad():
        for tensor in [*model.parameters(), *model.buffers()]:
            tensor.fill_(float("nan") if tensor.is_floating_point() else (-77 if tensor.dtype != torch.bool else 0))


def test_seed_decides_the_weights():
    first, again, other = (tiny("clip", seed=s).state_dict() for s in (1, 1, 2))
    assert all(torch.equal(first[k], again[k]) for k in first)
    assert any(not torch.equal(first[k], other[k]) for k in first)


def test_dtype_is_that_of_parameters_and_outputs_while_rotary_tables_stay_exact():
    model = tiny("llava-1.5", dtype="bfloat16")
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert {b.dtype for b in model.buffers() if b.is_floating_point()} <= {torch.float32}
    assert model(input_ids=torch.ones(1, 3, dtype=torch.long))["logits"].dtype == torch.bfloat16


def test_a_tie_is_one_parameter_on_meta_and_on_cpu():
    for device in ("meta", "cpu"):
        model = tiny("flamingo", device=device)
        assert model.graph.ties == (("head.proj.weight", "embed.tokens.weight"), ("head.added.weight", "embed.added.weight"))
        for left, right in model.graph.ties:
            assert model.get_parameter(left) is model.get_parameter(right)


# (spec, parameter, its standard deviation by width and number of layers)
PAPERS = [
    # openai/CLIP, initialize_parameters: attention by width, and smaller by (2 layers)**-0.5 what writes into the stream
    ("clip", "text.layers.0.attention.q.weight", lambda width, layers: width**-0.5),
    ("clip", "text.layers.0.attention.out.weight", lambda width, layers: (2 * width * layers) ** -0.5),
    ("clip", "text.layers.1.mlp.fc1.weight", lambda width, layers: (2 * width) ** -0.5),
    # LLaMA and its kin: N(0, 0.02)
    ("llava-1.5", "llm.layers.0.attention.q.weight", lambda width, layers: 0.02),
    ("cogvlm", "llm.layers.0.mlp.experts.vision.gate.weight", lambda width, layers: 0.02),
]


@pytest.mark.parametrize(("spec", "name", "std"), PAPERS, ids=[f"{s}:{n}" for s, n, _ in PAPERS])
def test_first_values_follow_the_paper(spec, name, std):
    model = tiny(spec)
    weight = model.get_parameter(name)
    stack = model.graph.components[name.partition(".")[0]]
    wanted = std(stack.width, stack.layers)
    assert abs(weight.std().item() / wanted - 1) < 4 / math.sqrt(2 * weight.numel())  # four standard errors
    assert abs(weight.mean().item()) < 4 * wanted / math.sqrt(weight.numel())


def test_scalars_start_where_the_papers_say():
    clip = tiny("clip")
    scale = next(p for n, p in clip.named_parameters() if "logit_scale" in n or n.endswith("scale"))
    assert scale.item() == pytest.approx(math.log(1 / 0.07), rel=1e-6)  # CLIP §2.5
    gates = [p for n, p in tiny("flamingo").named_parameters() if "gate" in n and p.numel() == 1]
    assert gates and all(p.item() == 0 for p in gates)  # Flamingo §2.2: the tanh gates are closed at first


class Unset(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.empty(3))


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: Unset(), ("uninitialised", "Unset", "reset_parameters")),
        (lambda: nn.Sequential(nn.Linear(2, 2), Unset()), ("uninitialised", "at 1")),
        (lambda: {}["width"], ("cannot be built", "KeyError")),
        (lambda: torch.zeros(2) @ torch.zeros(3), ("cannot be built", "RuntimeError")),
    ],
    ids=["no reset_parameters", "a part without", "KeyError", "RuntimeError"],
)
def test_what_a_component_author_got_wrong_is_a_diagnostic_at_the_users_place(monkeypatch, build, words):
    graph = vlmgraph.elaborate(vlmgraph.read_spec("llava-1.5", size="tiny"))
    config = graph.components["connector" if "connector" in graph.components else "projector"]
    monkeypatch.setattr(type(config), "build", lambda self: build())
    id = next(i for i, c in graph.components.items() if c is config)
    with pytest.raises(DiagnosticError) as caught:
        build_one(graph, id, config)
    (diagnostic,) = caught.value.diagnostics
    assert diagnostic.code == C.BUILD_FAILED and diagnostic.primary is not None
    text = f"{diagnostic.message} {diagnostic.notes} {diagnostic.fix}"
    assert all(w in text for w in words), text


def test_a_model_is_built_and_written_on_meta_without_torchs_compiler(tmp_path):
    """Importing it takes as long as torch itself: nothing on the way may compute on meta tensors."""
    code = (
        "import sys, vlmgraph\n"
        "for spec in ('cogvlm', 'blip-2', 'janus'):\n"
        f"    vlmgraph.compile(spec, device='meta').save({str(tmp_path)!r} + '/' + spec)\n"
        "    assert 'torch._dynamo' not in sys.modules, spec\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
