"""InstructBLIP (Dai et al. 2023, arXiv 2305.06500): a Q-Former that reads the instruction."""

from __future__ import annotations

import PIL.Image
import pytest
import torch
from torch import Tensor

from tests.architectures.common import changed, close, fresh, graph, lively, noise, padded, placed, processor, published, random_ids, trains
from vlmgraph.ir.dims import Dim
from vlmgraph.report.tokens import visual_dims

IMAGE, QUERIES = 319, 7


@pytest.fixture(scope="module")
def model():
    return lively("instructblip")


@pytest.fixture(scope="module")
def inputs() -> dict[str, Tensor]:
    ids = placed(random_ids(2, 15), IMAGE, (0, 0, QUERIES), (1, 0, QUERIES))
    return {"pixel_values": noise(2, 3, 42, 42), "input_ids": ids, "qformer_input_ids": random_ids(2, 6, high=80)}


def queries(model, inputs: dict[str, Tensor], **other: Tensor) -> Tensor:
    """What the decoder gets of an image: [B, queries, width]."""
    given = {**inputs, **other}
    del given["input_ids"]
    with torch.no_grad():
        return next(iter(model.programs["encode_image"](**given).values()))


def test_published_parameters_and_tokens() -> None:
    """Of the meta instantiation: Vicuna with one added row, 39 blocks of the tower, the Q-Former with words, without their head."""
    counts = published("instructblip")
    assert counts["total"] == 7_913_210_624
    assert counts["qformer"] == 185_660_160 + 32 * 768 and counts["llm_proj"] == 3_149_824
    assert counts["vision"] + counts["ln_vision"] == 985_952_256
    assert counts["embed"] + counts["llm"] + counts["head"] == 6_738_423_808
    assert list(visual_dims(graph("instructblip")).values()) == [Dim.of(32)]


def test_the_instruction_changes_what_the_queries_see(model, inputs: dict[str, Tensor]) -> None:
    before = queries(model, inputs)
    assert before.shape == (2, QUERIES, 48)
    for at in range(6):
        ids = inputs["qformer_input_ids"].clone()
        ids[0, at] = 85
        after = queries(model, inputs, qformer_input_ids=ids)
        assert ((after[0] - before[0]).abs().amax(1) > 1e-6).all(), "every query sees every word"
        assert torch.equal(after[1], before[1])


def test_padding_of_the_instruction_changes_nothing(model, inputs: dict[str, Tensor]) -> None:
    one = {name: value[:1] for name, value in inputs.items()}
    before = queries(model, one)
    for filler in (0, 33):
        ids, mask = padded(one["qformer_input_ids"], torch.ones(1, 6, dtype=torch.long), right=4, pad=filler)
        close(queries(model, one, qformer_input_ids=ids, qformer_attention_mask=mask), before)
    assert (queries(model, one, qformer_input_ids=ids) - before).abs().max() > 1e-4, "unmasked, padding is read"


def test_without_an_instruction_it_is_the_second_stage_of_blip_2(model, inputs: dict[str, Tensor]) -> None:
    """The same weights in BLIP-2's Q-Former, which has no words, give the same queries."""
    plain = lively("blip-2", variant="opt")
    held = {name: value.clone() for name, value in plain.state_dict().items()}
    own = model.state_dict()
    shared = ("vision.", "ln_vision.", "qformer.", "llm_proj.")
    try:
        plain.load_state_dict({name: own[name] if name.startswith(shared) else value for name, value in held.items()})
        given = {"pixel_values": inputs["pixel_values"]}
        with torch.no_grad():
            wanted = next(iter(plain.programs["encode_image"](**given).values()))
            got = next(iter(model.programs["encode_image"](**given).values()))
            close(got, wanted, 1e-6)
            with changed(model, "qformer.mlp.text", "qformer.embed.tokens"):
                assert torch.equal(next(iter(model.programs["encode_image"](**given).values())), got)
        assert (queries(model, inputs) - got).abs().max() > 1e-3
    finally:
        plain.load_state_dict(held)


def test_words_have_an_mlp_of_their_own_and_no_image(model, inputs: dict[str, Tensor]) -> None:
    before = queries(model, inputs)
    with changed(model, "qformer.layers.0.mlp.experts.text.fc1.weight"):
        assert not torch.equal(queries(model, inputs), before), "later layers read the words"
    last = len(model.qformer.layers) - 1
    with changed(model, f"qformer.layers.{last}.mlp.experts.text.fc1.weight"):
        assert torch.equal(queries(model, inputs), before), "their last states are left behind"


def test_the_decoder_sees_as_many_tokens_whatever_the_instruction(model, inputs: dict[str, Tensor]) -> None:
    with torch.no_grad():
        for length in (1, 6, 20):
            out = model(**{**inputs, "qformer_input_ids": random_ids(2, length, high=80)})
            assert out["logits"].shape == (2, 15, 320)


def test_instruction_tuning_trains_the_bridge_alone(inputs: dict[str, Tensor]) -> None:
    """What the last layer makes of words reaches nobody."""
    model = fresh("instructblip")
    last = f"qformer.layers.{len(model.qformer.layers) - 1}."
    idle = {n for n, _ in model.named_parameters() if n.startswith(last) and ".text." in n}
    labels = inputs["input_ids"].clone()
    labels[:, : QUERIES + 2] = -100
    names = trains(model, "instruct", {**inputs, "labels": labels}, idle=idle)
    assert {name.split(".")[0] for name in names} == {"qformer", "ln_vision", "llm_proj"}


def test_one_instruction_in_two_vocabularies() -> None:
    """Queries stand before the start token; the Q-Former's copy is BERT's, lower-cased between [CLS] and [SEP], cut at 128 on the left."""
    own = processor("instructblip", None)
    picture = PIL.Image.new("RGB", (30, 20))
    given = own(text="What is this?", images=picture, qformer_input_ids="What is this?")
    ids, asked = given["input_ids"][0].tolist(), given["qformer_input_ids"][0].tolist()
    assert ids[:33] == [32000] * 32 + [1] and 32000 not in ids[33:]
    assert asked[0] == 101 and asked[-1] == 102 and given["qformer_attention_mask"].all()
    lower = own(text="x", images=picture, qformer_input_ids="what is this?")["qformer_input_ids"][0].tolist()
    assert asked == lower
    long = own(text="x", images=picture, qformer_input_ids="a" * 200 + "what is this?")["qformer_input_ids"][0].tolist()
    assert len(long) == 128 and long[0] == 101 and long[-14:] == asked[-14:]
