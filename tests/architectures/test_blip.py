"""BLIP (arXiv 2201.12086): one text model in three modes, a momentum copy with its queues, hard negatives."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.architectures.common import changed, close, count, enliven, fresh, graph, lively, meta, noise, published, random_ids, trains
from vlmgraph.components.inference import Retrieval
from vlmgraph.ir.dims import Dim
from vlmgraph.lower.model import CompiledModel
from vlmgraph.lower.retrieval import retrieve
from vlmgraph.report.tokens import visual_dims
from vlmgraph.train.stage import begin
from vlmgraph.train.step import after_step, before_step

CLS, SEP, DEC, ENC = 80, 81, 88, 89


def text(lengths: tuple[int, ...] = (9, 6, 4), seed: int = 2) -> tuple[Tensor, Tensor]:
    """[CLS] words [SEP], padded with 0 on the right, and the mask."""
    ids = random_ids(len(lengths), max(lengths), low=10, high=79, seed=seed)
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    ids[:, 0] = CLS
    ids[torch.arange(len(lengths)), torch.tensor(lengths) - 1] = SEP
    return ids.masked_fill(~mask, 0), mask.long()


def pairs(lengths: tuple[int, ...] = (9, 6, 4)) -> dict[str, Tensor]:
    ids, mask = text(lengths)
    return {"pixel_values": noise(len(lengths), 3, 48, 48), "input_ids": ids, "attention_mask": mask}


@torch.no_grad()
def run(program: str, given: dict[str, Tensor]) -> Tensor:
    return next(iter(lively("blip").programs[program](**given).values()))


def words(given: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value for name, value in given.items() if name != "pixel_values"}


# ---- counts


def test_published_parameters_and_tokens() -> None:
    """The shared text stack is the encoder, the decoder's own self-attention and the head without its matrix."""
    counts = published("blip")
    assert counts["vision"] == 85_798_656 and counts["embed"] + counts["med"] == 137_258_496
    assert counts["decoder"] == 12 * 2_363_904 and counts["lm_head"] == 622_652
    assert counts["embed"] + counts["med"] + counts["decoder"] + counts["lm_head"] == 166_247_996
    assert {str(d) for d in visual_dims(graph("blip")).values()} == {"197"}
    assert set(visual_dims(graph("blip", None, "matching")).values()) == {Dim.of(577)}


@pytest.mark.parametrize(
    ("variant", "cls", "total"),
    [
        ("captioner", "BlipForConditionalGeneration", 223_971_644),
        ("matching", "BlipForImageTextRetrieval", 223_744_258),
        ("vqa", "BlipForQuestionAnswering", 361_230_140),
    ],
)
def test_parameters_of_published_classes(variant: str, cls: str, total: int) -> None:
    tf = pytest.importorskip("transformers")
    with torch.device("meta"):
        theirs = getattr(tf, cls)(tf.BlipConfig(vision_config={"image_size": 384}))
    theirs.tie_weights()
    assert published("blip", None, variant)["total"] == total == sum(p.numel() for p in theirs.parameters())


def test_parameters_of_the_large_captioner() -> None:
    tf = pytest.importorskip("transformers")
    tower = {"image_size": 384, "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16}
    with torch.device("meta"):
        theirs = tf.BlipForConditionalGeneration(tf.BlipConfig(vision_config=tower))
    theirs.tie_weights()
    assert published("blip", "large", "captioner")["total"] == 446_290_492 == sum(p.numel() for p in theirs.parameters())


def test_the_decoder_shares_all_but_self_attention() -> None:
    model = meta("blip")
    for name, parameter in model.decoder.named_parameters():
        own = "attention" in name.split(".")
        assert (parameter is model.med.get_parameter(name)) != own, name
    assert model.lm_head.decoder.weight is model.embed.tokens.weight
    assert count(model, "decoder") - count(model, "med") == 0
    assert count(model, "decoder", "med") - count(model, "med") == 12 * 2_363_904


# ---- three modes


def test_text_alone_has_no_cross_attention() -> None:
    given = pairs()
    model = lively("blip")
    assert "pixel_values" not in model.programs["embed_text"].graph().inputs
    before, grounded = run("embed_text", words(given)), run("match", given)
    with changed(model, "med.cross"):
        assert torch.equal(before, run("embed_text", words(given)))
        assert not torch.equal(grounded, run("match", given))
    with changed(model, "med.attention"):
        assert not torch.equal(before, run("embed_text", words(given)))
    other = {**given, "pixel_values": noise(3, 3, 48, 48, seed=7)}
    assert ((run("match", other) - grounded).abs().amax(1) > 1e-4).all()


def test_every_layer_reads_the_image_and_its_class_token() -> None:
    given, model = pairs(), lively("blip")
    assert all(layer.cross is not None for layer in model.med.layers)
    with torch.no_grad():
        image, x = model.vision(given["pixel_values"]), model.embed(given["input_ids"])
        assert image.shape == (3, 10, 40)
        whole = model.med(x, media=image)
        for place in range(10):
            image_ = image.clone()
            image_[:, place] += 1
            assert ((model.med(x, media=image_) - whole).flatten(1).norm(dim=1) > 1e-4).all(), place


def test_the_decoder_is_causal_and_the_encoder_is_not() -> None:
    given, at = pairs((9, 9, 9)), 5
    other = {**given, "input_ids": given["input_ids"].clone()}
    other["input_ids"][:, at] = 33
    moved = (run("caption", other) - run("caption", given)).abs().amax(-1)
    assert (moved[:, :at] == 0).all() and (moved[:, at:] > 1e-5).all()
    model = lively("blip")
    with torch.no_grad():
        image = model.vision(given["pixel_values"])
        states = [model.med(model.embed(ids), media=image) for ids in (given["input_ids"], other["input_ids"])]
    assert ((states[0] - states[1]).abs().amax(-1) > 1e-5).all()


def test_the_first_token_names_the_mode() -> None:
    """[ENC] and [DEC] stand where the text has whatever it has; the text alone keeps it."""
    given = pairs()
    other = {**given, "input_ids": given["input_ids"].clone()}
    other["input_ids"][:, 0] = 33
    for program in ("match", "caption"):
        assert torch.equal(run(program, given), run(program, other)), program
    assert not torch.equal(run("embed_text", words(given)), run("embed_text", words(other)))
    for program, token in (("match", ENC), ("caption", DEC)):
        before = run(program, given)
        table = lively("blip").embed.tokens.weight
        kept = table.detach().clone()
        with torch.no_grad():
            table[token, :9] += 1  # not all: a norm follows
            after = run(program, given)
            table.copy_(kept)
        assert (after - before).abs().max() > 1e-3, program


def test_padding_changes_nothing() -> None:
    given = pairs()
    for filler in (0, 33):
        other = {**given, "input_ids": given["input_ids"].masked_fill(given["attention_mask"] == 0, filler)}
        for program in ("match", "embed_text"):
            one, two = ((words(g) if program == "embed_text" else g) for g in (given, other))
            close(run(program, two), run(program, one))


# ---- pre-training


def test_contrast_by_hand() -> None:
    """alpha of the teacher's own softmax and 1 - alpha of the pair, over the teacher's batch and then the queue, both ways; alpha grows."""
    given, model = pairs(), lively("blip")
    with torch.no_grad():
        image, text_ = run("embed_image", {"pixel_values": given["pixel_values"]}).double(), run("embed_text", words(given)).double()
        image_keys, text_keys = (keys.double() for keys in teachers_keys(model, given))
        tau = model.itc_sim.temperature.double()
        for ramp in (1.0, 0.25):
            total = 0.0
            for x, keys, others in (
                (image, image_keys, torch.cat([text_keys, model.text_queue.rows])),
                (text_, text_keys, torch.cat([image_keys, model.image_queue.rows])),
            ):
                wanted = 0.4 * ramp * (keys @ others.t() / tau).softmax(1)
                wanted[torch.arange(3), torch.arange(3)] += 1 - 0.4 * ramp
                total -= (wanted * (x @ others.t() / tau).log_softmax(1)).sum(1).mean().item() / 2
            given_ramp = {} if ramp == 1 else {"soft_ramp": torch.tensor(ramp)}
            loss = model.programs["objective.itc"](**given, **given_ramp)["loss"].item()
            assert loss == pytest.approx(total, rel=1e-5)


def test_hard_negatives_follow_the_teacher(monkeypatch: pytest.MonkeyPatch) -> None:
    """A text's image is drawn by its likeness to the teacher's images, an image's text by that to the teacher's texts."""
    given, model = pairs(), lively("blip")
    seen: list[Tensor] = []
    monkeypatch.setattr(model.pairs, "draw", lambda scores: seen.append(scores) or torch.tensor([1, 2, 0]))
    with torch.no_grad():
        model.programs["objective.itm"](**given)
        image, text_ = run("embed_image", {"pixel_values": given["pixel_values"]}), run("embed_text", words(given))
        image_keys, text_keys = teachers_keys(model, given)
    tau = model.itc_sim.temperature
    close(seen[0], text_ @ image_keys.t() / tau)
    close(seen[1], image @ text_keys.t() / tau)


def teachers_keys(model: CompiledModel, given: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    teacher = model.teacher
    states = teacher.med(teacher.embed(given["input_ids"]), given["attention_mask"])
    parts = teacher.image_proj(teacher.vision(given["pixel_values"])[:, 0]), teacher.text_proj(states[:, 0])
    return torch.nn.functional.normalize(parts[0], dim=-1), torch.nn.functional.normalize(parts[1], dim=-1)


def test_how_negatives_are_drawn() -> None:
    """softmax over the whole batch + 1e-4, the own pair struck out afterwards: a sure model draws almost evenly."""
    negatives = fresh("blip").pairs
    negatives.generator = torch.Generator().manual_seed(3)
    scores = torch.tensor([[12.0, 1.0, 0.0, -1.0], [0.5, 0.0, 0.7, 0.5], [-4.0, 2.0, 30.0, 1.0], [1.0, 2.0, 3.0, 0.0]])
    weights = scores.double().softmax(1) + 1e-4
    weights.fill_diagonal_(0)
    wanted, draws = weights / weights.sum(1, keepdim=True), 800
    seen = torch.stack([negatives.draw(scores) for _ in range(draws)])
    have = torch.stack([torch.bincount(seen[:, row], minlength=4) for row in range(4)]).double() / draws
    assert (have.diagonal() == 0).all()
    assert ((have - wanted).abs() <= 5 * (wanted * (1 - wanted) / draws).sqrt() + 1e-6).all()  # five standard errors
    assert wanted[2].max() < 0.35 and scores[2].double().masked_fill(torch.arange(4) == 2, float("-inf")).softmax(0).max() > 0.7


def test_the_teacher_follows() -> None:
    """Half a percent of the way before each forward pass; it starts as a copy and gets no gradient."""
    model = enliven(fresh("blip"))
    begin(model, "pretrain")
    assert torch.equal(model.teacher.med.layers[0].cross.q.weight, model.med.layers[0].cross.q.weight)
    before = {name: p.detach().clone() for name, p in model.teacher.named_parameters()}
    with torch.no_grad():
        for part in ("vision", "embed", "med", "image_proj", "text_proj"):
            for parameter in getattr(model, part).parameters():
                parameter.add_(torch.randn_like(parameter))
    after_step(model)
    assert all(torch.equal(p, before[name]) for name, p in model.teacher.named_parameters())
    before_step(model)
    for name, parameter in model.teacher.named_parameters():
        part, _, rest = name.partition(".")
        source = getattr(model, part).get_parameter(rest)
        close(parameter - before[name], 0.005 * (source - before[name]), 1e-4)  # a difference of close numbers
        assert not parameter.requires_grad


def test_queues_hold_the_teachers_keys() -> None:
    model, given = enliven(fresh("blip")).train(), pairs()
    first = model.image_queue.rows.clone()
    assert (first.norm(dim=1) - 1).abs().max() < 1e-5 and first.shape == (12, 28)
    with torch.no_grad():
        keys, _ = teachers_keys(model, given)
        for step in range(1, 5):
            model.programs["objective.itc"](**given)
            after_step(model)
            assert int(model.image_queue.place) == int(model.text_queue.place) == 3 * step % 12
            close(model.image_queue.rows[3 * step - 3 : 3 * step], keys)
            assert torch.equal(model.image_queue.rows[3 * step :], first[3 * step :])


def test_temperature_stays_within_its_bounds() -> None:
    model = fresh("blip")
    for value, kept in ((0.9, 0.5), (1e-5, 0.001), (0.2, 0.2)):
        with torch.no_grad():
            model.itc_sim.temperature.fill_(value)
        after_step(model)
        assert model.itc_sim.temperature.item() == pytest.approx(kept)


def test_pretraining_trains_everything_but_the_teacher() -> None:
    model = enliven(fresh("blip"))
    names = trains(model, "pretrain", pairs((9, 6)), steps=2)
    assert names == {name for name, _ in model.named_parameters() if not name.startswith("teacher.")}


def test_a_caption_begins_with_its_own_token_and_decodes_with_a_cache() -> None:
    model = lively("blip", variant="captioner")
    prompt = random_ids(2, 5, low=10, high=79)
    prompt[:, 0] = DEC
    given = {"pixel_values": noise(2, 3, 48, 48), "input_ids": prompt}
    wanted = model.generate(**given, max_new_tokens=5, use_cache=False)
    assert torch.equal(model.generate(**given, max_new_tokens=5), wanted)
    other = model.generate(**{**given, "pixel_values": noise(2, 3, 48, 48, seed=5)}, max_new_tokens=5)
    assert not torch.equal(other, wanted)


# ---- retrieval


def test_retrieval_reads_the_best_once_more() -> None:
    """By hand, both ways: cosine and the logit of a match for the top two, -100 for the rest."""
    model, procedure = lively("blip"), graph("blip").procedures["retrieve"]
    assert isinstance(procedure, Retrieval) and procedure.top == 256
    pictures, (ids, mask) = noise(3, 3, 48, 48), text((9, 6, 4, 7))
    texts = {"input_ids": ids, "attention_mask": mask}
    by_image, by_text = retrieve(model, procedure.model_copy(update={"top": 2}), {"pixel_values": pictures}, texts, batch=4)
    assert by_image.shape == (3, 4) and by_text.shape == (4, 3)
    cosine = run("embed_image", {"pixel_values": pictures}) @ run("embed_text", texts).t()
    for scores, found, of_image in ((cosine, by_image, True), (cosine.t(), by_text, False)):
        for row in range(len(scores)):
            best = scores[row].topk(2).indices.tolist()
            for column in range(scores.shape[1]):
                i, t = (row, column) if of_image else (column, row)
                one = {"pixel_values": pictures[i : i + 1], "input_ids": ids[t : t + 1], "attention_mask": mask[t : t + 1]}
                wanted = (scores[row, column] + run("match", one)[0, 1]).item() if column in best else -100.0
                assert found[row, column].item() == pytest.approx(wanted, abs=1e-5)
    alone = retrieve(model, Retrieval(image="embed_image", text="embed_text"), {"pixel_values": pictures}, texts)
    close(alone[0], cosine)
    close(alone[1], cosine.t())
