"""VisualBERT (arXiv 1908.03557): words and regions in one BERT, one norm over both."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.architectures.common import changed, close, fresh, lively, meta, moved, noise, published, random_ids, trains
from vlmgraph.diagnostics import DiagnosticError
from vlmgraph.train.stage import begin
from vlmgraph.weights.import_config import import_config

WORDS, REGIONS = 6, 5


def given(rows: int = 1) -> dict[str, Tensor]:
    return {"input_ids": random_ids(rows, WORDS, low=3, high=90), "visual_embeds": noise(rows, REGIONS, 30)}


def logits(**inputs: Tensor) -> Tensor:
    with torch.no_grad():
        return lively("visualbert")(**inputs)["prediction_logits"]


@pytest.mark.parametrize(("variant", "width"), [(None, 2048), ("nlvr2", 1024), ("vcr", 512)])
def test_counts(variant: str | None, width: int) -> None:
    """As transformers 5 builds them: a projection of each width, heads of 624 188 besides the tied decoder."""
    import transformers as tf

    with torch.device("meta"):
        theirs = tf.VisualBertForPreTraining(tf.VisualBertConfig(visual_embedding_dim=width))
    counts = published("visualbert", variant=variant)
    assert counts["total"] == sum(p.numel() for p in theirs.parameters()) == 110_501_948 + 768 * width
    assert counts["regions"] == (width + 1) * 768 + 514 * 768  # the positions of words are those of the text
    assert sum(p.numel() for p in meta("visualbert", variant=variant).parameters()) == counts["total"]


@torch.no_grad()
def test_one_norm_over_both() -> None:
    """What enters the encoder is the norm of the sums by hand, words first."""
    model, inputs = lively("visualbert"), given()
    words, regions, norm = model.words, model.regions, model.norm
    text = words.tokens(inputs["input_ids"]) + words.positions.weight[:WORDS] + words.types.weight[0]
    image = regions.proj(inputs["visual_embeds"]) + regions.positions.weight[0] + regions.types.weight[1]
    wanted = model.encoder(norm(torch.cat([text, image], 1)))
    close(logits(**inputs), model.mlm_head(wanted))
    pooled = torch.tanh(model.pooler.dense(wanted[:, 0]))
    close(model(**inputs)["seq_relationship_logits"], model.match_head.proj(pooled))


def test_text_alone_is_bert() -> None:
    """No table of the regions matters, and nothing of the image part runs."""
    model, ids = lively("visualbert"), given()["input_ids"]
    before = logits(input_ids=ids)
    assert before.shape == (1, WORDS, 101)
    with changed(model, "regions.proj", "regions.types", "regions.positions"):
        assert torch.equal(logits(input_ids=ids), before)
    assert "regions" not in {n.component for n in model.programs["forward"].graph(frozenset({"input_ids"})).nodes}


def test_regions_have_no_order() -> None:
    inputs, order = given(), torch.tensor([3, 0, 4, 2, 1])
    before, after = logits(**inputs), logits(**inputs | {"visual_embeds": inputs["visual_embeds"][:, order]})
    close(after[:, :WORDS], before[:, :WORDS])
    close(after[:, WORDS:], before[:, WORDS:][:, order])
    shifted = logits(**inputs | {"input_ids": inputs["input_ids"].roll(1, 1)})
    assert not torch.allclose(shifted[:, :WORDS], before[:, :WORDS].roll(1, 1), atol=1e-3)  # words do


def test_hidden_regions_and_words_are_not_read() -> None:
    inputs = given()
    regions, words = torch.tensor([[1, 1, 1, 0, 1]]), torch.tensor([[1, 1, 1, 1, 0, 1]])
    masks = {"visual_attention_mask": regions, "attention_mask": words}
    before = logits(**inputs, **masks)
    pixels, ids = inputs["visual_embeds"].clone(), inputs["input_ids"].clone()
    pixels[0, 3] += 3
    ids[0, 4] += 1
    after = logits(visual_embeds=pixels, input_ids=ids, **masks)
    assert moved(before, after) == [i in (4, WORDS + 3) for i in range(WORDS + REGIONS)]
    for one in masks:  # either mask alone counts, and the other part is seen as a whole
        assert moved(logits(**inputs, **{one: masks[one]}), logits(**inputs)) == [True] * (WORDS + REGIONS)


@torch.no_grad()
def test_alignment() -> None:
    """[[2, 4], [-1, -1]]: the mean of two rows of the text's positions, then nothing."""
    model, x = lively("visualbert"), noise(1, 2, 30)
    assert model.regions.words.weight is model.words.positions.weight
    rows = model.words.positions.weight
    plain, aligned = model.regions(x), model.regions(x, alignment=torch.tensor([[[2, 4], [-1, -1]]]))
    close(aligned[0, 0] - plain[0, 0], (rows[2] + rows[4]) / 2, 1e-4)
    assert torch.equal(aligned[0, 1], plain[0, 1])
    close(model.regions(x, alignment=torch.tensor([[[3, -1], [-1, 0]]]))[0] - plain[0], rows[[3, 0]], 1e-4)


@torch.no_grad()
def test_tables_of_regions_start_as_those_of_the_text() -> None:
    model = fresh("visualbert")
    assert not torch.equal(model.regions.positions.weight, model.words.positions.weight)
    begin(model, "task_agnostic_pretrain")
    for name in ("positions", "types"):
        theirs, ours = getattr(model.regions, name).weight, getattr(model.words, name).weight
        assert torch.equal(theirs, ours) and theirs.data_ptr() != ours.data_ptr()


def supervised() -> dict[str, Tensor]:
    inputs = given(4)
    labels = torch.full_like(inputs["input_ids"], -100)
    labels[:, 2] = inputs["input_ids"][:, 2]
    masked = inputs["input_ids"].clone()
    masked[:, 2] = 93
    return inputs | {"input_ids": masked, "labels": labels, "sentence_image_labels": torch.tensor([0, 1, 1, 0])}


def test_objectives() -> None:
    """Masked words read the regions; regions are never predicted; 1 says that both captions describe the image."""
    model, inputs = lively("visualbert"), supervised()
    with torch.no_grad():
        out = model(**{k: v for k, v in inputs.items() if "labels" not in k})
        loss = model.programs["objective.mlm"](**inputs)["loss"]
        log_p = out["prediction_logits"][:, 2].log_softmax(-1)
        close(loss, -log_p.gather(1, inputs["labels"][:, 2:3]).mean())
        other = model.programs["objective.mlm"](**inputs | {"visual_embeds": inputs["visual_embeds"] + 1})["loss"]
        assert not torch.isclose(loss, other)
        match = model.programs["objective.sentence_image"](**inputs)["loss"]
        close(match, -out["seq_relationship_logits"].log_softmax(-1)[torch.arange(4), inputs["sentence_image_labels"]].mean())


def test_training() -> None:
    model = fresh("visualbert")
    inputs = supervised() | {"image_text_alignment": torch.tensor([[[0, 1], [2, -1], [3, 4], [-1, -1], [5, 5]]]).expand(4, -1, -1)}
    trains(model, "task_agnostic_pretrain", inputs)


@torch.no_grad()
def test_question_answering() -> None:
    """The state at [MASK] is classified against soft answers, summed over classes and averaged over questions."""
    model = lively("visualbert", variant="vqa")
    ids = random_ids(2, WORDS, low=3, high=90)
    ids[0, 4], ids[1, 2], ids[:, 5] = 93, 93, 92
    inputs = {"input_ids": ids, "visual_embeds": noise(2, REGIONS, 30)}
    states = model.encoder(model.norm(torch.cat([model.words(ids), model.regions(inputs["visual_embeds"])], 1)))
    logits = model.vqa_head.proj(states[[0, 1], [4, 2]])
    close(model(**inputs)["logits"], logits)
    answers = noise(2, 3129, seed=4).softmax(-1)
    answers[0, :9] = 0
    wanted = (torch.special.xlogy(answers, answers) - answers * logits.log_softmax(-1)).sum() / 2
    close(model.programs["objective.vqa"](**inputs, answers=answers)["loss"], wanted)


@pytest.mark.parametrize(("key", "value"), [("bypass_transformer", True), ("tie_word_embeddings", False), ("hidden_act", "mish")])
def test_what_is_not_computed_is_refused(tmp_path: Path, key: str, value: object) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "visual_bert", key: value}))
    with pytest.raises(DiagnosticError, match=key):
        import_config(tmp_path / "config.json")
