"""Steps that are recorded once and replayed: on the processor a trace of one step's operations stands for a CUDA graph."""

from __future__ import annotations

import copy
import gc
import pickle
import weakref

import pytest
import torch

import vlmgraph
from tests.generate.programs import answers, placeholders, prompt, variants, writer
from tests.generate.recorders import Cuda, imagined, recording, traced
from tests.levels.models import SPECS
from vlmgraph.lower.fast import cuda_graphs
from vlmgraph.lower.generate import fixed, recorded
from vlmgraph.lower.generate.decoder import Decoder
from vlmgraph.lower.generate.grow import written_input
from vlmgraph.lower.generate.loop import started
from vlmgraph.lower.generate.watch import Watch
from vlmgraph.nn.embedding import TextEmbedding
from vlmgraph.nn.mask import attention_mask
from vlmgraph.nn.position import ALiBi, RelativeBias

FEW = ("llava-1.5", "qwen2-vl", "llama-3.2-vision", "florence-2", "cogvlm")
"""Positions counted and carried on, media read by cross-attention, an encoder, experts of modalities."""
NEW = 6
STATIC = {"cache_implementation": "static"}


def same(name, given, **options):
    """Answers by replays are those step by step, twice; what the module computes itself is counted. Returns the report's row."""
    wanted, stepped = answers(name, given, NEW, **options), []
    plain = Decoder.plain
    with recording(name) as model, pytest.MonkeyPatch.context() as patch:
        patch.setattr(Decoder, "plain", lambda self: stepped.append(1) or plain(self))
        for _ in range(2):
            assert torch.equal(answers(name, given, NEW, **STATIC, **options), wanted)
        (row,) = model.recorded_steps.report()
    if why := row.get("step by step"):
        assert why in {*recorded.APART.values(), recorded.UNCACHED} and not row["recordings"] and not row["replays"]
        assert len(stepped) == (0 if why == recorded.UNCACHED else 2 * (NEW - 1))
    else:
        assert row["recordings"] == 1 and row["replays"] == 2 * (NEW - 1) and len(stepped) == recorded.PROOF
    return row


@pytest.mark.parametrize("name", FEW)
def test_replays_of_one_step_write_the_text(name):
    """Rows of different length are padded on the left."""
    given = prompt(name)
    assert "step by step" not in same(name, given)
    assert name != "llava-1.5" or not given["attention_mask"].all()


def on_cuda(name, given):
    """A step on a device that is not there. Raises Unfit where it reads a value back or goes from one device to another."""
    with recording(name, check=True) as model, torch.no_grad():
        inputs = model.prepare(given, "generate")
        inputs.setdefault(written_input(model), started(model, inputs))
        decoder = Decoder(model, "generate", inputs, written_input(model), cached=True, room=NEW)
        if decoder.recorded is None:
            return
        decoder.append(decoder.start().argmax(-1))
        made = recorded.Recording(decoder, 2 * recorded.UNIT + decoder.ids.shape[1])
        with imagined(made, model), Watch():
            out = made.step()
        assert {value.device.type for value in out.values()} == {"cuda"}


@pytest.mark.parametrize("name", ["qwen2-vl", "llama-3.2-vision", "paligemma"])
def test_a_step_stays_on_a_cuda_device(name):
    on_cuda(name, prompt(name))


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        (lambda x, ids: x + torch.tensor(1.0, device=ids.device), "goes from one device to another"),
        (lambda x, ids: x * (ids.sum().item() + 1), "reads a value back"),
        (lambda x, ids: x[ids > 0][None], "gives a size that is a value"),
    ],
)
def test_what_a_graph_cannot_hold_is_seen(wrong, why, monkeypatch):
    forward = TextEmbedding.forward
    changed = {"cuda": wrong, "cpu": lambda x, ids: x}
    monkeypatch.setattr(TextEmbedding, "forward", lambda self, ids: changed[ids.device.type](forward(self, ids), ids))
    with pytest.raises(fixed.Unfit, match=why):
        on_cuda("qwen2-vl", prompt("qwen2-vl"))


@pytest.mark.slow
@pytest.mark.parametrize("name", SPECS)
def test_replays_write_the_text_of_every_spec(name):
    written = 0
    for one in variants(name):
        if "generate" in writer(one)[0].programs:
            asked = [prompt(one), prompt(one, media=False), prompt(one, pictures=2), prompt(one, batch=1)]
            for given in (given for given in asked if given is not None):
                same(one, given)
                on_cuda(one, given)
                written += 1
    if not written:
        pytest.skip("writes no text")


def test_a_step_writes_where_the_one_before_wrote():
    """Shapes and addresses of all that outlives a step, at each step; what it read is there when it is replayed."""
    seen, given = [], prompt("qwen2-vl")

    def noted(step):
        run = traced(step)

        def replay():
            kept = step.__self__
            held = [t for c in kept.caches.values() for t in (*c.tensors(), c.place)]
            seen.append([(t.data_ptr(), t.shape, t.stride()) for t in (kept.token, *kept.inputs.values(), *held)])
            return run()

        return replay

    with recording("qwen2-vl", noted):
        answers("qwen2-vl", given, NEW, **STATIC)
        answers("qwen2-vl", given, NEW, **STATIC)
    assert len(seen) == 2 * (NEW - 1) and all(step == seen[0] for step in seen) and len(seen[0]) > 6


def test_a_place_that_is_a_number_is_found_out(monkeypatch):
    """It is the right one while the step is recorded and replayed for the first time."""
    wanted, at, fed = answers("llava-1.5", prompt("llava-1.5"), NEW), [], recorded.Recording.put

    def feed(self, token):
        at[:] = self.at.values()
        fed(self, token)

    def put(held, place, k, v):
        for all_of, new in zip(held, (k, v), strict=True):
            all_of[:, :, at[0] : at[0] + 1] = new

    monkeypatch.setattr(recorded.Recording, "put", feed)
    monkeypatch.setattr(fixed, "put", put)
    with recording("llava-1.5") as model:
        assert torch.equal(answers("llava-1.5", prompt("llava-1.5"), NEW, **STATIC), wanted)
        (row,) = model.recorded_steps.report()
        assert row["replays"] == 1 and "a replay is not what the step computes: off by" in row["step by step"]
        assert torch.equal(answers("llava-1.5", prompt("llava-1.5"), NEW, **STATIC), wanted)
        assert model.recorded_steps.report() == [row]  # and is not tried again


def test_a_step_that_is_not_the_programs_is_found_out(monkeypatch):
    given, allowed = prompt("qwen2-vl"), fixed.allowed
    wanted = answers("qwen2-vl", given, NEW)
    monkeypatch.setattr(fixed, "allowed", lambda rules, query, key, real, window: allowed(rules, query, key, real | True, window))
    with recording("qwen2-vl") as model:  # the padding of the shorter row is seen
        assert torch.equal(answers("qwen2-vl", given, NEW, **STATIC), wanted)
        (row,) = model.recorded_steps.report()
    assert row["replays"] == 0 and "the recorded step is not what the program computes: off by" in row["step by step"]


def test_a_step_that_reads_a_value_back_is_not_recorded():
    """As the processor does, which holds ids against the vocabulary."""
    given = prompt("qwen2-vl")
    with recording("qwen2-vl", check=True) as model:
        assert torch.equal(answers("qwen2-vl", given, NEW, **STATIC), answers("qwen2-vl", given, NEW))
        assert model.recorded_steps.report()[0]["step by step"] == "aten._local_scalar_dense.default reads a value back"


def refused(step):
    raise fixed.Unfit("the device is busy")


def full(step):
    raise torch.OutOfMemoryError("none is left\non the device")


def unchanging(step):
    out = step()
    return lambda: out


@pytest.mark.parametrize(
    ("recorder", "why"), [(refused, "the device is busy"), (unchanging, "a replay is not what"), (full, "no memory for a recording: none")]
)
def test_what_is_not_recorded_is_written_step_by_step(recorder, why):
    given = prompt("llava-1.5")
    with recording("llava-1.5", recorder) as model:
        assert torch.equal(answers("llava-1.5", given, NEW, **STATIC), answers("llava-1.5", given, NEW))
        assert why in model.recorded_steps.report()[0]["step by step"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["qwen2-vl"])
def test_compiled_blocks_take_a_place_that_is_a_tensor(name):
    """A recording by which each replay runs the step's modules, whose blocks are compiled."""
    model = vlmgraph.compile(vlmgraph.read_spec(name, size="tiny"), dtype="float64", mode="compile")
    model.load_state_dict(writer(name)[0].state_dict())
    given = {"max_new_tokens": NEW, "suppress_tokens": placeholders(name), **STATIC, **prompt(name)}
    with recording(name, lambda step: step), pytest.MonkeyPatch.context() as patch:
        wanted, steps = model.generate(**{**given, "cache_implementation": "dynamic"}), []
        patch.setattr(type(model.programs["generate"]), "run", watched(type(model.programs["generate"]).run, steps))
        assert torch.equal(model.generate(**given), wanted) and torch.equal(model.generate(**given), wanted)
    (row,) = model.recorded_steps.report()
    assert row["replays"] == 2 * (NEW - 1) and "step by step" not in row
    assert not model.compiled_regions.recompilations and not any("eager" in kind for kind in model.compiled_regions.report())
    assert isinstance(steps[-1]["llm"], fixed.FixedCache)


def watched(run, steps):
    def ran(self, inputs, caches=None, *args, **options):
        steps.append(caches)
        return run(self, inputs, caches, *args, **options)

    return ran


@pytest.mark.parametrize(("name", "why"), [("aria", "which tokens an expert gets is a value"), ("minimax-text-01", "in a state")])
def test_what_no_recording_holds_says_so(name, why):
    assert why in same(name, prompt(name) or prompt(name, media=False))["step by step"]


def test_a_mask_of_all_places_is_that_of_the_tokens_so_far():
    """Rules and biases, for the token at each place of rows that are padded on the left."""
    places, window = 9, 3
    real = torch.tensor([[1] * 9, [0, 0] + [1] * 7]).bool()
    key = torch.arange(places)[None]
    for at in range(2, places):
        there, query = real & (key <= at), torch.tensor([[at]])
        for rules in (("causal",), ("full",), ("prefix",), ("causal", "window"), ("prefix", "window")):
            wanted = attention_mask(rules, 1, at, real[:, : at + 1], window=window)
            got = fixed.allowed(rules, query, key, there, window)
            assert torch.equal(got[..., : at + 1], wanted) and not got[..., at + 1 :].any()
        for bias in (ALiBi(6), RelativeBias(2, bidirectional=False)):
            assert torch.equal(bias.scores(query, key)[..., : at + 1], bias(1, at))
    with pytest.raises(fixed.Unfit, match="either_real"):
        fixed.allowed(("either_real",), query, key, there, window)


def test_a_recording_serves_what_has_its_form():
    name = "paligemma"
    model, _ = writer(name)
    one, two, text = prompt(name, batch=1), prompt(name), prompt(name, media=False)
    counts = []
    with recording(name):
        for given in (two, text, one):
            assert torch.equal(answers(name, given, NEW, **STATIC), answers(name, given, NEW))
            counts.append(model.recorded_steps.report()[0]["recordings"])
        assert counts == [1, 1, 2]  # another length is served, another number of rows is not
        answers(name, one, model.recorded_steps.report()[0]["places"], **STATIC)  # more places than there are
        assert model.recorded_steps.report()[0]["recordings"] == 3
        weight = model.get_submodule("llm").layers[0].attention.q.weight
        old = weight.data
        try:
            weight.data = old * -3
            changed = answers(name, one, NEW)
            assert torch.equal(answers(name, one, NEW, **STATIC), changed)
            assert model.recorded_steps.report()[0]["recordings"] == 4  # the weights moved
        finally:
            weight.data = old


def test_two_answers_at_a_time_do_not_share_buffers():
    name = "fuyu-8b"
    model, processor = writer(name)
    prompts = [prompt(name, batch=1), prompt(name, media=False, batch=1)]
    options = {"max_new_tokens": NEW, "suppress_tokens": placeholders(name)}
    wanted = ["".join(model.stream(processor, **given, **options)) for given in prompts]
    with recording(name):
        streams = [model.stream(processor, **given, **options, **STATIC) for given in prompts]
        texts = ["", ""]
        for _ in range(NEW + 1):
            for i, pieces in enumerate(streams):
                texts[i] += next(pieces, "")
        assert texts == wanted and wanted[0] != wanted[1]
        assert model.recorded_steps.report()[0]["step by step"] == "another answer was being written"


@pytest.mark.parametrize("name", ["qwen2-vl", "florence-2"])
def test_beams_exchange_the_rows_of_a_recording(name):
    given, options = prompt(name), {"num_beams": 3, "num_return_sequences": 2}
    wanted = answers(name, given, NEW, **options)
    assert torch.equal(answers(name, given, NEW, **options, use_cache=False), wanted)
    with recording(name) as model:
        for _ in range(2):
            assert torch.equal(answers(name, given, NEW, **options, **STATIC), wanted)
        (row,) = model.recorded_steps.report()
        assert row["recordings"] == 1 and row["rows"] == 6 and row["replays"] > 6 and "step by step" not in row


def test_a_cuda_graph_is_warmed_up_captured_fed_and_replayed(monkeypatch):
    """Against a stand-in that keeps the order of calls, makes nothing while it captures, and replays into the same memory."""
    cuda, name = Cuda(), "qwen2-vl"
    monkeypatch.setattr(cuda_graphs, "cuda", cuda)
    step, put = recorded.Recording.step, recorded.Recording.put
    monkeypatch.setattr(recorded.Recording, "step", lambda self: cuda.log.append("step") or step(self))
    monkeypatch.setattr(recorded.Recording, "put", lambda self, token: cuda.log.append("inputs") or put(self, token))
    wanted = answers(name, prompt(name), NEW)
    with recording(name, cuda_graphs.record) as model:
        assert torch.equal(answers(name, prompt(name), NEW, **STATIC), wanted)
        warm = ["side waits for main", "on side", *["step"] * cuda_graphs.WARM, "off side", "main waits for side"]
        replays = ["inputs", "replay"] * (NEW - 1)
        proofs = ["inputs", "step", "replay"] * recorded.PROOF
        assert cuda.log == ["inputs", "step", *warm, "capture", "step", "captured", "inputs", *proofs, *replays[2 * recorded.PROOF :]]
        cuda.log.clear()
        assert torch.equal(answers(name, prompt(name), NEW, **STATIC), wanted)
        assert cuda.log == ["inputs", *replays]
        assert copy.deepcopy(model.recorded_steps).report() == [] and pickle.loads(pickle.dumps(model.recorded_steps)).kept == {}
        graph = weakref.ref(model.recorded_steps.kept["generate"].replay.graph)
        answers(name, prompt(name, batch=1), NEW, **STATIC)
        gc.collect()
        assert graph() is None and "captured" in cuda.log  # other rows: what held the device's memory is gone


def test_what_may_not_be_captured_is_a_reason(monkeypatch):
    cuda, name = Cuda(), "qwen2-vl"

    def fails(graph):
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    cuda.graph = fails
    monkeypatch.setattr(cuda_graphs, "cuda", cuda)
    with recording(name, cuda_graphs.record) as model:
        assert torch.equal(answers(name, prompt(name), NEW, **STATIC), answers(name, prompt(name), NEW))
        why = model.recorded_steps.report()[0]["step by step"]
    assert why == "CUDA captures no graph of it: operation not permitted when stream is capturing"
