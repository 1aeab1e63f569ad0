"""What is done to the scores of the next token before one is taken: small functions of (ids, scores), one behind the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .options import Options

Rule = Callable[[Tensor, Tensor], Tensor]
"""(ids [R, n], scores [R, V]) → scores [R, V]. Padding in front of a row is -1 in the ids."""
NEVER = float("-inf")


class RepetitionPenalty:
    """Scores of tokens that stand in the text: divided where positive, multiplied where negative (CTRL, arXiv 1909.05858, section 4.1)."""

    def __init__(self, penalty: float) -> None:
        self.penalty = penalty

    def __call__(self, ids: Tensor, scores: Tensor) -> Tensor:
        there = torch.zeros(len(scores), scores.shape[1] + 1, dtype=torch.bool, device=scores.device)
        known = (ids >= 0) & (ids < scores.shape[1])
        there.scatter_(1, torch.where(known, ids, scores.shape[1]), True)
        weakened = torch.where(scores < 0, scores * self.penalty, scores / self.penalty)
        return torch.where(there[:, :-1], weakened, scores)


class NoRepeatNgram:
    """No run of `size` tokens twice."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __call__(self, ids: Tensor, scores: Tensor) -> Tensor:
        if ids.shape[1] < self.size:
            return scores
        runs = ids.unfold(1, self.size, 1)  # [R, n - size + 1, size]
        latest = ids[:, ids.shape[1] - self.size + 1 :]
        again = (runs[:, :, :-1] == latest[:, None]).all(2) & (runs >= 0).all(2)
        return forbidden(scores, runs[:, :, -1], again)


class BadWords:
    """Words of one or more ids that must not be completed."""

    def __init__(self, words: Sequence[Sequence[int]]) -> None:
        self.words = [torch.tensor(word) for word in words]

    def __call__(self, ids: Tensor, scores: Tensor) -> Tensor:
        for word in self.words:
            word = word.to(ids.device)
            before, last = word[:-1], word[-1:]
            if len(before) > ids.shape[1]:
                continue
            begun = (ids[:, ids.shape[1] - len(before) :] == before).all(1, keepdim=True)
            scores = forbidden(scores, last.expand(len(ids), 1), begun)
        return scores


class Suppress:
    """Tokens that are not taken as long as the text is shorter than `until`; None: ever."""

    def __init__(self, tokens: Sequence[int], until: int | None = None) -> None:
        self.tokens, self.until = torch.tensor(tokens), until

    def __call__(self, ids: Tensor, scores: Tensor) -> Tensor:
        if self.until is not None and ids.shape[1] >= self.until:
            return scores
        tokens = self.tokens.to(ids.device).expand(len(ids), -1)
        return forbidden(scores, tokens, torch.ones_like(tokens, dtype=torch.bool))


class Force:
    """One of these tokens where the text is `at` tokens long."""

    def __init__(self, tokens: Sequence[int], at: int) -> None:
        self.tokens, self.at = list(tokens), at

    def __call__(self, ids: Tensor, scores: Tensor) -> Tensor:
        if ids.shape[1] != self.at:
            return scores
        forced = torch.full_like(scores, NEVER)
        forced[:, self.tokens] = 0.0
        return forced


class Temperature:
    """Scores divided by a number; 0 leaves nothing but the likeliest token."""

    def __init__(self, value: float) -> None:
        self.value = max(value, 1e-6)

    def __call__(self, ids: Tensor, scores: Tensor) -> Tensor:
        return scores / self.value


class TopK:
    """The k likeliest tokens."""

    def __init__(self, count: int, least: int = 1) -> None:
        self.count = max(count, least)

    def __call__(self, ids: Tensor, scores: Tensor) -> Tensor:
        kept = scores.topk(min(self.count, scores.shape[-1])).values[:, -1:]
        return scores.masked_fill(scores < kept, NEVER)


class TopP:
    """The fewest likeliest tokens that have a probability together (nucleus, arXiv 1904.09751, section 3.1)."""

    def __init__(self, share: float, least: int = 1) -> None:
        self.share, self.least = share, least

    def __call__(self, ids: Tensor, scores: Tensor) -> Tensor:
        ordered, index = scores.sort(descending=True)
        part = ordered.softmax(-1)
        out = part.cumsum(-1) - part >= self.share
        out[:, : self.least] = False
        return scores.masked_fill(torch.zeros_like(out).scatter(1, index, out), NEVER)


class MinP:
    """Tokens at least so likely, beside the likeliest (arXiv 2407.01082)."""

    def __init__(self, share: float) -> None:
        self.share = share

    def __call__(self, ids: Tensor, scores: Tensor) -> Tensor:
        part = scores.softmax(-1)
        return scores.masked_fill(part < self.share * part.amax(-1, keepdim=True), NEVER)


def forbidden(scores: Tensor, tokens: Tensor, which: Tensor) -> Tensor:
    """Scores [R, V] with `tokens` [R, n] out of the question where `which` [R, n]; ids outside the vocabulary are nobody's."""
    out = torch.zeros(len(scores), scores.shape[1] + 1, dtype=torch.bool, device=scores.device)
    which = which & (tokens >= 0) & (tokens < scores.shape[1])
    out.scatter_(1, torch.where(which, tokens, scores.shape[1]), True)
    return scores.masked_fill(out[:, :-1], NEVER)


def text_rules(options: Options, prompt: int) -> list[Rule]:
    """What the options ask of a text behind a prompt of so many tokens, in transformers' order."""
    o = options
    rules: list[Rule] = []
    if o.repetition_penalty != 1:
        rules.append(RepetitionPenalty(o.repetition_penalty))
    if o.no_repeat_ngram_size:
        rules.append(NoRepeatNgram(o.no_repeat_ngram_size))
    if o.bad_words_ids:
        rules.append(BadWords(o.bad_words_ids))
    if o.min_new_tokens and o.eos_token_id:
        rules.append(Suppress(o.eos_token_id, until=prompt + o.min_new_tokens))
    if o.forced_bos_token_id is not None:
        rules.append(Force([o.forced_bos_token_id], at=1))
    if o.forced_eos_token_id:
        rules.append(Force(o.forced_eos_token_id, at=prompt + o.max_new_tokens - 1))
    if o.suppress_tokens:
        rules.append(Suppress(o.suppress_tokens))
    return rules


def drawing_rules(temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0, min_p: float = 0.0, least: int = 1) -> list[Rule]:
    """How tokens are drawn; `least` of them are left, whatever is filtered."""
    rules: list[Rule] = []
    if temperature != 1:
        rules.append(Temperature(temperature))
    if top_k:
        rules.append(TopK(top_k, least))
    if top_p < 1:
        rules.append(TopP(top_p, least))
    if min_p:
        rules.append(MinP(min_p))
    return rules


def applied(rules: Sequence[Rule], ids: Tensor, scores: Tensor) -> Tensor:
    for rule in rules:
        scores = rule(ids, scores)
    return scores
