"""MetaCLIP's curation (arXiv 2309.16671, section 3): substring matching and balancing."""

from __future__ import annotations

import random
from collections.abc import Iterator

import numpy as np
import pytest

from vlmgraph.train.curation import SPACES, Metadata, balance, counts, kept, probabilities


def test_entries_match_whole_words_with_their_case() -> None:
    metadata = Metadata(["the", "cat", "the sea", "."])
    for text, found in (
        ("in the sea", [0, 2]),
        ("there", []),
        ("a cat.", [1, 3]),
        ("a Cat", []),
        ("cat\tcat", [1]),
        ("the  sea", [0]),
        ("", []),
    ):
        assert metadata.match(text) == found, text


def test_matching_is_the_search_for_substrings() -> None:
    """As defined: ' ' + entry + ' ' in ' ' + text + ' '."""
    letters = random.Random(3)
    entries = sorted({" ".join(letters.choices("abc,", k=letters.randint(1, 3))) for _ in range(40)})
    metadata = Metadata(entries)
    for _ in range(300):
        text = "".join(letters.choices("abc ,\n", k=letters.randint(0, 20)))
        spaced = f" {text.translate(SPACES)} "
        assert metadata.match(text) == [i for i, entry in enumerate(entries) if f" {entry} " in spaced], text


@pytest.fixture(scope="module")
def pool() -> list[str]:
    """2000 texts of a head entry, 100 of a tail entry, some of neither."""
    return ["head"] * 2000 + ["tail"] * 100 + ["none of them"] * 50


def test_head_entries_keep_t_and_tail_entries_all(pool: list[str]) -> None:
    metadata = Metadata(["head", "tail"])
    counted = counts(pool, metadata)
    assert counted.tolist() == [2000, 100]
    chosen = [text for _, text in balance(pool, metadata, counted, 200)]
    assert chosen.count("tail") == 100 and len(set(chosen)) == 2
    assert abs(chosen.count("head") - 200) <= 4 * (200 * 0.9) ** 0.5
    assert [place for place, _ in balance(pool, metadata, counted, float("inf"))] == list(range(2100)), "all that match"
    assert not list(balance(pool, metadata, counted, 0))


def test_every_entry_of_a_text_draws_for_itself() -> None:
    """Two entries of probability 0.1 keep 1 - 0.9^2 of their texts, not 0.1; both forms agree, and a text is kept once."""
    pool, counted = ["a b"] * 20_000, np.array([20_000, 20_000])
    assert probabilities(counted, 2000).tolist() == [0.1, 0.1]
    share = [place for place, _ in balance(pool, Metadata(["a", "b"]), counted, 2000)]
    index = kept(np.tile([0, 1], 20_000), np.repeat(np.arange(20_000), 2), counted, 2000)
    for found in (share, index.tolist()):
        assert abs(len(found) / 20_000 - 0.19) < 4 * (0.19 * 0.81 / 20_000) ** 0.5
        assert found == sorted(set(found))
    assert share == index.tolist(), "the same draws in the same order"


def test_texts_are_read_one_at_a_time() -> None:
    read = 0

    def lines() -> Iterator[str]:
        nonlocal read
        while True:
            read += 1
            yield "a\n"

    kept_ = balance(lines(), Metadata(["a"]), np.array([1]), 5)
    assert [next(kept_) for _ in range(3)] == [(0, "a\n"), (1, "a\n"), (2, "a\n")] and read == 3
