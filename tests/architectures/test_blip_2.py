"""BLIP-2's first stage (arXiv 2301.12597, sections 3.1 and 3.2): one Q-Former under three masks, three objectives."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.architectures.common import changed, close, enliven, fresh, lively, meta, moved, noise, padded, random_ids, trains
from vlmgraph.components.connector.qformer import QFormer
from vlmgraph.train.stage import begin

CLS, SEP, DEC, IMAGE = 80, 81, 89, 319
QUERIES = 7


def text(lengths: tuple[int, ...] = (9, 6, 4), seed: int = 2) -> tuple[Tensor, Tensor]:
    """[CLS] words [SEP], padded with 0 on the right, and the mask."""
    ids = random_ids(len(lengths), max(lengths), low=10, high=79, seed=seed)
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    ids[:, 0] = CLS
    ids[torch.arange(len(lengths)), torch.tensor(lengths) - 1] = SEP
    return ids.masked_fill(~mask, 0), mask.long()


def pairs(lengths: tuple[int, ...] = (9, 6, 4)) -> dict[str, Tensor]:
    ids, mask = text(lengths)
    return {"pixel_values": noise(len(lengths), 3, 42, 42), "qformer_ids": ids, "qformer_mask": mask}


# ---- the Q-Former


def test_cross_attention_every_other_layer() -> None:
    """Section 3.1: cross-attention is inserted every other transformer block, from the first; k and v read 1408-d image tokens."""
    layers = meta("blip-2").qformer.layers
    assert [i for i, layer in enumerate(layers) if layer.cross is not None] == [0, 2, 4, 6, 8, 10]
    assert layers[0].cross.k.weight.shape == layers[0].cross.v.weight.shape == (768, 1408)
    with changed(lively("blip-2"), "qformer.layers.0.cross.k.weight", "qformer.layers.2.cross.k.weight"):
        one = lively("blip-2").programs["embed_image"](pixel_values=noise(1, 3, 42, 42))["image_embeds"]
    two = lively("blip-2").programs["embed_image"](pixel_values=noise(1, 3, 42, 42))["image_embeds"]
    assert not torch.equal(one, two)


def test_first_values() -> None:
    """Queries and cross-attention N(0, 0.02), the queries' MLP a copy of the text's."""
    torch.manual_seed(0)
    qformer = QFormer(d_image=48, layers=2, vocab=50, max_positions=20).build()
    qformer.init_weights()
    for tensor in (qformer.queries, qformer.layers[0].cross.q.weight, qformer.layers[0].cross.v.weight):
        assert abs(tensor.std().item() - 0.02) < 5e-4 and abs(tensor.mean().item()) < 5e-4
    assert len({tuple(row.tolist()) for row in qformer.queries}) == 32  # not all alike
    for layer in qformer.layers:
        for (name, own), (other, twin) in zip(*(layer.mlp.experts[e].named_parameters() for e in ("query", "text"))):
            assert name == other and torch.equal(own, twin) and own.data_ptr() != twin.data_ptr()


def allowed(rule: str, queries: int, mask: Tensor) -> Tensor:
    """Who may see whom over [queries; text], written out place by place (figure 2)."""
    batch, words = mask.shape
    see = torch.zeros(batch, queries + words, queries + words, dtype=torch.bool)
    for b in range(batch):
        for row in range(queries + words):
            for column in range(queries + words):
                query, key = row < queries, column < queries
                if not key and not mask[b, column - queries]:
                    continue  # padding
                if rule == "unimodal":
                    see[b, row, column] = query == key
                elif rule == "bidirectional":
                    see[b, row, column] = True
                else:
                    see[b, row, column] = key or (not query and column <= row)
    return see


def by_hand(weights: Mapping[str, Tensor], image: Tensor, ids: Tensor, see: Tensor, layers: int = 4, heads: int = 4) -> Tensor:
    """The Q-Former as BERT's equations: [queries; text] in one self-attention, image and own MLP for the queries, post-norm."""

    def linear(x: Tensor, name: str) -> Tensor:
        return F.linear(x, weights[f"{name}.weight"], weights[f"{name}.bias"])

    def norm(x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], weights[f"{name}.weight"], weights[f"{name}.bias"], 1e-12)

    def attend(x: Tensor, source: Tensor, name: str, see: Tensor | None) -> Tensor:
        q, k, v = (linear(y, f"{name}.{p}").unflatten(-1, (heads, -1)).transpose(1, 2) for y, p in ((x, "q"), (source, "k"), (source, "v")))
        scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
        if see is not None:
            scores = scores.masked_fill(~see[:, None], float("-inf"))
        return linear((scores.softmax(-1) @ v).transpose(1, 2).flatten(2), f"{name}.out")

    def mlp(x: Tensor, layer: str, expert: str) -> Tensor:
        y = linear(F.gelu(linear(x, f"{layer}.mlp.experts.{expert}.fc1")), f"{layer}.mlp.experts.{expert}.fc2")
        return norm(x + y, f"{layer}.norms.mlp.experts.{expert}")

    queries = weights["queries"].expand(len(ids), -1, -1)
    count = queries.shape[1]
    words = weights["embed.tokens.weight"][ids] + weights["embed.positions.weight"][: ids.shape[1]]
    x = norm(torch.cat([queries, words], 1), "embed.norm")
    for i in range(layers):
        layer = f"layers.{i}"
        x = norm(x + attend(x, x, f"{layer}.attention", see), f"{layer}.norms.attention")
        queries, words = x[:, :count], x[:, count:]
        if i % 2 == 0:
            queries = norm(queries + attend(queries, image, f"{layer}.cross", None), f"{layer}.norms.cross")
        x = torch.cat([mlp(queries, layer, "query"), mlp(words, layer, "text")], 1)
    return x


@pytest.mark.parametrize("rule", ["unimodal", "bidirectional", "multimodal_causal"])
@torch.no_grad()
def test_the_equations(rule: str) -> None:
    qformer = lively("blip-2").qformer
    ids, mask = text()
    image = noise(3, 10, 40)
    out = qformer(image=image, ids=ids, ids_mask=mask, mask=rule)
    wanted = by_hand(qformer.state_dict(), image, ids, allowed(rule, QUERIES, mask))
    real = mask.bool()
    close(out["queries"], wanted[:, :QUERIES])
    close(out["text"][real], wanted[:, QUERIES:][real])


def outputs(program: str, **inputs: Tensor) -> Mapping[str, Tensor]:
    with torch.no_grad():
        return lively("blip-2").programs[program](**inputs)


def joint(rule: str, image: Tensor, ids: Tensor, mask: Tensor) -> Mapping[str, Tensor]:
    with torch.no_grad():
        return lively("blip-2").qformer(image=image, ids=ids, ids_mask=mask, mask=rule)


def test_unimodal_mask_of_contrast() -> None:
    """Section 3.2, ITC: queries and text never see each other, so images and texts may differ in number."""
    given = pairs()
    out = outputs("contrast", **given)
    other = outputs("contrast", **given | {"qformer_ids": text(seed=8)[0]})
    assert torch.equal(out["image_embeds"], other["image_embeds"]) and not torch.equal(out["text_embeds"], other["text_embeds"])
    other = outputs("contrast", **given | {"pixel_values": noise(3, 3, 42, 42, seed=8)})
    assert torch.equal(out["text_embeds"], other["text_embeds"]) and not torch.equal(out["image_embeds"], other["image_embeds"])
    two = outputs("contrast", **given | {"pixel_values": given["pixel_values"][:2]})["logits_per_image"]
    assert two.shape == (2, 3)
    close(two, out["logits_per_image"][:2])
    close(outputs("embed_image", pixel_values=given["pixel_values"])["image_embeds"], out["image_embeds"])
    assert outputs("embed_image", pixel_values=given["pixel_values"])["image_embeds"].norm(dim=-1).allclose(torch.ones(3, QUERIES))


def test_bidirectional_mask_of_matching() -> None:
    """ITM: everything sees everything but padding."""
    ids, mask = text((6,))
    image = noise(1, 10, 40)
    out = joint("bidirectional", image, ids, mask)
    last = ids.clone()
    last[0, -1] += 3
    other = joint("bidirectional", image, last, mask)
    assert all(moved(out["queries"], other["queries"])) and all(moved(out["text"], other["text"]))
    other = joint("bidirectional", image + 1, ids, mask)
    assert all(moved(out["text"], other["text"]))
    wide, longer = padded(ids, mask, right=3)
    filled = wide.clone()
    filled[0, 6:] = torch.tensor([11, 12, 13])
    one, two = (joint("bidirectional", image, x, longer)["queries"] for x in (wide, filled))
    assert torch.equal(one, two)
    close(one, out["queries"])


def test_causal_mask_of_captions() -> None:
    """ITG: queries see queries alone; a word sees all queries, the words before it and itself."""
    ids, mask = text((8,))
    image = noise(1, 10, 40)
    out = joint("multimodal_causal", image, ids, mask)
    changed_at = 4
    other_ids = ids.clone()
    other_ids[0, changed_at] += 3
    other = joint("multimodal_causal", image, other_ids, mask)
    assert not any(moved(out["queries"], other["queries"]))
    assert moved(out["text"], other["text"]) == [t >= changed_at for t in range(8)]
    assert all(moved(out["text"], joint("multimodal_causal", image + 1, ids, mask)["text"]))
    close(out["queries"], joint("unimodal", image, ids, mask)["queries"])  # so their keys and values may be kept from the other pass
    for query in range(QUERIES):  # every single query reaches the first word
        vector = lively("blip-2").qformer.queries
        kept = vector[query].clone()
        with torch.no_grad():
            vector[query] += 1
            assert all(moved(out["text"], joint("multimodal_causal", image, ids, mask)["text"]))
            vector[query] = kept


def test_what_is_added_to_queries_and_words() -> None:
    """Queries have no position and no table; one shared norm stands behind both; words count their places from 0."""
    model = lively("blip-2")
    image, (ids, mask) = noise(2, 3, 42, 42), text((5, 5))
    before = outputs("embed_image", pixel_values=image)["image_embeds"]
    words = outputs("embed_text", qformer_ids=ids, qformer_mask=mask)["text_embeds"]
    with changed(model, "qformer.embed.tokens", "qformer.embed.positions", "qformer.text"):
        assert torch.equal(before, outputs("embed_image", pixel_values=image)["image_embeds"])
    for part in ("qformer.embed.norm", "qformer.attention"):
        with changed(model, part):
            assert not torch.equal(before, outputs("embed_image", pixel_values=image)["image_embeds"])
            assert not torch.equal(words, outputs("embed_text", qformer_ids=ids, qformer_mask=mask)["text_embeds"])
    with changed(model, "qformer.queries", "qformer.query", "qformer.cross"):
        assert torch.equal(words, outputs("embed_text", qformer_ids=ids, qformer_mask=mask)["text_embeds"])
    table = model.qformer.embed.positions.weight
    kept = table.detach().clone()
    with torch.no_grad():
        table[5:] += 1  # places that five words do not have, also beside the queries
        assert torch.equal(words, outputs("embed_text", qformer_ids=ids, qformer_mask=mask)["text_embeds"])
        one = outputs("match", pixel_values=image, qformer_ids=ids, qformer_mask=mask)["itm_logits"]
        table.copy_(kept)
        assert torch.equal(one, outputs("match", pixel_values=image, qformer_ids=ids, qformer_mask=mask)["itm_logits"])


# ---- objectives of the first stage (section 3.2)


def smoothed(logits: Tensor, label: int, by: float = 0.1) -> float:
    """Cross entropy against (1 - by) on the label and by / n on every class."""
    log_p = logits.double().log_softmax(-1)
    return (-(1 - by) * log_p[label] - by * log_p.mean()).item()


def test_contrastive_loss() -> None:
    """s(I, T) = the largest of 32 cosines / tau; both directions, smoothing 0.1, the batch as negatives; tau starts at 0.07."""
    given = pairs()
    model = lively("blip-2")
    out = outputs("contrast", **given)
    scores = torch.zeros(3, 3, dtype=torch.double)
    for i in range(3):
        for t in range(3):
            scores[i, t] = (
                max(float(q.double() @ out["text_embeds"][t].double()) for q in out["image_embeds"][i]) / model.itc_sim.temperature.item()
            )
    close(out["logits_per_image"].double(), scores)
    wanted = sum(smoothed(scores[i], i) + smoothed(scores[:, i], i) for i in range(3)) / 6
    assert abs(outputs("objective.itc", **given)["loss"].item() - wanted) < 1e-5
    assert fresh("blip-2").itc_sim.temperature.item() == pytest.approx(0.07)


def test_matching_is_the_mean_over_queries() -> None:
    """ITM: a two-class head on every query, the logits averaged."""
    given = pairs()
    model = lively("blip-2")
    with torch.no_grad():
        image = model.ln_vision(model.vision(given["pixel_values"]))
        each = model.itm_head(joint("bidirectional", image, given["qformer_ids"], given["qformer_mask"])["queries"])
    assert each.shape == (3, QUERIES, 2)
    close(outputs("match", **given)["itm_logits"], each.mean(1))


def test_matching_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    """Own pairs, then every text with a wrong image, then every image with a wrong text; labels 1, 0, 0."""
    given = pairs()
    model = lively("blip-2")
    drawn: list[Tensor] = []

    def draw(scores: Tensor) -> Tensor:
        drawn.append(scores.clone())
        return torch.tensor([1, 2, 0]) if len(drawn) == 1 else torch.tensor([2, 0, 1])

    monkeypatch.setattr(model.pairs, "draw", draw)
    loss = outputs("objective.itm", **given)["loss"].item()
    similarity = outputs("contrast", **given)["logits_per_image"]
    close(drawn[0], similarity.t())  # for every text a row of images
    close(drawn[1], similarity)
    image, ids, mask = given.values()
    wrong_image, wrong_text = torch.tensor([1, 2, 0]), torch.tensor([2, 0, 1])
    total = 0.0
    for pixels, words, real, label in (
        (image, ids, mask, 1),
        (image[wrong_image], ids, mask, 0),
        (image, ids[wrong_text], mask[wrong_text], 0),
    ):
        logits = outputs("match", pixel_values=pixels, qformer_ids=words, qformer_mask=real)["itm_logits"].double()
        total -= logits.log_softmax(-1)[:, label].sum().item()
    assert abs(loss - total / 9) < 1e-5


def test_hard_negatives_follow_the_similarity() -> None:
    """Drawn from the softmax of the similarity with the own pair left out (as ALBEF)."""
    scores = torch.tensor([[9.0, 1.0, 0.0, -1.0], [0.5, 9.0, 0.5, 0.5], [-40.0, 2.0, 90.0, -50.0], [1.0, 2.0, 3.0, 9.0]])
    negatives = fresh("blip-2").pairs
    negatives.generator = torch.Generator().manual_seed(3)
    draws = 4000
    seen = torch.stack([negatives.draw(scores) for _ in range(draws)])
    for row in range(4):
        weights = scores[row].double()
        weights[row] = float("-inf")
        wanted = weights.softmax(0)
        have = torch.bincount(seen[:, row], minlength=4).double() / draws
        assert have[row] == 0
        assert ((have - wanted).abs() <= 5 * (wanted * (1 - wanted) / draws).sqrt() + 1e-6).all()  # five standard errors


def test_caption_loss() -> None:
    """ITG: [CLS] is replaced by [DEC]; every next word, smoothing 0.1, padding does not count; the head shares the word table."""
    given = pairs()
    other = given["qformer_ids"].clone()
    other[:, 0] = 33
    logits = outputs("caption", **given)["itg_logits"]
    assert torch.equal(logits, outputs("caption", **given | {"qformer_ids": other})["itg_logits"])
    assert not torch.equal(
        outputs("contrast", **given)["text_embeds"], outputs("contrast", **given | {"qformer_ids": other})["text_embeds"]
    )
    with torch.no_grad():
        model = lively("blip-2")
        other[:, 0] = DEC
        image = model.ln_vision(model.vision(given["pixel_values"]))
        close(logits, model.itg_head(joint("multimodal_causal", image, other, given["qformer_mask"])["text"]))
    kept = [(b, t) for b in range(3) for t in range(8) if given["qformer_mask"][b, t + 1]]
    wanted = sum(smoothed(logits[b, t], int(given["qformer_ids"][b, t + 1])) for b, t in kept) / len(kept)
    assert abs(outputs("objective.itg", **given)["loss"].item() - wanted) < 1e-5
    assert model.itg_head.decoder.weight is model.qformer.embed.tokens.weight


def test_stage_one_trains() -> None:
    """Figure 2: the Q-Former, its queries, heads and ln_vision; the image encoder is frozen. Two pairs have one negative each."""
    names = trains(fresh("blip-2"), "representation", pairs((9, 6)))
    heads = ("image_proj", "text_proj", "itc_sim", "itm_head", "itg_head")
    assert {n.partition(".")[0] for n in names} == {"qformer", "ln_vision", *heads}


@pytest.mark.parametrize(
    ("objective", "steps", "bound", "head", "untouched"),
    [
        ("itc", 8, 0.55, ("image_proj", "text_proj", "itc_sim"), ("itm_head", "itg_head.transform")),
        ("itm", 34, 0.55, ("itm_head",), ("image_proj", "text_proj", "itg_head.transform")),
        ("itg", 8, 4.2, ("itg_head",), ("image_proj", "text_proj", "itc_sim", "itm_head")),
    ],
)
def test_each_objective_learns(objective: str, steps: int, bound: float, head: tuple[str, ...], untouched: tuple[str, ...]) -> None:
    """Below what a model that ignores its input can reach: log 2 of two pairs, 0.637 of one pair in three, log 90 of the words."""
    model = enliven(fresh("blip-2"))  # with its small first values all images look alike for many steps
    begin(model, "representation")
    given = pairs((9, 6))
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=2e-3)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = model.programs[f"objective.{objective}"](**given)["loss"]
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < bound < losses[0], losses
    reached = {n for n, p in model.named_parameters() if p.grad is not None and bool(p.grad.any())}
    assert all(any(n.startswith(h) for n in reached) for h in head) and not any(n.startswith(untouched) for n in reached)
