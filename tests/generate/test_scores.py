"""Rules for scores against those of transformers where it has them, and by hand."""

from __future__ import annotations

import pytest
import torch

from vlmgraph.lower.generate import Draw, Options
from vlmgraph.lower.generate import scores as S

NEVER = float("-inf")


def random(rows: int = 3, vocabulary: int = 40) -> torch.Tensor:
    return torch.randn(rows, vocabulary, generator=torch.Generator().manual_seed(0)) * 3


def text(rows: int = 3, length: int = 12, below: int = 6) -> torch.Tensor:
    """Few tokens, so that runs come twice."""
    return torch.randint(0, below, (rows, length), generator=torch.Generator().manual_seed(1))


RULES = {
    "repetition": (S.RepetitionPenalty(1.7), "RepetitionPenaltyLogitsProcessor", (1.7,)),
    "ngram": (S.NoRepeatNgram(3), "NoRepeatNGramLogitsProcessor", (3,)),
    "unigram": (S.NoRepeatNgram(1), "NoRepeatNGramLogitsProcessor", (1,)),
    "suppress": (S.Suppress([3, 9]), "SuppressTokensLogitsProcessor", ([3, 9],)),
    "force": (S.Force([7, 8], at=12), "ForcedEOSTokenLogitsProcessor", (13, [7, 8])),
    "temperature": (S.Temperature(0.3), "TemperatureLogitsWarper", (0.3,)),
    "top_k": (S.TopK(5), "TopKLogitsWarper", (5,)),
    "top_p": (S.TopP(0.8), "TopPLogitsWarper", (0.8,)),
    "top_p_two": (S.TopP(0.01, least=2), "TopPLogitsWarper", (0.01, NEVER, 2)),
    "min_p": (S.MinP(0.1), "MinPLogitsWarper", (0.1,)),
}


@pytest.mark.parametrize("name", RULES)
def test_as_transformers_has_it(name):
    library = pytest.importorskip("transformers", minversion="5.0").generation.logits_process
    rule, theirs, arguments = RULES[name]
    ids, scores = text(), random()
    got = rule(ids, scores.clone())
    assert torch.equal(got, getattr(library, theirs)(*arguments)(ids, scores.clone()))
    assert not torch.equal(got, scores)


def test_bad_words_are_not_completed():
    library = pytest.importorskip("transformers", minversion="5.0").generation.logits_process
    ids, scores = text(), random()
    words = [[5], [int(ids[0, -1]), 8], [int(ids[1, -2]), int(ids[1, -1]), 11], [39] * 20]
    got = S.BadWords(words)(ids, scores)
    assert torch.equal(got, library.NoBadWordsLogitsProcessor(words, eos_token_id=torch.tensor([0]))(ids, scores))
    assert got[0, 8] == NEVER and got[1, 11] == NEVER and (got[:, 5] == NEVER).all() and got[2, 20] == scores[2, 20]


def test_padding_and_foreign_ids_say_nothing():
    """-1 stands in front of a shorter row; placeholders may lie outside the scores."""
    scores = random(1, 10)
    row = torch.tensor([[4, 2, 4]])
    padded = torch.tensor([[-1, -1, 4, 2, 4]])
    for rule in (S.RepetitionPenalty(2.0), S.NoRepeatNgram(2), S.BadWords([[4, 3]])):
        assert torch.equal(rule(padded, scores), rule(row, scores))
    assert torch.equal(S.RepetitionPenalty(2.0)(torch.tensor([[4, 2, 99]]), scores), S.RepetitionPenalty(2.0)(row, scores))


def test_the_end_waits_for_the_least_length():
    rules = S.text_rules(Options(min_new_tokens=3, eos_token_id=2), prompt=4)
    short, long = (S.applied(rules, torch.zeros(1, n, dtype=torch.long), random(1)) for n in (6, 7))
    assert short[0, 2] == NEVER and long[0, 2] != NEVER


def test_a_row_draws_by_its_own_seed():
    """Whatever stands in the other rows, and however many there are."""
    scores = random(4)
    whole = [Draw(True, 4, 5)(scores) for _ in range(2)]
    assert torch.equal(*whole)
    many = torch.stack([draw(scores) for draw in [Draw(True, 4, 5)] for _ in range(60)])
    for row in range(4):
        draw = Draw(True, 1, 5 + row)
        assert torch.equal(torch.cat([draw(scores[row : row + 1]) for _ in range(60)]), many[:, row])
    assert torch.equal(Draw(True, 4, (8, 5, 7, 6))(scores[[3, 0, 2, 1]]), Draw(True, 4, 5)(scores)[[3, 0, 2, 1]])
    assert not torch.equal(many[:, 0], many[:, 1])


def test_seeded_tokens_come_as_often_as_they_are_likely():
    scores = torch.log(torch.tensor([[0.5, 0.0, 0.3, 0.2, 0.0]]))
    draw = Draw(True, 1, 0)
    found = torch.bincount(torch.cat([draw(scores) for _ in range(4000)]), minlength=5) / 4000
    assert found[1] == found[4] == 0
    torch.testing.assert_close(found, scores.exp()[0], atol=0.03, rtol=0)  # four standard deviations: 0.032
