"""Texts while they are written: pieces, stop strings, streams."""

from __future__ import annotations

import pytest
import torch

from tests.generate.programs import placeholders, prompt, writer
from vlmgraph.diagnostics import DiagnosticError
from vlmgraph.diagnostics import codes as C
from vlmgraph.lower.generate import TextStreamer, stream
from vlmgraph.processor.stream import Pieces, StopText

NAME = "fuyu-8b"


def utf8(ids):
    return bytes(ids).decode("utf-8", "replace")


def words(ids):
    """As SentencePiece decodes: the space in front of the first word is left out, id 0 writes nothing."""
    return "".join(["", " the", " cat", "s", " </", "answer", ">", "."][i] for i in ids).removeprefix(" ")


def test_a_letter_waits_for_its_last_byte():
    pieces = Pieces(utf8)
    got = [pieces.push(b) for b in "aé日".encode()]
    assert got == ["a", "", "é", "", "", "日"] and pieces.end() == ""
    cut = Pieces(utf8)
    assert [cut.push(b) for b in "x日".encode()[:-1]] == ["x", "", ""] and cut.end() == "\ufffd"


def test_pieces_make_the_text():
    ids = [1, 2, 0, 3, 7, 1, 2, 4, 5, 6, 0]
    pieces = Pieces(words)
    parts = [pieces.push(i) for i in ids] + [pieces.end()]
    assert "".join(parts) == words(ids) == "the cats. the cat </answer>" and parts[5] == " the"


@pytest.mark.parametrize(
    ("string", "at"), [("</answer>", 10), ("answer", 9), ("s. t", 6), ("wer>", 10), ("the", 1), ("t </an", 9), ("dog", None), (" the", 6)]
)
def test_a_stop_string_may_span_tokens(string, at):
    ids = [1, 2, 0, 3, 7, 1, 2, 4, 5, 6, 0]
    for padding in (0, 30):  # a long text in front, of which the end alone is decoded
        test, row = StopText([string], words), [0] * padding + ids
        assert next((n - padding for n in range(padding + 1, len(row) + 1) if test(row[:n])), None) == at


def test_a_long_text_is_not_decoded_again_and_again():
    sizes: list[int] = []

    def counted(ids):
        sizes.append(len(ids))
        return utf8(ids)

    test, pieces, row = StopText(["END"], counted), Pieces(counted), [ord("a")] * 400
    assert not any(test(row[:n]) for n in range(1, 401)) and all(pieces.push(i) == "a" for i in row)
    assert max(sizes) <= 16


def test_generation_ends_at_a_string_row_by_row():
    model, processor = writer(NAME)
    given, options = prompt(NAME), {"max_new_tokens": 12, "pad_token_id": 1, "suppress_tokens": placeholders(NAME)}
    before = given["input_ids"].shape[1]
    whole = model.generate(**given, **options)[:, before:]
    texts = [[processor.decode(row[:n]) for n in range(1, 13)] for row in whole.tolist()]
    string = texts[0][-1][3:5]  # of two letters, so of two tokens
    ends = [next((n for n, t in enumerate(row, 1) if string in t), 12) for row in texts]
    got = model.generate(**given, **options, stop_strings=string, processor=processor)[:, before:]
    assert len(string) == 2 and ends[0] < 12 and got.shape[1] == max(ends)
    for row, end in enumerate(ends):
        assert torch.equal(got[row, :end], whole[row, :end]) and (got[row, end:] == 1).all()


def test_text_is_streamed_as_it_comes():
    model, processor = writer(NAME)
    given, options = prompt(NAME, batch=1), {"max_new_tokens": 8, "suppress_tokens": placeholders(NAME)}
    new = model.generate(**given, **options)[0, given["input_ids"].shape[1] :]
    text = processor.decode(new.tolist())
    assert "".join(model.stream(processor, **given, **options)) == text and text
    parts: list[str] = []
    model.generate(**given, **options, streamer=TextStreamer(processor, parts.append))
    assert "".join(parts) == text and len(parts) > 1
    first = next(iter(stream(model, processor, **given, **{**options, "max_new_tokens": 10**6})))  # nothing is written ahead
    assert text.startswith(first)
    with pytest.raises(DiagnosticError) as caught:
        stream(model, processor, **prompt(NAME), **options)
    assert caught.value.diagnostics[0].code == C.BAD_OPTION


def test_a_streamer_of_transformers_gets_the_prompt_and_the_end():
    got: list[object] = []

    class Streamer:
        def put(self, value):
            got.append(value.shape)

        def end(self):
            got.append("end")

    given = prompt(NAME, batch=1)
    writer(NAME)[0].generate(**given, max_new_tokens=3, streamer=Streamer())
    assert got == [given["input_ids"].shape, (1,), (1,), (1,), "end"]


def test_beams_end_at_a_string_too():
    model, processor = writer(NAME)
    given = prompt(NAME)
    options = {
        "max_new_tokens": 8,
        "num_beams": 3,
        "num_return_sequences": 3,
        "pad_token_id": 1,
        "suppress_tokens": (1, *placeholders(NAME)),
    }
    before = given["input_ids"].shape[1]
    string = processor.decode(model.generate(**given, **options)[0, before:].tolist())[2:4]
    ended = 0
    for row in model.generate(**given, **options, stop_strings=[string], processor=processor)[:, before:].tolist():
        length = next((n for n in range(1, 9) if string in processor.decode(row[:n])), None)
        ended += length is not None
        assert all(i == 1 for i in row[length or 8 :]) and 1 not in row[: length or 8]
    assert len(string) == 2 and ended


def test_what_a_caller_brings_is_asked():
    """Criteria and processors, as transformers calls them: ids and scores."""
    model, given = writer(NAME)[0], prompt(NAME)
    before = given["input_ids"].shape[1]

    def upwards(ids, scores):
        assert ids.shape[0] == scores.shape[0] == 2
        out = torch.full_like(scores, float("-inf"))
        out[:, 20 + ids.shape[1] - before] = 0
        return out

    made = model.generate(**given, max_new_tokens=9, logits_processor=[upwards], stopping_criteria=[lambda ids, scores: ids[:, -1] == 24])
    assert made[:, before:].tolist() == [[20, 21, 22, 23, 24]] * 2
    halves = [lambda ids, scores: torch.tensor([ids.shape[1] - before == 2, False])]
    made = model.generate(**given, max_new_tokens=4, logits_processor=[upwards], stopping_criteria=halves, pad_token_id=3)
    assert made[:, before:].tolist() == [[20, 21, 3, 3], [20, 21, 22, 23]]
